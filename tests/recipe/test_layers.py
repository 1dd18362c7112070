"""How a choice of layers is written: read before any model is looked at, refused with the line it stands in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ctxtune.errors import RecipeError
from ctxtune.recipe.layers import GRAMMAR, Term, read_layers
from ctxtune.recipe.load import load

if TYPE_CHECKING:
    from pathlib import Path

READ = {
    "last:4": [Term("last:4", begin=-4)],
    "first:2.attn": [Term("first:2.attn", end=2, kind="attn")],
    "10-19": [Term("10-19", begin=10, end=20)],
    "7": [Term("7", begin=7, end=8)],
    " all + head ": [Term("all", name="all"), Term("head", name="head")],
    "last:4.mlp+norms": [Term("last:4.mlp", begin=-4, kind="mlp"), Term("norms", name="norms")],
}
WRONG = {
    "": "not a choice", " ": "not a choice", "+": "not a choice", "last:1+": "not a choice", "last": "not a choice",
    "last:": "not a choice", "last:-1": "not a choice", "last:1.5": "not a choice", "last:1.": "not a choice",
    "last:1.foo": "not a choice", "last:1.attn.mlp": "not a choice", "LAST:1": "not a choice", "all.mlp": "not a choice",
    "embeddings.mlp": "not a choice", "layers": "not a choice", "1-2-3": "not a choice", "1:2": "not a choice",
    "-1": "not a choice", "last:9999999": "not a choice", "last: 1": "not a choice", "last:1,head": "not a choice",
    "model.layers.0": "not a choice", "None": "not a choice", "last:\u0661": "not a choice",
    "auto+head": "not a choice",
    "last:0": "is empty", "first:0": "is empty", "3-1": "is empty", "last:0.mlp": "is empty",
}  # fmt: skip


@pytest.mark.parametrize(("layers", "terms"), READ.items())
def test_what_is_one(layers: str, terms: list[Term]) -> None:
    assert read_layers(layers) == terms


@pytest.mark.parametrize(("layers", "said"), WRONG.items())
def test_what_is_none(layers: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        read_layers(layers)
    assert GRAMMAR in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("ctxtune: 1\nmodel: m\ndata: {train: t.jsonl}\nmethod:\n  name: freeze\n  layers: foo:2\n")
    with pytest.raises(RecipeError, match=r"line 6: method\.layers: 'foo:2' is not a choice of layers; write for"):
        load(str(path), {})
    path.write_text(path.read_text().replace("foo:2", "auto"))
    assert load(str(path), {}).recipe.method.layers == "auto"
