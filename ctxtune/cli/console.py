"""Everything that is printed: results to standard output, progress and notes to standard error."""

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ctxtune.errors import StorageError

LONGEST = 800  # letters of an error's line


CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Quiet:
    """Set once by --quiet: no progress, no notes. Of several processes the leader alone speaks: the others follow."""

    on = False
    follows = False

    @classmethod
    def now(cls) -> bool:
        """Whether nothing is told by the way."""
        return cls.on or cls.follows


def emit(
    facts: Mapping[str, Any], as_json: bool, table: Callable[[], Any], lines: Callable[[], Iterable[str]] | None = None
) -> None:
    """The result of a command: one JSON object, or what `table` builds for people; in a pipe `lines`, if there are such."""
    if Quiet.follows:
        return
    if as_json:
        emit_json(facts)
        return
    if lines is not None and not sys.stdout.isatty():
        emit_text("\n".join(lines()))
        return
    from rich.console import Console

    # Piped into a file nobody's terminal width matters: lines are not broken there.
    console = Console(width=None if sys.stdout.isatty() else 200, soft_wrap=not sys.stdout.isatty())
    built = table()
    with reader():
        console.print(built)


def emit_json(facts: Mapping[str, Any]) -> None:
    """One JSON object on a line, in whatever letters the stream can hold."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    emit_text(json.dumps(facts, ensure_ascii=not utf8, default=str))


def emit_text(text: str) -> None:
    """Text to standard output as it is; on a terminal, control characters are spelled out."""
    _write(_for_reader(text if text.endswith("\n") else text + "\n"))


def _write(text: str) -> None:
    with reader():
        sys.stdout.write(text)
        sys.stdout.flush()


@contextmanager
def reader() -> Iterator[None]:
    """The reader of standard output may go away: that is how a pipeline ends.

    click would leave with 1, and Python complain again while it closes the stream.

    Raises:
        StorageError: it cannot be written otherwise, as on a full disk.
    """
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        raise StorageError(f"standard output: {error.strerror or error}", "send it to where there is room") from error


def emit_pieces(pieces: Iterable[str]) -> None:
    """Text to standard output piece by piece, ended by a line break; together what `emit_text` would print."""
    end = ""
    try:
        for piece in pieces:
            _write(_for_reader(piece))
            end = piece or end
    finally:
        if not end.endswith("\n"):
            _write("\n")


def emit_marked(parts: Iterable[tuple[str, bool]], between: str = "") -> None:
    """Text of which some parts are marked: coloured on a terminal, in [[ ]] elsewhere. Nothing in it may draw by itself."""
    spelled = [("".join(c if c in "\n\t" else _spelled(c) for c in text), marked) for text, marked in parts]
    if not sys.stdout.isatty():
        emit_text(between.join(f"[[{text}]]" if marked else text for text, marked in spelled))
        return
    from rich.console import Console
    from rich.text import Text

    joined = Text(between, style="dim").join(
        Text(text, style="bold green" if marked else "") for text, marked in spelled
    )
    Console().print(joined, soft_wrap=True)


def _for_reader(text: str) -> str:
    """What a model writes can hold what would move a terminal's cursor or name its window."""
    return text.translate(CONTROL) if sys.stdout.isatty() else text


def note(text: str) -> None:
    """One line to standard error."""
    if not Quiet.now():
        print(text, file=sys.stderr, flush=True)


def fail(message: str, hint: str | None) -> None:
    """An error: one line, and what to do. Names from outside may hold what would draw on the terminal: it is spelled out."""
    print(f"error: {_spelled(message).rstrip('.')}", file=sys.stderr)
    if hint:
        print(f"hint: {_spelled(hint)}", file=sys.stderr, flush=True)


def _spelled(text: str) -> str:
    if len(text) > LONGEST:  # a path or a value of thousands of letters would hide what is said of it
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def set_up_streams() -> None:
    """A letter that the terminal or the pipe cannot hold is written as an escape, never the end of a command.

    Raises:
        StorageError: standard output is closed, and the result would be lost; of standard error only notes are.
    """
    closed = sys.stdout is None
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # so Python has it then
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    if closed:
        raise StorageError("standard output is closed", "send it somewhere: > FILE, or > /dev/null")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def grid(title: str, columns: list[str], rows: list[list[Any]]) -> Any:
    """A table for people."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", show_header=any(columns)
    )  # fmt: skip
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table


def with_error(scores: Mapping[str, Any], key: str) -> str:
    """A number with its standard error, if it has one; what is not finite is a dash."""
    value, error = scores[key], scores.get(f"{key}_stderr")
    if value is None:
        return "-"
    return f"{value:.4f}" + (f" ± {error:.4f}" if error is not None else "")


def calibrated(name: str) -> str:
    """What the accuracy under a calibration is called."""
    return "acc, as it is" if name == "none" else f"acc, {name} calibration"


def check_kept(facts: Mapping[str, Any]) -> None:
    """After a result was printed: say that what every row gave could not be kept.

    Raises:
        StorageError: it could not.
    """
    if "unsaved" in facts:
        raise StorageError(facts["unsaved"], "the result above is whole; what every row gave is not kept")


class Progress:
    """The state of a run on standard error: a bar on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, every: float = 5.0) -> None:
        self._every = every
        self._printed = 0.0
        self._bar: Any = None
        self._task: Any = None

    def step(self, step: int, steps: int, loss: float, lr: float, tokens_per_second: float, left: float) -> None:
        """One training step: of `steps`, `left` seconds to go."""
        if Quiet.now():
            return
        facts = f"loss {loss:.4f}  lr {lr:.1e}  {tokens_per_second:,.0f} tokens/s"
        if sys.stderr.isatty():
            self._draw(step, steps, facts)
        elif step == steps or time.monotonic() - self._printed > self._every:
            self._printed = time.monotonic()
            note(f"step {step}/{steps}  {facts}  {left:.0f} s left")

    def _draw(self, step: int, steps: int, facts: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn(),
                console=Console(stderr=True),
            )  # fmt: skip
            self._task = self._bar.add_task("", total=steps)
            self._bar.start()
        self._bar.update(self._task, completed=step, description=facts)
        if step == steps:
            self.close()

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
