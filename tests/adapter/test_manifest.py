"""The manifest comes back as it was written, and nothing else is taken for one."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from ctxtune.adapter.card import model_card
from ctxtune.adapter.manifest import BaseModel, Change, Manifest
from ctxtune.errors import AdapterError

MANIFEST = Manifest(
    method="freeze",
    settings={"layers": "last:4", "nested": {"a": [1, None]}},
    recipe="ctxtune: 1\nmethod: {name: freeze}\n",
    base=BaseModel("tiny Ü", "sha256:abc"),
    inputs={"train.jsonl": "sha256:def"},
    seed=3,
    trainable=1234,
    scores=Change({"acc": 0.5}, {"acc": 0.75, "acc_norm": 1}),
    forgetting=Change({"loss": 3.25}, {"loss": 3.5, "kl": 0.01}),
    created="2025-01-02T03:04:05Z",
)


def test_round_trip() -> None:
    text = MANIFEST.to_json()
    assert "\n" not in text
    assert Manifest.from_json(json.loads(text)) == MANIFEST


def test_created_now() -> None:
    made = dataclasses.replace(MANIFEST, created=Manifest.__dataclass_fields__["created"].default_factory())
    assert made.created.endswith("Z")
    assert made.created > MANIFEST.created


def test_not_finite_is_refused() -> None:
    with pytest.raises(AdapterError, match="not finite"):
        dataclasses.replace(MANIFEST, scores=Change({"acc": float("nan")})).to_json()


def every_path(fields: dict[str, Any], prefix: str = "") -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for key in fields:
        found.append((prefix, key) if prefix else (key,))
    return found


PATHS = every_path(MANIFEST.as_dict()) + [
    (part, key) for part in ("base", "scores", "forgetting") for key in MANIFEST.as_dict()[part]
]


@pytest.mark.parametrize("path", PATHS, ids=".".join)
@pytest.mark.parametrize("value", [None, [], 1.5, "missing"], ids=str)
def test_every_field_is_checked(path: tuple[str, ...], value: object) -> None:
    fields = MANIFEST.as_dict()
    if path == ("classes",) and value in ([], "missing"):  # none; and adapters from before there were any
        value = [1]
    if path == ("shown",) and value in (None, "missing"):
        value = {}
    if path == ("leaked",) and value == "missing":
        value = "0"
    place = fields
    for key in path[:-1]:
        place = place[key]
    if value == "missing":
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(AdapterError, match=path[-1]):
        Manifest.from_json(fields)


@pytest.mark.parametrize("place", ["", "base", "scores"])
def test_unknown_keys(place: str) -> None:
    fields = MANIFEST.as_dict()
    (fields[place] if place else fields)["surprise"] = 1
    with pytest.raises(AdapterError, match=r"unknown key .*surprise"):
        Manifest.from_json(fields)


def test_true_is_no_number() -> None:
    with pytest.raises(AdapterError, match="seed must be of type int"):
        Manifest.from_json({**MANIFEST.as_dict(), "seed": True})


def test_newer_format() -> None:
    with pytest.raises(AdapterError, match="has format 2, and this ctxtune reads format 1"):
        Manifest.from_json({**MANIFEST.as_dict(), "format": 2, "surprise": 1})


def test_card_tells_the_numbers() -> None:
    card = model_card(MANIFEST)
    assert "| acc | 0.5 | 0.75 |" in card
    assert "| acc_norm |  | 1 |" in card
    assert "| forgetting: kl |  | 0.01 |" in card
    assert MANIFEST.recipe.strip() in card
    assert "leakage" not in card
    assert "Of the rows that were scored, 7 stand among" in model_card(dataclasses.replace(MANIFEST, leaked=7))
    assert "`sha256:abc`" in card
    assert "AutoModelForMaskedLM" not in card
    assert "AutoModelForMaskedLM" in model_card(
        dataclasses.replace(MANIFEST, base=BaseModel("tiny", "sha256:abc", causal=False))
    )


def test_card_of_a_classifier() -> None:
    told = dataclasses.replace(MANIFEST, base=BaseModel("tiny", "sha256:abc", causal=False), classes=["no", 'a "yes"'])
    card = model_card(told)
    assert 'AutoModelForSequenceClassification.from_pretrained("BASE", num_labels=2)' in card
    assert r'"no", "a \"yes\""' in card
    assert "ctxtune eval --model BASE" in card
    assert "ctxtune generate" not in card
    assert Manifest.from_json(json.loads(told.to_json())) == told
    older = {key: value for key, value in MANIFEST.as_dict().items() if key != "classes"}
    assert Manifest.from_json(older) == MANIFEST


def test_card_fences_a_recipe_with_fences() -> None:
    card = model_card(dataclasses.replace(MANIFEST, recipe="a: ````\n"))
    assert "`````yaml\na: ````\n`````" in card
