"""The completion scripts are what the command tree says, and complete in a real shell that has no Python to start."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "completions"
# The line so far, the word to complete last -> what must be offered, all of it.
LINES = {
    "fr": {"freeze"},
    "adapter ": {"show", "verify", "merge", "export", "compose", "diff", "scale"},
    "--debug ada": {"adapter"},
    "adapter me": {"merge"},
    "adapter compose ro": {"rows.jsonl", "rows two.jsonl"},
    "freeze --ca": {"--cache"},
    "freeze --cache ": {"auto", "memory", "disk", "off"},
    "freeze --device c": {"cpu", "cuda"},
    "freeze --layers last:2 --dev": {"--device"},
    "freeze quick": {"quickstart"},
    "freeze --train ro": {"rows.jsonl", "rows two.jsonl"},
    "freeze --train=ro": {"rows.jsonl", "rows two.jsonl"},
    "freeze --prompt r": set(),
    "freeze --set train.sch": {"train.schedule="},
    "adapter merge x --dtype=b": {"bfloat16"},
    "model pull smol": {"smollm2-135m-instruct", "smollm2-135m-instruct-q4"},
    "recipe check --jso": {"--json"},
    "recipe show freeze --jso": set(),
    "quickstart q": set(),
    "nothing": set(),
}


def generate(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "generate.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_scripts_are_what_the_generator_writes() -> None:
    answer = generate("--check")
    assert answer.returncode == 0, answer.stderr


def test_a_stale_script_is_noticed_and_written_anew(tmp_path: Path) -> None:
    shutil.copytree(FOLDER.parent / "ctxtune", tmp_path / "ctxtune", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(FOLDER.parent / "templates", tmp_path / "templates")
    shutil.copytree(FOLDER, tmp_path / "completions")
    script, zsh = tmp_path / "completions" / "ctxtune.bash", tmp_path / "completions" / "ctxtune.zsh"
    script.write_text(script.read_text().replace("freeze", "frieze"))
    zsh.unlink()
    command = [sys.executable, str(tmp_path / "completions" / "generate.py")]
    check = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False, timeout=60)
    assert check.returncode == 1
    assert check.stderr.startswith("stale: ctxtune.bash, ctxtune.zsh;")
    subprocess.run(command, check=True, timeout=60)
    assert script.read_text() == (FOLDER / "ctxtune.bash").read_text()
    assert zsh.read_text() == (FOLDER / "ctxtune.zsh").read_text()


def test_the_generator_asks_what_a_new_option_takes() -> None:
    """An option that takes a value and is not in its table is an error, not a gap."""
    code = f"""
import sys, typer
sys.path.insert(0, {str(FOLDER)!r})
import generate
app = typer.Typer()
@app.command()
def one(new: str = typer.Option("", "--new-thing", help="x.")) -> None: ...
generate._command(typer.main.get_command(app), ("ctxtune",), {{}})
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 1
    assert "'new-thing'" in answer.stderr


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder of files, and one of programs in which every Python fails loudly."""
    for name in ("rows.jsonl", "rows two.jsonl", "other.csv"):
        (tmp_path / name).touch()
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("python", "python3", "ctxtune"):
        (programs / name).write_text("#!/bin/sh\ntouch started\n")
        (programs / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("line", LINES)
def test_bash_completes(line: str, desk: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    # As readline has it: = and : are words of their own.
    script = """
. "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_ctxtune
printf '%s\\n' "${COMPREPLY[@]}"
"""
    words = [word for part in f"ctxtune {line}".split(" ") for word in split_as_readline(part)]
    answer = subprocess.run(
        [bash, "--norc", "--noprofile", "-u", "-c", script, "bash", str(FOLDER / "ctxtune.bash"), *words],
        capture_output=True, text=True, check=False, cwd=desk, env={"PATH": str(desk / "programs")}, timeout=20,
    )  # fmt: skip
    assert answer.stderr == ""
    assert set(answer.stdout.split("\n")) - {""} == LINES[line]
    assert not (desk / "started").exists()


def split_as_readline(word: str) -> list[str]:
    for sign in "=:":
        before, found, after = word.partition(sign)
        if found and word.startswith(("-", "last")):
            return [before, sign, after] if after or sign == ":" else [before, sign]
    return [word]


@pytest.mark.parametrize("line", LINES)
def test_fish_completes(line: str, desk: Path) -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed")
    script = f"source '{FOLDER / 'ctxtune.fish'}'; complete -C 'ctxtune {line}'"
    answer = subprocess.run(
        [fish, "--no-config", "-c", script], capture_output=True, text=True, check=False, cwd=desk, timeout=20,
        env={"PATH": str(desk / "programs"), "HOME": str(desk)},
    )  # fmt: skip
    assert answer.stderr == ""
    offered = {row.split("\t")[0] for row in answer.stdout.split("\n")} - {""}
    begun = line.split(" ")[-1].partition("=")
    assert {word.removeprefix(f"{begun[0]}=") if begun[1] else word for word in offered} == LINES[line]
    assert not (desk / "started").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_have_no_syntax_error(shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    answer = subprocess.run(
        [program, "-n", str(FOLDER / f"ctxtune.{shell}")], capture_output=True, check=False, timeout=20
    )
    assert (answer.returncode, answer.stderr) == (0, b"")


def test_every_script_knows_every_command_and_option() -> None:
    from typer.main import get_command

    from ctxtune.cli.main import app

    def spellings(command: object) -> set[str]:
        own = {name for param in command.params if param.param_type_name == "option" for name in param.opts}
        children = getattr(command, "commands", {})
        return own | set(children) | {name for child in children.values() for name in spellings(child)}

    wanted = spellings(get_command(app))
    bash, zsh = ((FOLDER / f"ctxtune.{shell}").read_text() for shell in ("bash", "zsh"))
    fish = (FOLDER / "ctxtune.fish").read_text()
    assert [name for name in wanted if name not in bash] == []
    assert [name for name in wanted if name not in zsh] == []
    assert [name for name in wanted if f" {name.replace('--', '-l ', 1)} " not in fish and len(name) > 2] == []
