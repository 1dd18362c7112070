"""The batches of a run, and what a short one never reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.backend.feed import Feed
from ctxtune.commands.adapt import adapt
from ctxtune.commands.batches import Batches
from ctxtune.data.batch import length_buckets
from ctxtune.data.mixture import Beside, Mixture, Share
from ctxtune.recipe.schema import Train

from ..conftest import Listener, losses, resolve_recipe, write_jsonl
from .test_prompt import asked, short

if TYPE_CHECKING:
    from pathlib import Path

LENGTHS = [5, 9, 2, 7, 7, 3, 8, 6, 4, 11, 5]


def mixture(weight: float = 1.0) -> Mixture:
    return Mixture((Share("a", weight, 7), Share("b", 1.0, 4)))


@pytest.mark.parametrize("weight", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 40])
def test_a_run_takes_the_batches_that_it_always_took(steps: int, weight: float) -> None:
    """Over all examples, by their place among those it sees; and it sees no other."""
    options = Train(batch=3, lr=1e-3, seed=4)
    batches = Batches.of(LENGTHS, mixture(weight), steps, options)
    seen: list[list[int]] = []
    epoch = 0
    while len(seen) < steps:
        drawn = mixture(weight).epoch(4, epoch)
        true = length_buckets(LENGTHS, 3, 4, epoch, examples=drawn)
        found = batches.epoch(epoch)
        assert len(found) == len(true)
        for batch, told in list(zip(found, true, strict=True))[: steps - len(seen)]:
            assert [batches.used[place] for place in batch] == told
            seen.append(told)
        epoch += 1
    assert list(batches.used) == sorted(batches.used)
    assert set(batches.used) == {example for batch in seen for example in batch}


def test_trials_of_a_rate_draw_from_all() -> None:
    assert len(Batches.of(LENGTHS, mixture(), 1, Train(batch=3)).used) == len(LENGTHS)


@pytest.mark.parametrize("name", ["freeze", "prompt"])
def test_a_short_run_reads_what_it_learns_from(
    name: str, model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And gives the same as one that reads everything, to the rounding of what stands beside it in a batch."""
    rows, folder = write_jsonl(tmp_path / "rows.jsonl", short(40)), model_folders["llama-tied"]
    kept: list[int] = []
    keep = Feed.keep

    def spy(self: Feed, *args: Any) -> Any:
        kept.append(len(self.examples))
        return keep(self, *args)

    def run(out: str) -> dict[str, Any]:
        more = {"train.batch": 4, "train.steps": 3, "train.lr": 1e-2}
        if name == "freeze":
            resolved = resolve_recipe(folder, rows, tmp_path / out, more)
        else:
            resolved = asked(folder, rows, tmp_path / out, {**more, "method.kind": "suffix", "method.init": "zero"})
        return adapt(resolved, False, Listener())

    monkeypatch.setattr(Feed, "keep", spy)
    facts = run("few")
    assert kept[-1] == 12
    assert facts["train"]["rows"] == 40
    monkeypatch.setattr(Batches, "of", classmethod(everything))
    other = run("all")
    assert kept[-1] == 40
    assert losses(tmp_path / "few") == pytest.approx(losses(tmp_path / "all"), abs=1e-5)
    assert other["cache"]["bytes"] > facts["cache"]["bytes"] > 0


def everything(
    cls: type[Batches], lengths: list[int], some: Mixture, steps: int, options: Train, beside: Beside | None
) -> Batches:
    used = range(len(lengths))
    return cls(lengths, some, options, beside, used, {example: example for example in used})
