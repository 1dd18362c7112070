"""`--help` of every command: it says what each option does, at once, and wakes nothing heavy."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "numpy", "safetensors", "gguf")
LATE = (*HEAVY, "pydantic", "jinja2", "yaml")


def walk(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command and group with the words that lead to it."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, *path, name)


def tree() -> dict[tuple[str, ...], Any]:
    from typer.main import get_command

    from ctxtune.cli.main import app

    return dict(walk(get_command(app)))


TREE = tree()


@pytest.mark.parametrize("path", TREE, ids=[" ".join(path) or "ctxtune" for path in TREE])
def test_help_shows_every_option_with_its_text(path: tuple[str, ...], said: Callable[..., Any]) -> None:
    answer = said(*path, "--help")
    assert answer.code == 0
    assert answer.err == ""
    shown = " ".join(answer.out.split())
    command = TREE[path]
    assert words(command.help)[:60] in shown
    for param in command.params:
        assert param.help, param.name
        # Long names are set on a line of their own; the text beside them is wrapped.
        assert words(param.help) in shown, param.name
        for spelling in param.opts if param.param_type_name == "option" else ():
            assert spelling in shown
    for name, child in getattr(command, "commands", {}).items():
        assert f"{name} " in shown
        assert words(child.help)[:30] in shown


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("path", TREE, ids=[" ".join(path) or "ctxtune" for path in TREE])
def test_help_is_written_in_sentences(path: tuple[str, ...]) -> None:
    command = TREE[path]
    texts = [command.help, *(param.help for param in command.params if not param.name.endswith("_completion"))]
    for text in texts:
        assert text.isascii()
        assert text[0].isalnum()
        assert words(text).endswith(".")


@pytest.mark.parametrize("path", TREE, ids=[" ".join(path) or "ctxtune" for path in TREE])
def test_h_is_help(path: tuple[str, ...], said: Callable[..., Any]) -> None:
    assert said(*path, "-h") == said(*path, "--help")


def test_the_command_line_wakes_nothing_heavy() -> None:
    script = f"import sys, ctxtune.cli.main; print(sorted(set({LATE!r}) & set(sys.modules)))"
    answer = python(script)
    assert answer.stdout.strip() == "[]", answer.stderr


def test_no_help_text_wakes_anything_heavy() -> None:
    script = f"""
import contextlib, io, sys
from ctxtune.cli.main import app
for path in {list(TREE)!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            app([*path, "--help"])
        except SystemExit as exit_:
            assert not exit_.code, path
    assert "Usage" in out.getvalue(), path
print(sorted(set({LATE!r}) & set(sys.modules)))
"""
    answer = python(script)
    assert answer.stdout.strip() == "[]", answer.stderr


def python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )


@pytest.mark.parametrize(
    ("args", "code", "limit"),
    [
        (["--help"], 0, 0.45),
        (["freeze", "--help"], 0, 0.45),
        (["adapter", "merge", "--help"], 0, 0.45),
        (["run", "quickstart", "--set", "train.epocs=3"], 2, 0.6),
        (["freeze", "--model", "x", "--set", "trian.lr=3"], 2, 0.6),
    ],
)
def test_an_answer_without_a_model_is_instant(
    args: list[str], code: int, limit: float, process: Callable[..., Any]
) -> None:
    """Seconds of processor time, which other work on the machine moves less than the clock; the least of a dozen at most."""

    def cost() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process(*args).returncode == code
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(cost() < limit for _ in range(12))


def test_python_m_is_the_command(process: Callable[..., Any]) -> None:
    from ctxtune import __version__

    assert process("--version").stdout.decode() == f"ctxtune {__version__}\n"


def test_a_bare_command_line_shows_the_commands(said: Callable[..., Any]) -> None:
    answer = said()
    assert answer.code == 2
    assert "quickstart" in answer.out + answer.err
