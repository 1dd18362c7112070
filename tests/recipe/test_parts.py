"""Several files to learn from, in a recipe, as options and written back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.cli import options
from ctxtune.errors import RecipeError
from ctxtune.recipe.data import Part
from ctxtune.recipe.dump import dump
from ctxtune.recipe.load import load

if TYPE_CHECKING:
    from pathlib import Path

BASIC = {"model": "m", "method.name": "freeze"}


def written(folder: Path, train: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "r.yaml").write_text(f"model: m\nmethod: {{name: freeze}}\ndata:\n  train: {train}\n")
    return str(folder / "r.yaml")


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    recipe = load(written(tmp_path / "sub", "[a.jsonl, {path: ../b.csv, weight: 0.5}, {path: c}]"), {}).recipe
    assert recipe.data.train == [
        str(tmp_path / "sub" / "a.jsonl"),
        Part(path=str(tmp_path / "b.csv"), weight=0.5),
        Part(path=str(tmp_path / "sub" / "c")),
    ]


def test_a_dump_reads_back(tmp_path: Path) -> None:
    resolved = load(written(tmp_path / "sub", "[a.jsonl, {path: '../b {.csv', weight: 2}]"), {})
    text = dump(resolved, relative_to=tmp_path)
    assert str(tmp_path) not in text
    (tmp_path / "again.yaml").write_text(text)
    again = load(str(tmp_path / "again.yaml"), {})
    assert again.recipe == resolved.recipe


def test_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = load(None, BASIC | options.flags(data__train=["a: b.jsonl"])).recipe
    assert one.data.train == str(tmp_path / "a: b.jsonl")
    two = load(None, BASIC | options.flags(data__train=["a.jsonl", "b.jsonl"])).recipe
    assert two.data.train == [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    sets = load(None, BASIC, ["data.train=[a.jsonl, {path: b.jsonl, weight: 3}]"]).recipe
    assert sets.data.train == [str(tmp_path / "a.jsonl"), Part(path=str(tmp_path / "b.jsonl"), weight=3)]
    assert load(None, BASIC, ["data.train=a: b.jsonl"]).recipe.data.train == str(tmp_path / "a: b.jsonl")
    assert load(None, BASIC, ["data.train='[a].jsonl'"]).recipe.data.train == str(tmp_path / "[a].jsonl")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("[]", "data.train is [], allowed: a text, not an empty one, or a list of them, each alone or as {path: ...,"),
        ("3", "data.train is 3, allowed: a text"),
        ("{path: a}", 'data.train is {"path": '),
        ("[a, 3]", "data.train: item 2: input should be a valid dictionary"),
        ("[a, '']", "data.train: item 2: string should have at least 1 character"),
        ("[a, [b]]", "data.train: item 2: input should be a valid dictionary"),
        ("[a, '-']", "data.train: - is standard input and stands alone"),
        ("[{weight: 1}]", "data.train: item 1: path: field required"),
        ("[{path: a, wieght: 1}]", "data.train: item 1: wieght: extra inputs are not permitted"),
        ("[{path: a, weight: 0}]", "data.train: item 1: weight: input should be greater than 0"),
        ("[{path: a, weight: .inf}]", "data.train: item 1: weight: "),
        ("[{path: a, weight: '1'}]", "data.train: item 1: weight: input should be a valid number"),
        ("[{path: [a]}]", "data.train: item 1: path: input should be a valid string"),
    ],
)
def test_mistakes_name_the_part(tmp_path: Path, train: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(written(tmp_path, train), {})
    said = str(caught.value)
    assert f"line 4: {message}" in said
    assert "\n" not in said


def test_one_mistake_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(written(tmp_path, "[{path: a, weight: -1}, {path: b, weight: -1}]"), {})
    assert "more mistake" not in str(caught.value)


def test_the_cli_takes_one_or_several() -> None:
    given: dict[str, Any] = options.flags(data__train=None)
    assert given["data.train"] is None
