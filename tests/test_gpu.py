"""What a CUDA device must give: the processor's losses, and a resumed run that ends in the same bits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def step_losses(folder: str) -> list[float]:
    with open(f"{folder}/metrics.jsonl", encoding="utf-8") as file:
        return [record["loss"] for record in map(json.loads, file) if "loss" in record]


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied"])
@pytest.mark.parametrize("cache", ["memory", "disk", "off"])
def test_a_gpu_gives_the_processors_losses(adapt: Callable[..., dict[str, Any]], kind: str, cache: str) -> None:
    settings = {"train.steps": 6, "cache": cache, "forget.probe": "builtin", "dtype": "float32"}
    here = adapt(kind, out="cpu", more={**settings, "device": "cpu"})
    there = adapt(kind, out="cuda", more={**settings, "device": "cuda"})
    assert there["device"].startswith(torch.cuda.get_device_name())
    assert step_losses(there["out"]) == pytest.approx(step_losses(here["out"]), abs=1e-4)
    assert there["forgetting"]["after"]["kl"] == pytest.approx(here["forgetting"]["after"]["kl"], abs=1e-4)


@pytest.mark.parametrize("quant", ["int8", "nf4"])
def test_a_quantised_base_gives_the_processors_losses(adapt: Callable[..., dict[str, Any]], quant: str) -> None:
    settings = {"train.steps": 6, "method.layers": "first:1", "quant": quant, "dtype": "float32"}
    here = adapt(out="cpu", more={**settings, "device": "cpu"})
    there = adapt(out="cuda", more={**settings, "device": "cuda"})
    assert there["weight_bytes"] == here["weight_bytes"]
    assert step_losses(there["out"]) == pytest.approx(step_losses(here["out"]), abs=1e-4)


def test_auto_takes_the_gpu_and_its_type(adapt: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    facts = adapt("llama-tied", out="auto", more={"device": "auto"})
    assert facts["device"].startswith(torch.cuda.get_device_name())
    native = torch.cuda.get_device_capability()[0] >= 8
    assert facts["dtype"] == ("bfloat16" if native else "float32")


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied"])
@pytest.mark.parametrize("cache", ["memory", "off"])
def test_bfloat16_gives_the_losses_of_float32_but_for_rounding(
    adapt: Callable[..., dict[str, Any]], kind: str, cache: str
) -> None:
    settings = {"train.steps": 6, "cache": cache, "device": "cuda"}
    wide = adapt(kind, out="wide", more={**settings, "dtype": "float32"})
    narrow = adapt(kind, out="narrow", more={**settings, "dtype": "bfloat16"})
    assert narrow["weight_bytes"] < wide["weight_bytes"]
    assert step_losses(narrow["out"]) == pytest.approx(step_losses(wide["out"]), rel=0.02)
    again = adapt(kind, out="again", more={**settings, "dtype": "bfloat16"})
    assert step_losses(again["out"]) == step_losses(narrow["out"])
