"""The command line, called in this process (quick: torch is loaded once) or in one of its own (true: argv, signals, pipes)."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "Review: {{ text }}\nSentiment:"


@dataclass(frozen=True)
class Said:
    """What a command returned and printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON object on standard output; NaN and Infinity are not JSON."""
        return json.loads(self.out, parse_constant=_refuse)

    def complaint(self, several: bool = False) -> list[str]:
        """The lines of an error, one or two; notes about the work before it may stand above them.

        A recipe may have `several` mistakes, each in a line.
        """
        assert self.out == ""
        assert "Traceback" not in self.err
        assert self.err.endswith("\n")
        lines = self.err.split("\n")[:-1]
        starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
        assert len(starts) == 1 or (several and starts), self.err
        said = lines[starts[-1] :]
        assert len(said) == 1 or (len(said) == 2 and said[1].startswith("hint: ")), self.err
        assert not said[0].startswith("error: unexpected"), self.err
        assert not re.search(r"[^.]\.$", said[0]), self.err
        return [*(lines[start] for start in starts[:-1]), *said]


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Stream(io.TextIOWrapper):
    """A stream of text that keeps its bytes; a terminal if it is told to be."""

    def __init__(self, data: bytes, encoding: str, errors: str = "strict", terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data), encoding, errors, write_through=True)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def text(self) -> str:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """said("freeze", ..., stdin=b""): a command line run here, its streams those of a pipeline."""
    from ctxtune.cli import console, main

    def said(*args: str | Path, stdin: bytes | None = b"", encoding: str = "utf-8", terminal: bool = False) -> Said:
        out = Stream(b"", encoding, terminal=terminal)
        err = Stream(b"", encoding, "backslashreplace", terminal)
        with monkeypatch.context() as patch:
            patch.setattr(main.Debug, "on", False)
            patch.setattr(console.Quiet, "on", False)
            patch.setattr(sys, "argv", ["ctxtune", *map(str, args)])
            patch.setattr(sys, "stdin", None if stdin is None else Stream(stdin, encoding, terminal=terminal))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as exit_:
                main.run()
        code = exit_.value.code
        assert code is None or isinstance(code, int)
        return Said(code or 0, out.text(), err.text())

    return said


def command_line(*args: str | bytes | Path) -> list[str | bytes | Path]:
    return [sys.executable, "-m", "ctxtune", *args]


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """process("--help", env={...}): a command line in a fresh interpreter, in an empty folder."""

    def process(
        *args: str | bytes | Path, stdout: int = subprocess.PIPE, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command_line(*args), stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, cwd=tmp_path,
            env=environment() | (env or {}), check=False, timeout=120,
        )  # fmt: skip

    return process


def environment() -> dict[str, str]:
    """The package of this checkout, whatever else is installed; compiled once, as for users."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def task(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a run that works and takes a moment: all but the command and --out."""
    folder = tmp_path_factory.mktemp("task")
    rows = [
        {"text": text + "!" * i, "label": label}
        for i in range(3)
        for text, label in [("a fine film", "positive"), ("dull and long", "negative"), ("great fun", "positive")]
    ]
    train = folder / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shutil.copy(train, folder / "dev.jsonl")
    return [
        "--model", str(model_folders["llama-tied"]), "--train", str(train), "--eval", str(folder / "dev.jsonl"),
        "--prompt", PROMPT, "--answer", "{{ label }}", "--choices", "negative,positive", "--layers", "last:1",
        "--batch", "4", "--lr", "0.001", "--device", "cpu", "--set", "forget.probe=none", "--set", "train.steps=2",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def adapted(task: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("adapted")
    finish(["freeze", *task, "--out", str(folder / "run"), "--quiet"], folder / "home")
    return folder / "run"


@pytest.fixture(scope="session")
def shown(task: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter from examples."""
    folder = tmp_path_factory.mktemp("shown")
    given = pick(task, "--model", "--train", "--eval", "--prompt", "--answer", "--choices", "--device")
    finish(["fewshot", *given, "--shots", "1", "--save", str(folder / "adapter"), "--quiet"], folder / "home")
    return folder / "adapter"


def finish(args: list[str], home: Path) -> None:
    """A command line that ends well."""
    from ctxtune.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTXTUNE_HOME", str(home))
        patch.setattr(sys, "argv", ["ctxtune", *args])
        patch.setattr(sys, "stdout", io.StringIO())
        with pytest.raises(SystemExit) as exit_:
            main.run()
    assert not exit_.value.code


@pytest.fixture
def typed(said: Callable[..., Said], task: list[str]) -> Callable[[str], Said]:
    """typed("recipe list"): a line as it is typed; two words stand for long beginnings, of which the last of an option counts.

    `adapt`: freeze with every option of a run that works, into the folder `new`; `score` and `write`: eval and generate of a
    good model.
    """

    def typed(line: str) -> Said:
        word, *rest = shlex.split(line)
        if word == "adapt":
            return said("freeze", *but(task, *rest), "--out", "new", *rest)
        if word == "score":
            return said(
                "eval", *pick(task, "--model", "--eval", "--prompt", "--answer", "--choices", "--device"), *rest
            )
        if word == "write":
            return said("generate", *pick(task, "--model", "--device"), *rest)
        return said(word, *rest)

    return typed


def but(task: list[str], *names: str) -> list[str]:
    """All options of a task but some: `--train` given twice would be two files."""
    return pick(task, *(name for name in task[::2] if name not in names or name == "--set"))


def pick(task: list[str], *names: str) -> list[str]:
    """Some of the options of a task."""
    pairs = zip(task[::2], task[1::2], strict=True)
    return [part for name, value in pairs if name in names for part in (name, value)]
