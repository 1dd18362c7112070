"""A dumped recipe reads back to the same values, whatever they are."""

from __future__ import annotations

import random

import pytest
import yaml

from ctxtune.recipe import read
from ctxtune.recipe.dump import dump, spell
from ctxtune.recipe.load import load

BASIC = {"model": "m", "method.name": "freeze"}
ALPHABET = [
    *"abnyeEtrufalsNO019.+-_ \t\n\r:,#&*!|>'\"%@`{}[]?=~<$\\/",
    *"\x01\x1b\x7f\x80\x85\x9f\xa0\xadéß\u0300\u200b\u200f\u2028\u2029\u202e\u3000\ufeff\ufffd\ufffe\uffff中😀\U0010ffff",
]
WORDS = ["", "null", "~", "true", "no", "off", "1", "1e3", "0x1", "1_0", ".inf", ".nan", "12:30", "2024-01-01", "<<"]


def reload(text: str, tmp_path, name: str = "again.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    return load(str(path), {})


@pytest.mark.parametrize("parser", ["CSafeLoader", "SafeLoader"])
def test_random_texts_come_back(tmp_path, monkeypatch, parser):
    monkeypatch.setattr(read, "Loader", getattr(yaml, parser, yaml.SafeLoader))
    chance = random.Random(0)
    for number in range(300):
        texts = ["".join(chance.choices(ALPHABET, k=chance.randrange(1, 12))) for _ in range(5)]
        texts[chance.randrange(5)] = WORDS[number % len(WORDS)] or " "
        flags = {"data.prompt": texts[0], "data.instruction": texts[1], "data.delimiter": texts[2], "out": texts[3]}
        flags["data.choices"] = [texts[4], texts[4] + "x"]
        first = load(None, BASIC | flags)
        again = reload(dump(first), tmp_path)
        assert again.recipe == first.recipe, texts


@pytest.mark.parametrize("word", WORDS)
def test_a_text_stays_a_text(word):
    assert yaml.safe_load(spell(word)) == word
    assert read.parse(f"a: {spell(word)}", "x")[0] == {"a": word}


def test_random_numbers_come_back_exactly(tmp_path):
    chance = random.Random(1)
    for _ in range(100):
        flags = {
            "train.lr": 10 ** chance.uniform(-320, 2),
            "train.epochs": chance.choice([chance.uniform(1e-9, 1e5), float(chance.randrange(1, 99)), 1e5]),
            "train.warmup": chance.random() ** 40,
            "train.clip": chance.uniform(1e-300, 1e6),
            "train.seed": chance.randrange(2**32),
        }
        first = load(None, BASIC | flags)
        assert reload(dump(first), tmp_path).recipe == first.recipe


def test_origins_are_comments_and_keys_keep_their_order(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("train: {batch: 4}\nmethod: {name: freeze}\nmodel: m\n")
    text = dump(load(str(path), {"train.seed": 3}, ["train.steps=9"]), overrides={"train.lr": 3.1e-4})
    lines = text.splitlines()
    assert lines[0] == "ctxtune: 1"
    assert "model: m  # recipe" in lines
    assert "  batch: 4  # recipe" in lines
    assert "  seed: 3  # flag" in lines
    assert "  steps: 9  # --set" in lines
    assert "  lr: 0.00031  # auto" in lines
    assert "  epochs: 3  # default" in lines
    assert lines.index("data:") < lines.index("method:") < lines.index("train:") < lines.index("forget:")
    assert "inputs" not in text


def test_hashes_of_inputs(tmp_path):
    inputs = {"train": "ab" * 32, "model": "cd" * 32}
    first = load(None, BASIC)
    again = reload(dump(first, inputs=inputs), tmp_path)
    assert again.recipe.inputs == inputs
    assert reload(dump(again), tmp_path).recipe.inputs == inputs


def test_paths_are_written_as_seen_from_the_new_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/m").mkdir(parents=True)
    (tmp_path / "runs/x").mkdir(parents=True)
    flags = {"method.name": "freeze", "model": "models/m", "data.train": "t.jsonl", "data.eval": "-", "out": "runs/x"}
    first = load(None, flags | {"forget.probe": "./builtin"})
    text = dump(first, relative_to=tmp_path / "runs/x")
    assert 'model: "../../models/m"' in text
    assert 'train: "../../t.jsonl"' in text
    assert str(tmp_path) not in text
    assert reload(text, tmp_path / "runs/x").recipe == first.recipe


def test_a_run_folder_behind_a_link(tmp_path):
    (tmp_path / "disk/deep/runs").mkdir(parents=True)
    (tmp_path / "runs").symlink_to("disk/deep/runs")
    first = load(None, BASIC | {"data.train": str(tmp_path / "t.jsonl")})
    text = dump(first, relative_to=tmp_path / "runs")
    assert 'train: "../../../t.jsonl"' in text
    assert reload(text, tmp_path / "runs").recipe == first.recipe


@pytest.mark.parametrize("name", ["builtin", "none", "-", "t.jsonl", "..a", "a b: #"])
def test_a_file_beside_the_recipe_stays_a_file(tmp_path, name):
    flags = {"data.train": str(tmp_path / name), "forget.probe": str(tmp_path / name), "model": str(tmp_path / name)}
    first = load(None, BASIC | flags)
    assert reload(dump(first, relative_to=tmp_path), tmp_path).recipe == first.recipe


def test_a_path_that_a_run_found_is_relative_too(tmp_path):
    spooled = str(tmp_path / "stdin.jsonl")
    text = dump(load(None, BASIC | {"data.train": "-"}), tmp_path, overrides={"data.train": spooled})
    assert 'train: "./stdin.jsonl"' in text
    assert reload(text, tmp_path).recipe.data.train == spooled


def test_a_dump_of_a_dump_is_the_same_but_for_origins(tmp_path):
    once = dump(reload(dump(load(None, BASIC)), tmp_path))
    assert dump(reload(once, tmp_path)) == once
