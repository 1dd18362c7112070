"""Spoilt recipes: each one is a RecipeError or loads; nothing else may come out."""

from __future__ import annotations

import random

import pytest
import yaml

from ctxtune.errors import RecipeError
from ctxtune.recipe import gallery, read
from ctxtune.recipe.dump import dump
from ctxtune.recipe.load import load

from ..mutation.spoil import SNIPPETS, spoil_text


def mistake(source: str | None, flags: dict[str, object], sets: list[str]) -> str | None:
    """What is said of a wrong recipe; None if it is right, and then it can be written."""
    try:
        dump(load(source, flags, sets))
    except RecipeError as error:
        return str(error)
    return None


@pytest.mark.parametrize("parser", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize("name", ["quickstart", "freeze"])
def test_spoilt_recipes(tmp_path, monkeypatch, name, parser):
    monkeypatch.setattr(read, "Loader", getattr(yaml, parser, yaml.SafeLoader))
    monkeypatch.chdir(tmp_path)
    chance = random.Random(name)
    text = gallery.find(name).read_text(encoding="utf-8")
    outcomes = []
    for _ in range(300):
        raw = spoil_text(text, chance)
        (tmp_path / "r.yaml").write_bytes(raw)
        said = mistake("r.yaml", {}, [])
        outcomes.append(said is None)
        assert said is None or (said.isprintable() and said.startswith("r.yaml") and len(said) < 400), raw
    assert 10 < sum(outcomes) < 290


def test_random_sets():
    chance = random.Random(2)
    flags = {"model": "m", "method.name": "freeze"}
    keys = ["train.lr", "train", "data.choices", "data.prompt", "method.name", "out", "inputs", "x.y", "", "."]
    for _ in range(500):
        value = "".join(chance.choices(SNIPPETS, k=chance.randrange(4)))
        text = chance.choice(keys) + chance.choice(["=", "=", ""]) + value
        said = mistake(None, flags, [text])
        assert said is None or (said.isprintable() and "--set" in said), text
