"""The command `ctxtune`: its tree of commands, and the one place where an error becomes a line and an exit code."""

import atexit
import errno
import gc
import os
import sys
import time
from typing import Annotated, Any

import typer

from ctxtune import __version__
from ctxtune.cli import (
    adapter,
    cache,
    console,
    data,
    evaluate,
    fewshot,
    freeze,
    generate,
    interrupt,
    mask,
    model,
    pretrain,
    prompt,
    quickstart,
    recipe,
)
from ctxtune.cli.group import Group
from ctxtune.errors import CtxtuneError, Interrupted, LostError, OutOfMemoryError, StorageError

_LEADER_FIRST = 3.0  # seconds

app = typer.Typer(
    cls=Group,
    help="Adapt a language model that lies on your own disk, and say what it forgot.",
    no_args_is_help=True,
    add_completion=False,  # completions/ holds static ones, which need no Python at each TAB
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("quickstart")(quickstart.quickstart)
app.command("pretrain")(pretrain.pretrain)
app.command("freeze")(freeze.freeze)
app.command("mask")(mask.mask)
app.command("prompt")(prompt.prompt)
app.command("fewshot")(fewshot.fewshot)
app.command("run")(freeze.run)
app.command("eval")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.add_typer(adapter.app, name="adapter")
app.add_typer(model.app, name="model")
app.add_typer(data.app, name="data")
app.add_typer(cache.app, name="cache")
app.add_typer(recipe.app, name="recipe")


def _version(wanted: bool) -> None:
    if wanted:
        console.emit_text(f"ctxtune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    Debug.on = debug


class Debug:
    """Set once by --debug: errors show where they came from."""

    on = False


def main() -> None:
    """The command: run, and out at once. To free the million objects of torch and transformers one by one takes a second."""
    code: Any = 0
    try:
        interrupt.raises()
        run()
    except SystemExit as done:
        code = done.code
    except KeyboardInterrupt:  # a second one, while the first was being told of
        code = 130
    interrupt.ends_at_once()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = 0
    except OSError as error:
        console.fail(f"standard output: {error.strerror}", None)
        code = StorageError.exit_code
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def run() -> None:
    """Run the command line; never shows a traceback unless --debug asks for it."""
    # Threads that wait for each other by spinning for milliseconds slow a run down many times over as soon as anything else
    # needs a core: products ran at 20 to 37 GFLOP/s with one busy neighbour, at 48 with this count, at 53 with a tenth of it.
    # Threads that fall asleep too soon cost a quiet machine as much: a tenth of this count made a run 8 % slower. torch's
    # OpenMP reads this when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Importing torch and transformers makes a million objects that all stay: looking through them for garbage after every
    # 700 new ones took a second of each start.
    gc.set_threshold(200_000, 30, 30)
    try:
        console.set_up_streams()
        sys.exit(app(standalone_mode=False) or 0)
    except CtxtuneError as error:
        _leave(error)
    except BrokenPipeError:
        # The reader went away: that is how a pipeline ends. Python would complain again while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except MemoryError as error:
        _leave(
            OutOfMemoryError("memory ran out", "a smaller --set train.micro_batch or --cache disk needs less"), error
        )
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        text = f"{error.filename or 'standard output or a file'}: {error.strerror or error}"
        _leave(StorageError(text, "free some room on that disk" if full else None), error)
    except KeyboardInterrupt:
        console.fail("interrupted", None)
        sys.exit(130)
    except Exception as error:
        if hasattr(error, "format_message"):
            _usage(error)
        # The last net: whatever slipped through is a bug of ours, and still only one line for the user.
        if _is_memory(error):
            _leave(OutOfMemoryError("memory ran out", "a smaller --set train.micro_batch needs less"), error)
        text = " ".join(str(error).split()) or "no message"
        _leave(CtxtuneError(f"unexpected: {type(error).__name__}: {text}", "this is a bug; --debug shows where"), error)


def _usage(error: Any) -> None:
    """What Typer could not read: its words, in our form. Called with nothing at all, a group shows its help."""
    message = error.format_message()
    for detail in (
        error.__cause__.errors() if hasattr(error.__cause__, "errors") else ()
    ):  # pydantic's, without the value
        should = detail["msg"].partition(",")[0].removeprefix("Input ")
        message = f"{error.param.opts[0]} is {detail['input']!r}, it {should}"
    if type(error).__name__ == "NoArgsIsHelpError":
        console.emit_text(message)
        sys.exit(2)
    path = error.ctx.command_path if error.ctx is not None else "ctxtune"
    console.fail(" ".join(message.split()), f"{path} --help shows what there is")
    sys.exit(2)


def _is_memory(error: Exception) -> bool:
    return "DefaultCPUAllocator" in str(error) or type(error).__name__ == "OutOfMemoryError"


def _leave(error: CtxtuneError, cause: BaseException | None = None) -> None:
    if Debug.on:
        raise cause or error
    if console.Quiet.follows or isinstance(error, LostError):
        # The leader meets the same, or whoever started the processes knows more, and ends this one as well.
        time.sleep(_LEADER_FIRST)
    if not (console.Quiet.follows and isinstance(error, Interrupted)):
        console.fail(str(error), error.hint)
    sys.exit(error.exit_code)
