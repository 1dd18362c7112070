"""A prompt that starts from earlier ones: as they ended, from the nearest of several, and from nothing that does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.commands.adapt import adapt
from ctxtune.errors import AdapterError, DataError, RecipeError

from ..conftest import Listener
from .test_prompt import asked, dev, train  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ["prefix", "input", "residual", "ptuning", "suffix"]


def carried(kind: str, *adapters: Path) -> dict[str, Any]:
    return {"method.kind": kind, "method.init": "adapter", "method.adapters": list(map(str, adapters))}


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_other_ended(
    kind: str,
    model_folders: dict[str, Path],
    train: Path,  # noqa: F811
    dev: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    more = {"method.kind": kind, "data.eval": str(dev), "train.patience": None}
    model = model_folders["gpt2-tied"]
    first = adapt(asked(model, train, tmp_path / "first", more), False, Listener())
    again = asked(model, train, tmp_path / "again", more | carried(kind, tmp_path / "first"))
    facts = adapt(again, False, Listener())
    assert facts["start"]["scores"]["loss"] == pytest.approx(first["scores"]["after"]["loss"], abs=2e-5)
    assert facts["method"]["tokens"] == first["method"]["tokens"]
    assert facts["train"]["rows"] == 24  # none of them is a demonstration now


@pytest.mark.parametrize("kind", ["prefix", "suffix"])
def test_of_several_the_nearest(kind: str, model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:  # noqa: F811
    """One was trained on these rows for long, the other hardly at all: the first is nearer, wherever it is named."""
    model, more = model_folders["llama-tied"], {"method.kind": kind, "method.tokens": 4}
    for name, steps in (("short", 1), ("long", 40)):
        adapt(asked(model, train, tmp_path / name, {**more, "train.steps": steps}), False, Listener())
    listener = Listener()
    both = carried(kind, tmp_path / "short", tmp_path / "long") | {"method.tokens": 4}
    facts = adapt(asked(model, train, tmp_path / "run", both), False, listener)
    assert [one["start"].split("/")[-3] for one in facts["near"]] == ["long", "short"]
    assert facts["near"][0]["loss"] < facts["near"][1]["loss"]
    assert any("the nearest" in note and "long" in note for note in listener.notes)
    assert facts["method"]["tokens"] == 4


def test_what_does_not_fit(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:  # noqa: F811
    model = model_folders["llama-tied"]
    for kind in ("prefix", "input"):
        adapt(asked(model, train, tmp_path / kind, {"method.kind": kind}), False, Listener())
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        (carried("prefix", tmp_path / "input"), AdapterError, "holds no keys and values"),
        (carried("suffix", tmp_path / "prefix"), AdapterError, "holds no vectors"),
        (carried("input", tmp_path / "input") | {"method.tokens": 1000}, AdapterError, "1,000 are asked for"),
        (carried("input", tmp_path / "nowhere"), AdapterError, "no adapter at"),
    ]
    for number, (more, kind_of_error, match) in enumerate(cases):
        with pytest.raises(kind_of_error, match=match):
            adapt(asked(model, train, tmp_path / f"out{number}", more), False, Listener())
    with pytest.raises(AdapterError, match="was made on"):
        adapt(
            asked(model_folders["gpt2-tied"], train, tmp_path / "other", carried("input", tmp_path / "input")),
            False,
            Listener(),
        )
    for more in ({"method.init": "adapter"}, {"method.adapters": [str(tmp_path / "input")]}):
        with pytest.raises(RecipeError, match="init adapter starts from"):
            asked(model, train, tmp_path / "out", more)
    with pytest.raises(RecipeError, match="the paths as a list under adapters"):
        asked(model, train, tmp_path / "out", {"method.init": "adapter:runs/a"})


def test_an_adapter_that_changed(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:  # noqa: F811
    """The run's own recipe knows the hash of what it started from."""
    from ctxtune.recipe.load import load

    model = model_folders["llama-tied"]
    adapt(asked(model, train, tmp_path / "first", {"method.kind": "input"}), False, Listener())
    adapt(asked(model, train, tmp_path / "second", carried("input", tmp_path / "first")), False, Listener())
    kept = load(str(tmp_path / "second/recipe.yaml"), {"out": str(tmp_path / "third")})
    assert kept.recipe.inputs is not None
    assert set(kept.recipe.inputs) >= {"adapter 1", "train"}
    file = tmp_path / "first/adapter/adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(DataError, match="has changed since the recipe was written"):
        adapt(kept, False, Listener())


def test_the_option_of_the_command_line() -> None:
    from ctxtune.recipe.start import paths_of

    assert paths_of("adapter:runs/a, runs/b") == ("adapter", ["runs/a", "runs/b"])
    assert paths_of("labels") == ("labels", None)
    assert paths_of(None) == (None, None)
