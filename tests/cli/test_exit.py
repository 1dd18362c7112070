"""How the process ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


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
