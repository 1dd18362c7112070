"""What two masks choose in common, by layer, against sets of places."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner

from ctxtune.adapter.mask import write_mask
from ctxtune.adapter.overlap import overlaps
from ctxtune.adapter.read import open_adapter
from ctxtune.backend.mask import Part
from ctxtune.cli.adapter import app
from ctxtune.errors import AdapterError

from .conftest import MATRICES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.mask import Mask

    from .conftest import Made, Moved


def places(mask: Mask, layer: int | None) -> set[tuple[str, int]]:
    def of(name: str) -> int | None:
        found = re.search(r"\.(\d)\.", name)
        return int(found[1]) if found else None

    return {(name, int(place)) for name, part in mask.items() if of(name) == layer for place in part.entries()}


def test_the_overlap_of_each_layer(move: Callable[..., Moved]) -> None:
    one = move("llama-untied", "rows", MATRICES + "|embed", share=0.4)
    other = move("llama-untied", "entries", r"layers\.1\..*(q_proj|down_proj)\.weight|embed", share=0.4, seed=1)
    found = overlaps(open_adapter(one.adapter), open_adapter(other.adapter))
    assert [overlap.layer for overlap in found] == [0, 1, None]
    for overlap in found:
        first, second = places(one.mask, overlap.layer), places(other.mask, overlap.layer)
        assert (overlap.shared, overlap.either) == (len(first & second), len(first | second))
        assert overlap.jaccard == pytest.approx(len(first & second) / len(first | second))
    assert {overlap.shared > 0 for overlap in found} == {True, False}


def test_it_is_shown(move: Callable[..., Moved]) -> None:
    one, other = move("llama-untied", "rows", share=0.4), move("llama-untied", "blocks", share=0.4, seed=1)
    asked = ["show", str(one.adapter), "--against", str(other.adapter)]
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)["overlap"]
    shared, either = sum(layer["shared"] for layer in told), sum(layer["either"] for layer in told)
    lines = CliRunner().invoke(app, asked).output.splitlines()
    assert f"overlap, all: {shared:,} of {either:,}, Jaccard {shared / either:.3f}" in lines
    last = told[1]
    assert f"overlap, layer 1: {last['shared']:,} of {last['either']:,}, Jaccard {last['jaccard']:.3f}" in lines
    assert json.loads(CliRunner().invoke(app, ["show", str(one.adapter), "--json"]).output)["overlap"] is None


def test_what_cannot_be_compared(move: Callable[..., Moved], make: Callable[..., Made], tmp_path: Path) -> None:
    """No mask, and other sizes; masks of two families have nothing in common."""
    made = move("llama-untied", "rows")
    mask, layers = open_adapter(made.adapter), open_adapter(make("llama-tied").adapter)
    for pair in ((mask, layers), (layers, mask)):
        with pytest.raises(AdapterError, match="holds no mask to compare"):
            overlaps(*pair)
    for size in ((4, 6), (6, 4)):
        part = Part("rows", size, np.array([1, 2]))
        write_mask(tmp_path / f"{size}.safetensors", {"a": part}, made.manifest)
    small, turned = (open_adapter(tmp_path / f"{size}.safetensors") for size in ((4, 6), (6, 4)))
    with pytest.raises(AdapterError, match=r"a is \[4, 6\] in one mask and \[6, 4\] in the other"):
        overlaps(small, turned)
    assert {overlap.shared for overlap in overlaps(mask, open_adapter(move("gpt2-tied", "rows").adapter))} == {0}
