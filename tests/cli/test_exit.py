"""How the process ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.commands.run_folder import open_run

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_process_ends_at_once_and_yet_properly() -> None:
    """What was to be done at exit is done, what was printed arrives, and the exit code is the command's."""
    script = (
        "import atexit, sys; from ctxtune.cli import main; "
        "atexit.register(print, 'said at exit'); sys.argv = ['ctxtune', *sys.argv[1:]]; main.main()"
    )
    shown = subprocess.run([sys.executable, "-c", script, "recipe", "list"], capture_output=True, text=True, check=True)
    assert shown.stdout.endswith("said at exit\n")
    assert "freeze" in shown.stdout
    wrong = subprocess.run([sys.executable, "-c", script, "nonsense"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "said at exit\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to write to")
@pytest.mark.parametrize("command", ["from ctxtune.cli.main import run as app", "app = lambda: print('short')"])
def test_a_full_disk_behind_standard_output_is_told(command: str) -> None:
    """Where the command meets it, and where the last of its output still waits to be written."""
    script = (
        f"import sys; from ctxtune.cli import main; {command}; main.run = app; "
        "sys.argv = ['ctxtune', 'recipe', 'list']; main.main()"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


NAMED = (
    ("freeze {task} --out /proc/foo", "/proc/foo cannot be written: No such file or directory"),
    ("freeze {task} --out {file}/x", "file/x cannot be written: Not a directory"),
    ("freeze {task} --out {file}", "file is a file, and a run needs a folder"),
    ("freeze {task} --out {held}", "held: another run is writing there"),
    ("adapter merge {adapted} --out {full}", "full exists already"),
    ("adapter merge {adapted} --out /proc/foo", "/proc/foo cannot be written"),
    ("adapter merge {adapted} --out {file}/x", "file/x cannot be written"),
    ("adapter export {adapted} --out {full}", "full holds 'mine.txt', which is no part of an adapter"),
    ("adapter export {adapted} --out /proc/foo", "/proc/foo cannot be written"),
    ("adapter export {adapted} --out {file}/x", "file/x cannot be written"),
    ("eval --adapter {adapted} --save {file}/x", "file is no folder"),
    ("eval --adapter {adapted} --save /proc/foo", "/proc/foo cannot be written"),
    ("recipe new freeze --out {file}/x.yaml", "file/x.yaml cannot be written"),
)


@pytest.mark.parametrize(("line", "told"), NAMED, ids=[line for line, _ in NAMED])
def test_a_place_that_cannot_be_used_is_a_mistake_of_usage(
    line: str, told: str, said: Callable[..., Any], task: list[str], adapted: Path, tmp_path: Path
) -> None:
    """Exit code 2: another place helps."""
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    places = {"adapted": str(adapted), **{name: str(tmp_path / name) for name in ("file", "full", "held")}}
    given = [word for part in line.split() for word in (task if part == "{task}" else [part.format(**places)])]
    with open_run(tmp_path / "held", resume=False):
        done = said(*given)
    assert (done.code, told in done.complaint()[0]) == (2, True), done.err
    assert {path.name for path in tmp_path.iterdir()} - {"home"} == {"file", "full"}
