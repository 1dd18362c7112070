"""What few-shot prompting would cost, without weights, against what the run then says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.commands.dry_fewshot import dry_fewshot
from ctxtune.errors import ModelError, RecipeError
from ctxtune.recipe.load import load

from ..conftest import CHOICES, NUM_LAYERS, write_jsonl
from . import test_fewshot, test_stream
from .test_fewshot import ASKED, POOL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ask, given = test_fewshot.ask, test_stream.given
OWN, POOL_OF_OWN = ([{**row, "choices": CHOICES} for row in rows] for rows in (ASKED, POOL))
LISTED = {"data.choices": "{{ choices }}"}
WRITTEN = {"data.choices": None, "score.metric": "exact", "generate.max_tokens": 5}
BYTES = 2 * NUM_LAYERS * 2 * 8 * 4  # of a token: keys and values, two heads of eight numbers in float32


def foreseen(given: dict[str, object], folder: Path, **more: object) -> dict[str, Any]:
    path, pool = write_jsonl(folder / "own.jsonl", OWN), write_jsonl(folder / "pool.jsonl", POOL_OF_OWN)
    return dry_fewshot(load(None, {**given, "data.train": str(pool), "data.eval": str(path), **more}, []), [].append)


@pytest.mark.parametrize("more", [
    LISTED, {**LISTED, "method.select": "bm25"}, {**LISTED, "method.select": "balanced", "method.seeds": 2}, WRITTEN,
    {**LISTED, "method.shots": 0}, {**LISTED, "data.max_length": 32, "data.on_long": "drop"},
], ids=["fixed", "bm25", "draws", "written", "none", "dropped"])  # fmt: skip
def test_the_run_reads_what_was_foreseen(
    more: dict[str, object], given: dict[str, object], ask: Callable[..., Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from ctxtune.backend import load as loading

    with monkeypatch.context() as patch:
        patch.setattr(loading, "load_base", lambda *_, **__: pytest.fail("the weights were loaded"))
        facts = foreseen(given, tmp_path, **more)
    run = {name.replace(".", "__"): value for name, value in {"method.select": "fixed", **more}.items()}
    done = ask(asked=OWN, pool=POOL_OF_OWN, **run)
    assert facts["tokens"]["prefix"] == done["tokens"]["prefix"]
    if "score.metric" not in more:
        assert facts["tokens"] == {name: done["tokens"][name] for name in ("prefix", "read", "whole")}
    else:  # an answer may end before it has to
        assert done["tokens"]["read"] <= facts["tokens"]["read"]
        assert facts["tokens"]["read"] <= done["tokens"]["read"] + 5 * len(OWN)
    assert facts["dropped"] == done["scores"]["dropped"]
    assert (facts["dropped"] > 0) is ("data.on_long" in more)


def test_a_place_that_the_run_would_refuse(given: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match="file is a file, and a run needs a folder"):
        foreseen(given, tmp_path, out=str(tmp_path / "file"))


def test_what_would_be_kept(given: dict[str, object], tmp_path: Path) -> None:
    kept = foreseen(given, tmp_path, cache="disk")
    assert kept["kept_bytes"] == kept["tokens"]["prefix"] * BYTES > 0
    assert foreseen(given, tmp_path, cache="off")["kept_bytes"] == 0


@pytest.mark.parametrize("select", ["knn", "influence"])
def test_what_the_model_chooses_is_counted_at_most(
    select: str, given: dict[str, object], ask: Callable[..., Any], tmp_path: Path
) -> None:
    more = {**LISTED, "method.select": select}
    facts = foreseen(given, tmp_path, **more)
    assert facts["at_most"]
    done = ask(asked=OWN, pool=POOL_OF_OWN, method__select=select, data__choices="{{ choices }}", method__held_out=4)
    assert done["tokens"]["whole"] <= facts["tokens"]["whole"] or select == "influence"  # held-out rows were asked too


def test_what_the_run_would_refuse_is_refused(
    given: dict[str, object], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"method\.shots: 12 demonstrations take"):
        foreseen(given, tmp_path, **{"method.shots": 12})
    with pytest.raises(ModelError, match="a bert model fills gaps"):
        foreseen(given, tmp_path, model=str(model_folders["bert-tied"]))
    with pytest.raises(RecipeError, match=r"data\.eval is missing"):
        foreseen(given, tmp_path, **{"data.eval": None})
