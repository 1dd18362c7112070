"""What the README says is so: its tree, its commands, its recipe, and the places to touch for a new method."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    """The contents of the fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """The text under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no section {title!r}"
    return found[1]


def drawn_files(text: str) -> dict[str, str]:
    """Path -> what it is, of an indented tree: a folder ends in a slash, and what is indented below it lies in it."""
    files, folders = {}, []
    for line in text.splitlines():
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        name, _, about = line.strip().partition(" ")
        while folders and folders[-1][0] >= indent:
            folders.pop()
        if name.endswith("/"):
            folders.append((indent, name))
        else:
            files["".join(folder for _, folder in folders) + name] = about.strip().lstrip("#").strip()
    return files


def drawn() -> dict[str, str]:
    found = re.search(r"^<!-- tree -->\n```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, "README.md has no block after <!-- tree -->"
    return drawn_files(found[1])


def test_a_tree_is_read_as_it_is_drawn() -> None:
    text = """
ctxtune/
  errors.py   the errors
  backend/    below
    trunk.py  # runs

    deep/
      x.py    x
  main.py     m
"""
    assert drawn_files(text) == {
        "ctxtune/errors.py": "the errors",
        "ctxtune/backend/trunk.py": "runs",
        "ctxtune/backend/deep/x.py": "x",
        "ctxtune/main.py": "m",
    }


def test_the_tree_names_every_file_and_no_other() -> None:
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "ctxtune").rglob("*.py") if path.stat().st_size}
    assert set(drawn()) == there


def test_the_tree_says_what_each_file_is() -> None:
    assert [path for path, about in drawn().items() if len(about.split()) < 2] == []


def test_the_tree_is_in_the_order_of_the_eye() -> None:
    """Inside a folder by name."""
    folders: dict[str, list[str]] = {}
    for path in drawn():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, []).append(name)
    for names in folders.values():
        assert names == sorted(names)


def command_lines(shell: str) -> list[list[str]]:
    """Every call of ctxtune in a piece of shell, without the program's name and what stands before and after it."""
    lexer = shlex.shlex(shell.replace("\\\n", " "), posix=True, punctuation_chars="|&;<>\n")
    lexer.whitespace, lexer.whitespace_split = " \t", True
    found, words = [], []
    for word in [*lexer, "\n"]:
        if set(word) - set("|&;<>\n"):
            words.append(word)
            continue
        if words and Path(words[0]).name == "ctxtune":
            found.append(words[1:])
        words = []
    return found


def test_command_lines_are_found_in_shell() -> None:
    shell = "ctxtune a --p 'x\ny | z' \\\n  --out r\necho ctxtune | .venv/bin/ctxtune b > f && ctxtune c # no\n"
    assert command_lines(shell) == [["a", "--p", "x\ny | z", "--out", "r"], ["b"], ["c"]]


SHOWN = [line for block in blocks("sh") for line in command_lines(block)]


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words lead to, and the words that are left for it."""
    from typer.main import get_command

    from ctxtune.cli.main import app

    command: Any = get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        assert rest, "a group of commands is no command"
        assert rest[0] in command.commands, f"no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    return command, rest


def test_the_readme_shows_command_lines() -> None:
    assert {"quickstart", "freeze", "eval", "generate", "model"} <= {words[0] for words in SHOWN}


@pytest.mark.parametrize("words", SHOWN, ids=lambda words: " ".join(words)[:60])
def test_a_command_line_of_the_readme_can_be_parsed(words: list[str]) -> None:
    command, rest = find_command(words)
    command.make_context(words[0], rest)


def test_a_wrong_command_line_would_be_noticed() -> None:
    command, rest = find_command(["freeze", "--epocs", "3"])
    with pytest.raises(Exception, match="--epocs"):
        command.make_context("freeze", rest)
    with pytest.raises(AssertionError, match="frieze"):
        find_command(["frieze"])


MENTIONED = sorted(
    {
        span.replace("\\|", "|")
        for span in re.findall(r"`(ctxtune [^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    }
)


def spelled_out(span: str) -> list[list[str]]:
    """`ctxtune model pull|list` is two command lines; brackets and capitals are places, not words."""
    lines: list[list[str]] = [[]]
    for word in span.replace("[", "").replace("]", "").split()[1:]:
        lines = [
            [*line, choice] for line in lines for choice in (word.split("|") if not word.startswith("-") else [word])
        ]
    return lines


@pytest.mark.parametrize("span", MENTIONED)
def test_a_command_mentioned_in_the_text_exists(span: str) -> None:
    for words in spelled_out(span):
        command, rest = find_command(words)
        options = {spelling for param in command.params for spelling in param.opts}
        for word in rest:
            if word.startswith("-"):
                assert word in options


def test_every_command_is_mentioned() -> None:
    from typer.main import get_command

    from ctxtune.cli.main import app

    def leaves(command: Any, *path: str) -> set[str]:
        children = getattr(command, "commands", {})
        if not children:
            return {" ".join(path)}
        return {leaf for name, child in children.items() for leaf in leaves(child, *path, name)}

    lines = [words for span in MENTIONED for words in spelled_out(span)] + SHOWN
    said = {" ".join(words[:size]) for words in lines for size in (1, 2)}
    assert leaves(get_command(app)) - said == set()


def test_adding_a_method_touches_files_that_exist() -> None:
    text = section("How to add a method")
    paths = re.findall(r"`([\w./]+/[\w./]*)`", text)
    assert len(paths) >= 4
    assert [path for path in paths if "NAME" not in path and not (ROOT / path).exists()] == []
    # A place for the new file: its folder is there.
    assert [path for path in paths if "NAME" in path and not (ROOT / path).parent.is_dir()] == []


def test_the_recipe_of_the_readme_is_a_recipe(tmp_path: Path) -> None:
    from ctxtune.commands.recipe import check

    recipes = [block for block in blocks("yaml") if block.startswith("ctxtune:")]
    assert recipes
    for block in recipes:
        (tmp_path / "readme.yaml").write_text(block, encoding="utf-8")
        check(str(tmp_path / "readme.yaml"))


def test_the_python_of_the_readme_is_python() -> None:
    assert blocks("python")
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_the_files_that_the_readme_names_are_there() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    named = re.findall(r"`((?:ctxtune|templates|tests|completions|\.ci)/[\w./]*)`", prose)
    assert named
    assert [path for path in named if "NAME" not in path and not (ROOT / path).exists()] == []


def test_the_command_that_runs_the_tests_is_marked_for_ci() -> None:
    found = re.findall(r"^<!-- test -->\n```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    assert "pytest" in found[0]
    assert found[0].count("\n") == 1
