"""Pretraining from nothing, whole: what comes out, that a killed run goes on to the last bit, and what is refused."""

from __future__ import annotations

import io
import json
import math
from random import Random
from shutil import which
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctxtune.backend.home import corpora
from ctxtune.commands import pupil
from ctxtune.commands.pretrain import dry_run, pretrain
from ctxtune.errors import CtxtuneError, DataError, RecipeError
from ctxtune.recipe.load import load

from ..conftest import Killed, Listener, kill_at, losses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.engine.loop import StepFacts
    from ctxtune.recipe.load import Resolved

LINES = [f"On day {day} the {('cat', 'dog', 'bird')[day % 3]} ate {day % 7} fish.\n" for day in range(400)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(LINES), encoding="utf-8")
    return path


def recipe(text: Path, out: Path, **more: Any) -> Resolved:
    flags = {
        "method.name": "pretrain", "data.train": str(text), "method.depth": 1, "method.row": 32, "out": str(out),
        "method.vocabulary": 300, "train.batch": 8, "train.steps": 6, "device": "cpu",
        **{key.replace("__", "."): value for key, value in more.items()},
    }  # fmt: skip
    return load(None, flags)


def run(
    text: Path, out: Path, resume: bool = False, at: Callable[[StepFacts], None] = lambda facts: None, **more: Any
) -> dict[str, Any]:
    return pretrain(recipe(text, out, **more), resume, Listener(at))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_learns_and_is_what_the_result_says(text: Path, tmp_path: Path) -> None:
    facts = run(text, tmp_path / "run", train__steps=30, train__eval_every=10)
    assert losses(tmp_path / "run")[0] == pytest.approx(math.log(300), abs=1e-5)
    assert losses(tmp_path / "run")[-1] < 3.5
    folder = tmp_path / "run" / "model"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert facts["parameters"] == sum(one.numel() for one in model.parameters())
    # By hand: the held-out end, cut into rows that begin anew.
    held = "".join(LINES)[-facts["corpus"]["held_out"]["characters"] :]
    assert held.startswith("On day")
    assert 0.04 < len(held) / len("".join(LINES)) < 0.06
    end = tokenizer.eos_token_id
    stream, total = [end, *tokenizer(held, add_special_tokens=False).input_ids, end], 0.0
    for first in range(0, len(stream) - 1, 32):
        ids = torch.tensor([stream[first : first + 32]])[:, : len(stream) - 1 - first]
        labels = torch.tensor(stream[first + 1 : first + 33])
        with torch.no_grad():
            total += functional.cross_entropy(model(ids).logits[0], labels, reduction="sum").item()
    told = facts["scores"]["after"]
    assert told["tokens"] == len(stream) - 1 == facts["corpus"]["held_out"]["tokens"]
    assert told["loss"] == pytest.approx(total / (len(stream) - 1), abs=1e-5)
    assert told["bits_per_byte"] == pytest.approx(total / math.log(2) / len(held.encode()), abs=1e-5)


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "schedule_free"])
def test_a_killed_run_goes_on_to_the_last_bit(optimizer: str, text: Path, tmp_path: Path) -> None:
    more = {"train__optimizer": optimizer, "train__steps": 12, "train__save_every": 3, "train__eval_every": 4}
    run(text, tmp_path / "whole", **more)
    with pytest.raises(Killed):
        run(text, tmp_path / "killed", at=kill_at(8), **more)
    assert not (tmp_path / "killed" / "result.json").exists()
    again = run(text, tmp_path / "killed", resume=True, **more)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert run(text, tmp_path / "killed", resume=True, **more) == again


def test_without_a_schedule_the_mean_is_what_is_scored_and_kept(text: Path, tmp_path: Path) -> None:
    more = {"train__optimizer": "schedule_free", "train__steps": 20, "train__eval_every": 20, "train__lr": 0.01}
    facts = run(text, tmp_path / "run", **more)
    assert losses(tmp_path / "run")[-1] < 4.5
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    (judged,) = (one["eval_loss"] for one in map(json.loads, lines) if "eval_loss" in one)
    assert facts["scores"]["after"]["loss"] == pytest.approx(judged, abs=1e-6)
    last, kept = load_file(tmp_path / "run" / "checkpoint.safetensors"), weights(tmp_path / "run")
    for name, mean in kept.items():
        y, z = last[f"param.{name}"].double(), last[f"z.{name}"].double()
        torch.testing.assert_close(mean.double(), (y - 0.1 * z) / 0.9, rtol=0, atol=1e-6)
        assert not torch.equal(mean, last[f"param.{name}"])


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gpt2", "neox"])
def test_every_architecture_learns(arch: str, text: Path, tmp_path: Path) -> None:
    facts = run(text, tmp_path / "run", method__arch=arch, train__steps=20)
    assert facts["scores"]["after"]["loss"] < math.log(300) - 1
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == {"neox": "gpt_neox"}.get(arch, arch)


def test_parts_of_a_batch_are_the_batch(text: Path, tmp_path: Path) -> None:
    run(text, tmp_path / "whole", train__optimizer="adamw")
    run(text, tmp_path / "parts", train__optimizer="adamw", train__micro_batch=1)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def test_the_same_recipe_gives_the_same_model(text: Path, tmp_path: Path) -> None:
    run(text, tmp_path / "one")
    pretrain(load(str(tmp_path / "one" / "recipe.yaml"), {"out": str(tmp_path / "two")}), False, Listener())
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    run(text, tmp_path / "three", train__seed=1)
    assert not same(weights(tmp_path / "one"), weights(tmp_path / "three"))


def test_a_corpus_is_tokenised_once(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(text, tmp_path / "one")
    assert len([path for path in corpora().iterdir() if path.is_dir()]) == 1
    monkeypatch.setattr("ctxtune.commands.corpus._tokenise", None)
    run(text, tmp_path / "two", method__depth=2)
    assert corpora().stat().st_mode & 0o777 == 0o700


def test_another_text_is_another_corpus(text: Path, tmp_path: Path) -> None:
    run(text, tmp_path / "one")
    text.write_text("".join(LINES[::-1]), encoding="utf-8")
    run(text, tmp_path / "two")
    assert len([path for path in corpora().iterdir() if path.is_dir()]) == 2
    with pytest.raises(DataError, match="has changed since the recipe was written"):
        pretrain(load(str(tmp_path / "one" / "recipe.yaml"), {"out": str(tmp_path / "three")}), False, Listener())


def test_text_to_score_may_be_named(text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("".join(LINES[:20]), encoding="utf-8")
    facts = run(text, tmp_path / "run", data__eval=str(other))
    assert facts["corpus"]["held_out"]["characters"] == len("".join(LINES[:20]))
    assert facts["corpus"]["train"]["characters"] == len("".join(LINES))


def test_a_tokenizer_may_be_given(text: Path, tmp_path: Path) -> None:
    run(text, tmp_path / "one")
    facts = run(text, tmp_path / "two", method__tokenizer=str(tmp_path / "one" / "model"))
    assert facts["corpus"]["vocabulary"] == 300
    read = [AutoTokenizer.from_pretrained(tmp_path / name / "model").get_vocab() for name in ("one", "two")]
    assert read[0] == read[1]


def test_the_best_step_is_kept(text: Path, tmp_path: Path) -> None:
    """A rate that ruins the model in its last steps."""
    facts = run(text, tmp_path / "run", train__steps=24, train__eval_every=4, train__lr=0.3, train__schedule="constant")
    told = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {one["step"]: one["eval_loss"] for one in told if "eval_loss" in one}
    best = min(found, key=lambda step: found[step])
    assert facts["best_step"] == best
    assert facts["scores"]["after"]["loss"] == pytest.approx(found[best], abs=1e-6)


def test_one_rate_does_for_every_width() -> None:
    from ctxtune.backend.newborn import make_model, matrices
    from ctxtune.methods.pretrain import shares_of
    from ctxtune.recipe.pretrain import Pretrain

    settings = Pretrain(name="pretrain", depth=1, width=512, row=32)
    model, anatomy = make_model(settings, 300, 0, 0)
    params, turned = dict(model.named_parameters()), frozenset(matrices(model, anatomy))
    muon, adamw = (shares_of(params, turned, anatomy, settings, name) for name in ("muon", "adamw"))
    name = "model.layers.0.mlp.up_proj.weight"
    assert (muon[name], adamw[name]) == (0.5, 0.25)
    for shares, tokens in ((muon, 4), (adamw, 1)):
        assert (shares["lm_head.weight"], shares["model.norm.weight"]) == (0.25, 1)
        assert shares["model.embed_tokens.weight"] == tokens
    tied = shares_of([one for one in params if one != "lm_head.weight"], turned, anatomy, settings, "muon")
    assert tied["model.embed_tokens.weight"] == 1


def test_a_dry_run_says_what_a_run_does(text: Path, tmp_path: Path) -> None:
    foreseen = dry_run(recipe(text, tmp_path / "run", train__steps=None), Listener())
    assert not (tmp_path / "run").exists()
    facts = run(text, tmp_path / "run", train__steps=None)
    assert {key: facts[key] for key in ("parameters", "corpus", "steps", "epochs", "lr")} == {
        key: foreseen[key] for key in ("parameters", "corpus", "steps", "epochs", "lr")
    }
    assert facts["epochs"] == 4
    assert facts["tokens"] == 4 * facts["corpus"]["train"]["tokens"]
    assert foreseen["run_bytes"] > facts["saved"]["bytes"] * 3


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"data__train": None}, RecipeError, "data.train is missing"),
        ({"quant": "nf4"}, RecipeError, "quant has no place in pretraining"),
        ({"dtype": "float16"}, RecipeError, "dtype float16 has no place"),
        ({"forget__budget": 0.1}, RecipeError, "forget.budget has no place"),
        ({"data__train": [{"path": "a.txt", "weight": 2.0}]}, RecipeError, r"a weight in data\.train has no place"),
        ({"data__messages": "messages"}, RecipeError, "messages has no place beside text"),
        ({"data__replay": "other.txt"}, RecipeError, "data.replay has no place"),
        ({"data__train": "nothing.txt"}, DataError, "nothing.txt does not exist"),
        ({"method__tokenizer": "nothing"}, CtxtuneError, "nothing"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(
    more: dict[str, Any], error: type[Exception], said: str, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        run(text, tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


def test_a_text_too_short_to_hold_some_out_is_an_error(text: Path, tmp_path: Path) -> None:
    text.write_text("one line\n", encoding="utf-8")
    with pytest.raises(DataError, match="nothing is there to hold out"):
        run(text, tmp_path / "run")


def test_a_diverging_run_says_so(text: Path, tmp_path: Path) -> None:
    with pytest.raises(CtxtuneError, match=r"step \d+: the loss is .* norm (nan|inf)") as caught:
        run(text, tmp_path / "run", train__lr=100.0, train__steps=40, train__clip=None, train__optimizer="adamw")
    assert "smaller --lr" in str(caught.value.hint)


class Pipe:
    """Standard input that is a pipe."""

    def __init__(self, text: str) -> None:
        self.buffer = self
        self._bytes, self.closed = io.BytesIO(text.encode()), False

    def isatty(self) -> bool:
        return False

    def read(self, size: int) -> bytes:
        return self._bytes.read(size)


@pytest.mark.parametrize("form", ["text", "rows"])
def test_a_corpus_may_come_through_a_pipe(
    form: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = "".join(LINES) if form == "text" else "".join(json.dumps({"text": line}) + "\n" for line in LINES)
    monkeypatch.setattr("sys.stdin", Pipe(piped))
    with pytest.raises(Killed):
        pretrain(recipe(text, tmp_path / "run", data__train="-", train__save_every=2), False, Listener(kill_at(4)))
    facts = pretrain(recipe(text, tmp_path / "run", data__train="-", train__save_every=2), True, Listener())
    assert facts["corpus"]["train"]["documents"] == (1 if form == "text" else 380)
    if form == "text":
        run(text, tmp_path / "file")
        assert same(weights(tmp_path / "run"), weights(tmp_path / "file"))


def test_nothing_through_a_pipe_is_an_error(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Pipe("\n\n"))
    with pytest.raises(DataError, match="holds no text"):
        run(text, tmp_path / "run", data__train="-")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match="would use up the pipe"):
        dry_run(recipe(text, tmp_path / "run", data__train="-"), Listener())


def test_minutes_become_steps_that_a_resumed_run_keeps(text: Path, tmp_path: Path) -> None:
    more = {"train__steps": None, "method__minutes": 0.02, "train__save_every": 1}
    with pytest.raises(Killed):
        run(text, tmp_path / "run", at=kill_at(1), **more)
    steps = load(str(tmp_path / "run" / "recipe.yaml"), {}).recipe.train.steps
    assert steps is not None
    assert steps > 1
    facts = run(text, tmp_path / "run", resume=True, **more)
    assert facts["steps"] == steps
    assert facts["seconds"]["loop"] < 10


def test_to_time_steps_moves_nothing(text: Path, tmp_path: Path) -> None:
    """The same steps, found or told, lead to the same model."""
    facts = run(text, tmp_path / "found", train__steps=None, method__minutes=0.01)
    run(text, tmp_path / "told", train__steps=facts["steps"])
    assert same(weights(tmp_path / "found"), weights(tmp_path / "told"))


def test_it_writes_while_it_learns(text: Path, tmp_path: Path) -> None:
    listener = Listener()
    pretrain(recipe(text, tmp_path / "run", train__steps=60, train__eval_every=60), False, listener)
    (told,) = [note for note in listener.notes if "it writes:" in note]
    assert "bits per byte" in told
    assert any(word in told for word in ("day", "cat", "ate", "fish", "the"))


def test_rows_shorter_than_a_sample_are_fine(text: Path, tmp_path: Path) -> None:
    run(text, tmp_path / "run", method__row=8, method__arch="gpt2", train__eval_every=3)


@pytest.mark.parametrize(("way", "documents"), [("keep", 82), ("drop", 81), ("drop_near", 80)])
def test_documents_that_stand_there_again(way: str, documents: int, tmp_path: Path) -> None:
    """What is held out has been seen before as well: it is left out there."""
    random = Random(0)
    texts = [" ".join(random.choice(["on", "day", "cat", "ate", "fish", "red"]) for _ in range(60)) for _ in range(80)]
    again = [*texts[:40], texts[3], *texts[40:], texts[5].upper()]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in again), encoding="utf-8")
    corpus = run(path, tmp_path / "run", method__duplicates=way)["corpus"]
    assert corpus["train"]["documents"] + corpus["held_out"]["documents"] == documents
    assert corpus["again"] == {"same": 1, **({"near": 1} if way == "drop_near" else {})}


@pytest.mark.skipif(not (which("g++") or which("clang++")), reason="torch.compile wants a compiler of C++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_layers_learn_the_same_and_go_on_to_the_last_bit(text: Path, tmp_path: Path) -> None:
    more = {"method__compile": "on", "train__save_every": 2, "train__steps": 5, "train__batch": 4}
    run(text, tmp_path / "plain", **{**more, "method__compile": "off"})
    run(text, tmp_path / "whole", **more)
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)
    with pytest.raises(Killed):
        run(text, tmp_path / "killed", at=kill_at(3), **more)
    run(text, tmp_path / "killed", resume=True, **more)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_whether_compiling_pays_is_tried_of_long_runs_alone(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it does not: it is made to take long."""
    run(text, tmp_path / "short")
    assert load(str(tmp_path / "short" / "recipe.yaml"), {}).recipe.method.compile == "off"  # type: ignore[union-attr]
    monkeypatch.setattr(pupil, "FEW", 1)
    monkeypatch.setattr(pupil, "WORTH", 0.0)
    monkeypatch.setattr(pupil.Pupil, "compile", lambda self: 1e9)
    listener = Listener()
    pretrain(recipe(text, tmp_path / "long"), False, listener)
    assert any("compiled in 1000000000 s" in note and note.endswith(": off") for note in listener.notes)
    assert same(weights(tmp_path / "long"), weights(tmp_path / "short"))


def test_where_nothing_can_be_compiled_it_goes_on_without(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any, **more: Any) -> Any:
        def layers(*given: Any, **more: Any) -> Any:
            raise RuntimeError("no C++ compiler")

        return layers

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(CtxtuneError, match=r"torch\.compile fails here: .*no C\+\+ compiler") as caught:
        run(text, tmp_path / "asked", method__compile="on")
    assert "method.compile=off" in str(caught.value.hint)
    assert not (tmp_path / "asked").exists()
    monkeypatch.setattr(pupil, "FEW", 1)
    monkeypatch.setattr(pupil, "WORTH", 0.0)
    run(text, tmp_path / "run")
    monkeypatch.setattr(pupil, "FEW", 10**9)
    run(text, tmp_path / "plain")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "plain"))
