"""A conversation on a terminal: lines are read with line editing, answers appear as they are made."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.cli import console
from ctxtune.errors import CtxtuneError

if TYPE_CHECKING:
    from ctxtune.commands.session import Session


def converse(flags: Mapping[str, object], adapter: Path | None, force: bool) -> None:
    """Read and answer until Ctrl-D or /quit. Ctrl-C stops an answer, or drops the line that is being typed."""
    from ctxtune.commands.session import Session

    session = Session(flags, adapter, force, console.note)
    _edit_lines()
    console.note(session.greeting())
    while True:
        try:
            line = _read()
            if line.startswith("/"):
                words = session.obey(line)
                if words is None:
                    return
                console.emit_text(words)
            elif line.strip():
                _answer(session, line)
        except CtxtuneError as error:
            console.fail(str(error), error.hint)
        except KeyboardInterrupt:
            console.note("")
        except EOFError:
            console.emit_text("")
            return


def _answer(session: "Session", line: str) -> None:
    answer = session.ask(line)
    try:
        console.emit_pieces(answer)
    finally:
        answer.close()


def _read() -> str:
    """A line; as long as it ends in a backslash, with the next one."""
    lines = [input("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(". "))
    return "\n".join(lines)


def _edit_lines() -> None:
    try:
        import readline  # noqa: F401  (being there is enough: `input` uses it)
    except ImportError:  # a Python that was built without it
        return
