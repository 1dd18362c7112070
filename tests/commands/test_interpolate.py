"""Shares of an adapter, scored and measured: the ends are the base and the adapter, the middle is done by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from ctxtune.backend.load import load_base
from ctxtune.commands import texts
from ctxtune.commands.evaluate import evaluate
from ctxtune.commands.interpolate import alphas_of, interpolate
from ctxtune.errors import AdapterError, RecipeError
from ctxtune.evals.forgetting import probe_examples

from ..conftest import BAD, GOOD
from ..evals.test_forgetting import by_hand

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Adapt = Callable[..., dict[str, Any]]


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    path = tmp_path / "probe.txt"
    path.write_text(" ".join(f"{good}, and then {bad}." for good in GOOD for bad in BAD))
    return path


def table(run: Path, dev: Path, probe: Path, alphas: str) -> list[dict[str, Any]]:
    given = {"device": "cpu", "data.eval": str(dev), "forget.probe": str(probe)}
    facts = interpolate(None, given, [], run, alphas_of(alphas), False, lambda text: None)
    json.loads(json.dumps(facts), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    found: list[dict[str, Any]] = facts["alphas"]
    return found


METHODS: dict[str, dict[str, Any]] = {
    "freeze": {"method.layers": "last:2", "train.lr": 1e-2},
    "mask": {"method.name": "mask", "method.layers": "all", "method.density": 0.2, "train.lr": 3e-2},
}


@pytest.mark.parametrize("method", METHODS)
def test_between_the_base_and_the_adapter(
    method: str, adapt: Adapt, dev: Path, probe: Path, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    more = {"data.eval": str(dev), "train.steps": 12, "forget.probe": str(probe), **METHODS[method]}
    done = adapt("llama-untied", more={"method.layers": None, **more} if method == "mask" else more)
    base, half, tuned = table(tmp_path / "run", dev, probe, "0,0.5,1")
    assert [one["alpha"] for one in (base, half, tuned)] == [0.0, 0.5, 1.0]
    for one, scores, drift in zip(
        (base, tuned), (done["scores"]["before"], done["scores"]["after"]),
        (done["forgetting"]["before"], done["forgetting"]["after"]), strict=True,
    ):  # fmt: skip
        for key in ("acc", "acc_norm", "loss"):
            assert one["scores"][key] == pytest.approx(scores[key], abs=1e-5)
        assert one["kl"] == pytest.approx(drift["kl"], rel=1e-3, abs=1e-6)
        assert one["probe_loss"] == pytest.approx(drift["loss"], abs=1e-5)
    assert base["kl"] == 0.0
    assert 0 < half["kl"] < tuned["kl"]
    plain = evaluate(None, {"device": "cpu", "data.eval": str(dev)}, [], tmp_path / "run", False, lambda text: None)
    for key, value in plain["scores"].items():
        assert tuned["scores"][key] == pytest.approx(value, abs=1e-6)
    folder = model_folders["llama-untied"]
    first, second = load_base(folder, "cpu"), load_base(folder, "cpu")
    halfway(second.model, method, tmp_path / "run")
    ids = first.tokenizer(texts.probe_text(str(probe)), add_special_tokens=False)["input_ids"]
    kl, loss = by_hand(first.model, second.model, probe_examples(ids, "causal", None, first.max_length))
    assert half["kl"] == pytest.approx(kl, rel=1e-3)
    assert half["probe_loss"] == pytest.approx(loss, abs=1e-5)


def halfway(model: torch.nn.Module, method: str, run: Path) -> None:
    """Half of an adapter in a model, by the tensors of its file."""
    tensors = load_file(run / "adapter" / "adapter_model.safetensors")
    with torch.no_grad():
        for name, value in tensors.items():
            if method == "freeze":
                parameter = model.get_parameter(name.removeprefix("base_model.model.").replace(".ln_tuning_layers", ""))
                parameter.copy_((parameter + value) / 2)
            elif name.endswith(".delta"):
                parameter = model.get_parameter(name.removesuffix(".delta"))
                parameter[:, tensors[name.replace(".delta", ".columns")].long()] += value.float().t() / 2


def test_without_a_probe_only_scores(adapt: Adapt, dev: Path, tmp_path: Path) -> None:
    adapt(more={"data.eval": str(dev)})
    given = {"device": "cpu", "data.eval": str(dev), "forget.probe": "none"}
    said: list[str] = []
    facts = interpolate(None, given, [], tmp_path / "run", [0.25], False, said.append)
    assert facts["alphas"][0].keys() == {"alpha", "scores"}
    assert any("scoring 10 rows with 0.25 of" in text for text in said)


def test_what_stands_at_a_text_has_no_shares(adapt: Adapt, dev: Path, tmp_path: Path) -> None:
    more = {"method.layers": None, "method.name": "prompt", "method.tokens": 4, "method.init": "vocab"}
    adapt(more={**more, "train.steps": 1})
    with pytest.raises(AdapterError, match="there is nothing between it and the base"):
        interpolate(None, {"data.eval": str(dev)}, [], tmp_path / "run", [0.5], False, lambda text: None)
    with pytest.raises(RecipeError, match="none is named"):
        interpolate(None, {"data.eval": str(dev)}, [], None, [0.5], False, lambda text: None)


def test_the_grid_and_a_list() -> None:
    assert alphas_of("grid") == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
    assert alphas_of("1, 0.25,0") == [1.0, 0.25, 0.0]


@pytest.mark.parametrize("text", ["-0.1", "0,1.5", "nan", "", "0,,1", "grid,1", "a", ",".join(["0"] * 200)])
def test_no_shares(text: str) -> None:
    with pytest.raises(RecipeError, match="--alpha") as caught:
        alphas_of(text)
    assert "grid" in str(caught.value.hint)
    assert "\n" not in str(caught.value)


def test_the_table(adapt: Adapt, dev: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ctxtune.cli.main import app

    adapt(more={"data.eval": str(dev)})
    asked = ["eval", "--adapter", str(tmp_path / "run"), "--eval", str(dev), "--device", "cpu", "--quiet"]
    done = CliRunner().invoke(app, [*asked, "--alpha", "0,1"])
    assert done.exit_code == 0
    assert "KL(base || it)" in done.stdout
    assert len(json.loads(CliRunner().invoke(app, [*asked, "--alpha", "0,1", "--json"]).stdout)["alphas"]) == 2
    for more, said in ((["--save", "x.jsonl"], "--save is for one"), (["--against", "base"], "--against is for one")):
        refused = CliRunner().invoke(app, [*asked, "--alpha", "0,1", *more])
        assert refused.exit_code != 0
        assert said in refused.output + str(refused.exception)
