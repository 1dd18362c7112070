"""What a run would cost, without weights; that it comes true is law 5 in test_laws.py."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from ctxtune.adapter.read import open_adapter
from ctxtune.commands.dry_run import dry_run
from ctxtune.errors import CtxtuneError, DataError, ModelError, RecipeError

from ..conftest import NUM_LAYERS, review_rows, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from ctxtune.backend.feed import Feed
    from ctxtune.recipe.load import Resolved

    Resolve = Callable[..., Resolved]


def test_nothing_is_written_and_no_weights_are_read(
    resolve: Resolve, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxtune.backend import load

    monkeypatch.setattr(load, "load_base", lambda *_: pytest.fail("the weights were loaded"))
    before = sorted(tmp_path.rglob("*"))
    facts = dry_run(resolve("llama-tied", reviews))
    assert sorted(tmp_path.rglob("*")) == before
    json.dumps(facts)


def test_numbers_by_hand(resolve: Resolve, tmp_path: Path) -> None:
    """One block of the tiny Llama: width 32, two of four heads for keys and values, 48 in the feed-forward part."""
    train = write_jsonl(tmp_path / "train.jsonl", review_rows(20))
    facts = dry_run(resolve("llama-untied", train, more={"train.steps": None, "train.epochs": 2.5, "train.batch": 8}))
    block = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48 + 2 * 32
    assert facts["trainable"] == block
    assert facts["adapter_tensor_bytes"] == 4 * block
    assert facts["adapter_tensors"] == 9
    assert facts["parameters"] == NUM_LAYERS * block + 32 + 2 * 300 * 32
    assert facts["rows"] == 20
    assert facts["steps"] == 8  # 2.5 x 3 batches
    assert facts["start_layer"] == NUM_LAYERS - 1
    assert facts["cache_bytes"] == facts["tokens"] * 32 * 4


def test_no_cache_costs_nothing(resolve: Resolve, reviews: Path) -> None:
    assert dry_run(resolve("llama-tied", reviews, more={"cache": "off"}))["cache_bytes"] == 0
    assert dry_run(resolve("llama-tied", reviews, more={"method.layers": "first:1"}))["cache_bytes"] == 0


def test_where_it_would_go(resolve: Resolve, reviews: Path, tmp_path: Path) -> None:
    assert dry_run(resolve("llama-tied", reviews))["out"] == str(tmp_path / "run")
    assert dry_run(resolve("llama-tied", reviews, more={"out": None}))["out"] == "runs/reviews-freeze"


@pytest.mark.parametrize("place", ["file", "full"])
def test_a_place_that_the_run_would_refuse(place: str, resolve: Resolve, reviews: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(RecipeError, match=f"{place} (is a file|holds other files)"):
        dry_run(resolve("llama-tied", reviews, more={"out": str(tmp_path / place)}))


def test_a_complete_run_is_no_place_but_to_go_on(resolve: Resolve, adapt: Any, reviews: Path, tmp_path: Path) -> None:
    adapt()
    with pytest.raises(RecipeError, match="holds a complete run"):
        dry_run(resolve("llama-tied", reviews))
    assert dry_run(resolve("llama-tied", reviews), resume=True)["out"] == str(tmp_path / "run")


def test_what_the_folder_of_a_run_takes(resolve: Resolve, reviews: Path, tmp_path: Path) -> None:
    """Checkpoint, best step and adapter, but for their headers and the state of chance."""
    from ctxtune.commands.adapt import adapt

    from ..conftest import Listener

    dev = write_jsonl(tmp_path / "dev.jsonl", review_rows(5))
    more = {"data.eval": str(dev), "method.layers": "last:2", "train.steps": 2, "forget.probe": "none"}
    resolved = resolve("llama-tied", reviews, more=more)
    facts = dry_run(resolved)
    assert facts["eval_rows"] == 5
    adapt(resolved, False, Listener())
    files = {path.name: path.stat().st_size for path in (tmp_path / "run").rglob("*.safetensors")}
    assert set(files) == {"checkpoint.safetensors", "best.safetensors", "adapter_model.safetensors"}
    assert 0 < sum(files.values()) - facts["run_bytes"] < 40_000
    assert dry_run(resolve("llama-tied", reviews, more={"out": None}))["eval_rows"] == 0


WRONG: dict[str, tuple[dict[str, Any], type[CtxtuneError], str]] = {
    "layers": ({"method.layers": "last:9"}, RecipeError, "the model has 4 layers"),
    "no such file": ({"data.train": "nowhere.jsonl"}, DataError, "does not exist"),
    "a field that is not there": ({"data.prompt": "{{ review }}"}, DataError, "line 1: no field 'review'"),
    "a label outside": ({"data.choices": ["negative", "other"]}, DataError, "line 2: the answer 'positive'"),
    "a long context": ({"data.max_length": 65}, RecipeError, "more than the model's 64 tokens"),
    "long rows": ({"data.max_length": 10}, DataError, "line 1: .* tokens are more than 10"),
    "all dropped": ({"data.max_length": 10, "data.on_long": "drop"}, DataError, "all 22 rows"),
    "a broken template": ({"data.prompt": "{{ text"}, RecipeError, "data.prompt line 1"),
    "no model": ({"model": "./nowhere"}, ModelError, "neither a folder nor a known name"),
    "no eval": ({"data.eval": "nowhere.jsonl"}, DataError, "does not exist"),
    "no probe": ({"forget.probe": "nowhere.txt"}, DataError, "forget.probe"),
}


@pytest.mark.parametrize(("more", "kind", "said"), WRONG.values(), ids=WRONG)
def test_it_meets_what_the_run_would_meet(
    more: dict[str, Any],
    kind: type[CtxtuneError],
    said: str,
    resolve: Resolve,
    adapt: Any,
    reviews: Path,
    tmp_path: Path,
) -> None:
    for run in (lambda: dry_run(resolve("llama-tied", reviews, more=more)), lambda: adapt(more=more)):
        with pytest.raises(kind, match=said) as caught:
            run()
        assert "\n" not in str(caught.value)


def test_the_trials_of_a_rate_are_foreseen(resolve: Resolve, reviews: Path) -> None:
    """And said by the run as well, once, where they are more than its own steps."""
    from ctxtune.commands.adapt import adapt

    from ..conftest import Listener

    more = {"train.lr": "auto", "train.steps": 5}
    most = dry_run(resolve("llama-tied", reviews, more=more))["trial_steps"]
    voice = Listener()
    assert 8 <= adapt(resolve("llama-tied", reviews, more=more), False, voice)["lr"]["test"]["steps"] <= most == 48
    said = f"lr auto: at most {most} trial steps find the rate of a run of 5: --lr names one"
    assert voice.notes.count(said) == 1
    assert dry_run(resolve("llama-tied", reviews, more={"out": None}))["trial_steps"] == 0
    auto = {"out": None, "train.lr": "auto", "method.layers": "auto"}
    assert dry_run(resolve("llama-tied", reviews, more=auto))["trial_steps"] is None


def test_rows_cut_and_dropped_are_counted(resolve: Resolve, reviews: Path) -> None:
    whole = dry_run(resolve("llama-tied", reviews))
    cut = dry_run(resolve("llama-tied", reviews, more={"data.max_length": 40, "data.on_long": "truncate"}))
    dropped = dry_run(resolve("llama-tied", reviews, more={"data.max_length": 40, "data.on_long": "drop"}))
    assert (whole["truncated"], whole["dropped"]) == (0, 0)
    assert 0 < cut["truncated"] == dropped["dropped"] < 22
    assert (cut["rows"], dropped["rows"]) == (22, 22 - dropped["dropped"])
    assert dropped["tokens"] < cut["tokens"] < whole["tokens"]


def relabel(folder: Path, name: Any, more: Any = lambda tensors: {}) -> None:
    """Write the weights under other names."""
    tensors = load_file(folder / "model.safetensors")
    renamed = {name(key): value for key, value in tensors.items()}
    save_file({**renamed, **more(tensors)}, folder / "model.safetensors", metadata={"format": "pt"})


def foreseen_and_done(folder: Path, resolve: Resolve, reviews: Path, layers: str) -> None:
    from ctxtune.commands.adapt import adapt

    from ..conftest import Listener

    resolved = resolve("gpt2-tied", reviews, more={"model": str(folder), "method.layers": layers, "train.steps": 1})
    facts = dry_run(resolved)
    done = adapt(resolved, False, Listener())
    stored = open_adapter(folder.parent / "run").header.tensors
    assert facts["trainable"] == done["trainable"]
    assert facts["parameters"] == done["parameters"]
    assert facts["adapter_tensors"] == len(stored)
    assert facts["adapter_tensor_bytes"] == sum(info.end - info.begin for info in stored.values())


@pytest.fixture
def gpt2(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(model_folders["gpt2-tied"], tmp_path / "gpt2")


@pytest.mark.parametrize("layers", ["last:1", "all", "embeddings"])
def test_weights_of_the_bare_backbone(layers: str, gpt2: Path, resolve: Resolve, reviews: Path) -> None:
    """As the first GPT-2 was published: `h.0...` instead of `transformer.h.0...`."""
    relabel(gpt2, lambda key: key.removeprefix("transformer."))
    foreseen_and_done(gpt2, resolve, reviews, layers)


@pytest.mark.parametrize("layers", ["last:1", "all"])
def test_weights_with_the_masks_of_old_files(layers: str, gpt2: Path, resolve: Resolve, reviews: Path) -> None:
    """gpt2 on the hub holds `h.0.attn.bias`, a causal mask (1, 1, 1024, 1024), which is no parameter of the model."""
    import torch

    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64) for i in range(NUM_LAYERS)}
    relabel(gpt2, lambda key: key.removeprefix("transformer."), lambda tensors: masks)
    foreseen_and_done(gpt2, resolve, reviews, layers)


def test_weights_in_several_files(gpt2: Path, resolve: Resolve, reviews: Path) -> None:
    tensors = load_file(gpt2 / "model.safetensors")
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, gpt2 / file, metadata={"format": "pt"})
    table = {name: file for file, part in files.items() for name in part}
    (gpt2 / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": table}), encoding="utf-8"
    )
    (gpt2 / "model.safetensors").unlink()
    foreseen_and_done(gpt2, resolve, reviews, "last:2+norms")


def test_the_wrong_family_in_config(gpt2: Path, resolve: Resolve, reviews: Path) -> None:
    config = json.loads((gpt2 / "config.json").read_text(encoding="utf-8"))
    (gpt2 / "config.json").write_text(json.dumps({**config, "model_type": "llama"}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"the weights lack model\.embed_tokens\.weight"):
        dry_run(resolve("gpt2-tied", reviews, more={"model": str(gpt2)}))


def test_truncated_weights(gpt2: Path, resolve: Resolve, reviews: Path) -> None:
    os.truncate(gpt2 / "model.safetensors", 2000)
    with pytest.raises(ModelError):
        dry_run(resolve("gpt2-tied", reviews, more={"model": str(gpt2)}))


def test_a_family_found_by_structure_is_told(resolve: Resolve, reviews: Path) -> None:
    said: list[str] = []
    dry_run(resolve("olmo2-untied", reviews), said.append)
    assert said == [
        "family 'olmo2' is not in the table, its parts were found by structure: model.embed_tokens, model.layers, model.norm, "
        "lm_head; whether that is exact is checked when it is loaded"
    ]


@pytest.mark.parametrize(("select", "rows"), [("contrast", 3), ("fisher", None), ("auto", 1), ("random", 4)])
def test_it_foresees_what_a_choice_reads(
    select: str, rows: int | None, resolve: Callable[..., Resolved], reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many tokens go through the loss before the first step, and as many of the text once."""
    from ctxtune.commands.adapt import adapt
    from ctxtune.evals import curvature
    from ctxtune.objectives.labels import Labels

    from ..conftest import Listener

    read: dict[str, int] = {"rows": 0, "text": 0}
    loss, passes = Labels.loss, curvature.passes

    def counted(labels: Labels, part: Sequence[int]) -> Tensor:
        read["rows"] += sum(len(labels.feed.examples[i].ids) for i in part)
        return loss(labels, part)

    def counted_passes(text: Feed, seed: int) -> Iterator[None]:
        read["text"] += sum(len(one.ids) for one in text.examples)
        return passes(text, seed)

    monkeypatch.setattr(Labels, "loss", counted)
    monkeypatch.setattr(curvature, "passes", counted_passes)
    more = {
        "method.name": "mask", "method.select": select, "method.density": 0.2, "method.score_batches": 3,
        "method.score_rows": rows, "train.steps": 4, "train.batch": 2, "train.lr": 1e-3, "cache": "memory",
    }  # fmt: skip
    foreseen = dry_run(resolve("llama-tied", reviews, "foreseen", more))
    facts = adapt(resolve("llama-tied", reviews, "run", more), False, steps := Listener())
    assert facts["steps"] == 4
    assert foreseen.get("choice_tokens", 0) == read["rows"] - sum(step.tokens for step in steps.steps)
    assert foreseen.get("minded_tokens", 0) == read["text"]
    assert (read["text"] > 0) == (select in ("auto", "contrast"))
    assert ("choice_tokens" in foreseen) == (select != "random")
