"""Scoring from the files alone: any way to name an adapter, the right base, and what is said when it is another."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.adapter.read import open_adapter
from ctxtune.backend.load import load_base
from ctxtune.commands.evaluate import evaluate
from ctxtune.errors import AdapterError, CtxtuneError, DataError, ModelError, PlaceError, RecipeError

from ..conftest import BAD, CHOICES, GOOD, PROMPT, review_rows, text_by_hand, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable

    Adapt = Callable[..., dict[str, Any]]

TASK: dict[str, Any] = {"data__prompt": PROMPT, "data__answer": "{{ label }}", "data__choices": CHOICES}


def run(
    adapter: Path | None = None,
    source: str | None = None,
    *,
    force: bool = False,
    notes: list[str] | None = None,
    save: Path | None = None,
    against: str | None = None,
    **flags: object,
) -> dict[str, Any]:
    given = {name.replace("__", "."): value for name, value in flags.items()}
    say = (notes if notes is not None else []).append
    facts = evaluate(source, {"device": "cpu", **given}, [], adapter, force, say, save, against)
    json.loads(json.dumps(facts), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    return facts


def scores(*given: Any, **named: Any) -> dict[str, float]:
    found: dict[str, float] = run(*given, **named)["scores"]
    return found


@pytest.fixture
def tuned(adapt: Adapt, dev: Path, tmp_path: Path) -> Path:
    """A finished run whose adapter changes the scores."""
    adapt(more={"data.eval": str(dev), "train.lr": 1e-2, "train.steps": 12, "method.layers": "last:2"})
    return tmp_path / "run"


def test_every_way_to_name_the_adapter(tuned: Path, dev: Path) -> None:
    expected = json.loads((tuned / "result.json").read_text(encoding="utf-8"))["scores"]["after"]
    for adapter in (tuned, tuned / "adapter", tuned / "adapter" / "adapter_model.safetensors"):
        found = scores(adapter, data__eval=str(dev))
        assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-5)
    assert scores(tuned) == scores(tuned, data__eval=str(dev))  # a run's own recipe knows its rows


@pytest.mark.parametrize("moved", ["the adapter alone", "its one file", "the whole run"])
def test_an_adapter_that_moved_away(moved: str, tuned: Path, dev: Path, tmp_path: Path) -> None:
    expected = scores(tuned, data__eval=str(dev))
    place = tmp_path / "far" / "away"
    place.mkdir(parents=True)
    if moved == "the adapter alone":
        adapter = Path(shutil.move(tuned / "adapter", place / "sent"))
        shutil.rmtree(tuned)
    elif moved == "its one file":
        adapter = Path(shutil.move(tuned / "adapter" / "adapter_model.safetensors", place / "sent.safetensors"))
        shutil.rmtree(tuned)
    else:
        adapter = Path(shutil.move(tuned, place / "run"))
    assert scores(adapter, data__eval=str(dev), model=str(model_of(adapter))) == expected
    if moved != "the whole run":
        assert scores(adapter, data__eval=str(dev)) == expected


def model_of(adapter: Path) -> str:
    manifest = open_adapter(adapter).manifest
    assert manifest is not None
    return manifest.base.name


def test_a_run_that_moved_away_still_finds_its_base(tuned: Path, dev: Path, tmp_path: Path) -> None:
    expected = scores(tuned, data__eval=str(dev))
    (tmp_path / "far" / "away").mkdir(parents=True)
    moved = Path(shutil.move(tuned, tmp_path / "far" / "away" / "run"))
    assert scores(moved, data__eval=str(dev)) == expected


def test_the_adapter_remembers_its_task(tuned: Path, dev: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.move(tuned / "adapter", tmp_path / "sent"))
    assert scores(adapter, data__eval=str(dev)).keys() >= {"acc", "acc_norm"}
    other = scores(adapter, data__eval=str(dev), data__choices=["positive", "negative"])
    assert other["acc"] == scores(adapter, data__eval=str(dev))["acc"]
    assert "acc" not in scores(
        adapter, data__eval=str(dev), data__prompt="{{ text }}", source=plain_recipe(tmp_path, dev)
    )


def test_what_is_asked_for_wins_over_what_is_remembered(tuned: Path, dev: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.move(tuned / "adapter", tmp_path / "sent"))
    asked = {**TASK, "data__prompt": "{{ text }}", "data__choices": ["positive", "negative", "x"]}
    found = scores(adapter, data__eval=str(dev), **asked)
    assert found["loss"] != scores(adapter, data__eval=str(dev))["loss"]
    manifest = open_adapter(adapter).manifest
    assert manifest is not None
    source = tmp_path / "asked.yaml"
    data = {key.removeprefix("data__"): value for key, value in asked.items()}
    recipe = {"model": manifest.base.name, "method": {"name": "freeze"}, "data": {**data, "eval": str(dev)}}
    source.write_text(json.dumps(recipe), encoding="utf-8")
    assert scores(adapter, str(source)) == found


def plain_recipe(tmp_path: Path, dev: Path) -> str:
    data = {"eval": str(dev), "answer": "{{ label }}"}
    recipe = {"model": model_of(tmp_path / "sent"), "method": {"name": "freeze"}, "data": data}
    (tmp_path / "plain.yaml").write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    return str(tmp_path / "plain.yaml")


def test_another_base_is_refused(tuned: Path, dev: Path, model_folders: dict[str, Path]) -> None:
    other = str(model_folders["llama-untied"])
    with pytest.raises(AdapterError, match="was made on") as caught:
        run(tuned, data__eval=str(dev), model=other)
    assert caught.value.exit_code == 3
    assert "--force" in str(caught.value.hint)
    notes: list[str] = []
    forced = run(tuned, data__eval=str(dev), model=other, force=True, notes=notes)
    assert forced["scores"]["rows"] == 10
    assert any("was made on" in note for note in notes)


def test_a_base_of_another_family_cannot_be_forced(tuned: Path, dev: Path, model_folders: dict[str, Path]) -> None:
    with pytest.raises(AdapterError, match="does not have"):
        run(tuned, data__eval=str(dev), model=str(model_folders["gpt2-tied"]), force=True)


def test_a_base_that_changed_since(tuned: Path, dev: Path, tmp_path: Path, model_folders: dict[str, Path]) -> None:
    """One number of the base differs: another fingerprint."""
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(model_folders["llama-tied"], tmp_path / "model")
    assert scores(tuned, data__eval=str(dev), model=str(model)) == scores(tuned, data__eval=str(dev))
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterError, match="was made on"):
        run(tuned, data__eval=str(dev), model=str(model))


def test_a_base_copied_elsewhere_is_the_same(
    tuned: Path, dev: Path, tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    model = shutil.copytree(model_folders["llama-tied"], tmp_path / "copy")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps({**config, "transformers_version": "9"}), encoding="utf-8")
    run(tuned, data__eval=str(dev), model=str(model))


@pytest.mark.filterwarnings("ignore")
def test_a_lora_folder_of_peft(model_folders: dict[str, Path], dev: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folders["llama-tied"])
    torch.manual_seed(0)
    twin = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter))
    twin.save_pretrained(str(tmp_path / "lora"))
    notes: list[str] = []
    model_flag = str(model_folders["llama-tied"])
    found = scores(
        tmp_path / "lora",
        data__eval=str(dev),
        model=model_flag,
        notes=notes,
        **TASK,
    )
    plain: Any = twin
    plain.merge_and_unload().save_pretrained(tmp_path / "merged")
    for path in model_folders["llama-tied"].glob("token*"):
        shutil.copy(path, tmp_path / "merged")
    merged = scores(data__eval=str(dev), model=str(tmp_path / "merged"), **TASK)
    assert found == pytest.approx(merged, abs=1e-4)
    assert any("not checked" in note for note in notes)


def test_running_text(model_folders: dict[str, Path], tmp_path: Path, open_base: Any) -> None:
    text = "\n".join([*GOOD, *BAD] * 2) + "\n"
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    base = open_base("llama-tied")
    found = scores(data__eval=str(tmp_path / "text.txt"), model=str(model_folders["llama-tied"]))
    total = text_by_hand(base, text, base.max_length)
    assert found["bits_per_byte"] == pytest.approx(-total / len(text.encode()) / math.log(2), rel=1e-6)
    assert found["word_perplexity"] == pytest.approx(math.exp(-total / len(text.split())), rel=1e-5)
    short = scores(data__eval=str(tmp_path / "text.txt"), model=str(model_folders["llama-tied"]), data__max_length=8)
    assert short["tokens"] == found["tokens"]
    assert short["loss"] == pytest.approx(-text_by_hand(base, text, 8) / found["tokens"], rel=1e-6)


def test_running_text_of_a_masked_model(model_folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("it was good", encoding="utf-8")
    with pytest.raises(ModelError, match="no perplexity of running text"):
        run(data__eval=str(tmp_path / "text.txt"), model=str(model_folders["bert-tied"]))


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_a_text_without_a_word(text: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="is empty"):
        run(data__eval=str(tmp_path / "text.txt"), model=str(model_folders["llama-tied"]))


def test_a_text_that_is_not_utf8(model_folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"gr\xfcn")
    with pytest.raises(DataError, match="not UTF-8: byte 2"):
        run(data__eval=str(tmp_path / "text.txt"), model=str(model_folders["llama-tied"]))


def test_free_answers(
    model_folders: dict[str, Path], dev: Path, tmp_path: Path, open_base: Callable[[str], Any]
) -> None:
    """By one plain forward pass a row: the end-of-text token is a part of the loss, but not of the answer."""
    import torch

    model, task = str(model_folders["gpt2-tied"]), {"data__prompt": PROMPT, "data__answer": "{{ label }}"}
    found = scores(data__eval=str(dev), model=model, save=tmp_path / "items.jsonl", **task)
    base = open_base("gpt2-tied")
    answers, ends, count = [], [], 0
    for row in map(json.loads, dev.read_text("utf-8").splitlines()):
        prompt = PROMPT.replace("{{ text }}", row["text"])
        context = len(base.tokenizer(prompt)["input_ids"])
        whole = [*base.tokenizer(f"{prompt} {row['label']}")["input_ids"], base.tokenizer.eos_token_id]
        with torch.no_grad():
            nats = base.model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
        lls = [nats[i - 1, whole[i]].item() for i in range(context, len(whole))]
        answers.append(sum(lls[:-1]))
        ends.append(lls[-1])
        count += len(lls) - 1
    assert found["rows"] == 10
    assert found["loss"] == pytest.approx(-(sum(answers) + sum(ends)) / 10, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(-sum(answers) / 10), rel=1e-4)
    assert found["token_perplexity"] == pytest.approx(math.exp(-sum(answers) / count), rel=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text("utf-8").splitlines()]
    assert [line["said"]["ll"] for line in lines] == [pytest.approx([ll], abs=1e-5) for ll in answers]


def test_rows_dropped_and_cut_are_counted(model_folders: dict[str, Path], dev: Path) -> None:
    common: dict[str, Any] = {
        "data__eval": str(dev),
        "model": str(model_folders["llama-tied"]),
        "data__max_length": 40,
        **TASK,
    }
    dropped = scores(**common, data__on_long="drop")
    cut = scores(**common, data__on_long="truncate")
    assert 0 < dropped["dropped"] < 10
    assert dropped["rows"] == 10 - dropped["dropped"]
    assert (cut["rows"], cut["truncated"], cut["dropped"]) == (10, dropped["dropped"], 0)


def test_a_single_row(model_folders: dict[str, Path], tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "one.jsonl", review_rows(1))
    found = scores(data__eval=str(one), model=str(model_folders["llama-tied"]), **TASK)
    assert found["rows"] == 1
    assert found["acc_stderr"] is None


def test_what_is_missing(model_folders: dict[str, Path], dev: Path, tmp_path: Path) -> None:
    model = str(model_folders["llama-tied"])
    with pytest.raises(RecipeError, match=r"data\.eval is missing"):
        run(model=model)
    with pytest.raises(RecipeError, match="model"):
        run(data__eval=str(dev))
    with pytest.raises(AdapterError, match="no adapter at"):
        run(tmp_path / "nowhere", data__eval=str(dev), model=model)
    with pytest.raises(DataError, match="does not exist"):
        run(data__eval=str(tmp_path / "nowhere.jsonl"), model=model)
    with pytest.raises(DataError, match="no field 'prompt'"):
        run(data__eval=str(dev), model=model)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 255
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [
    lambda path: os.truncate(path, path.stat().st_size - 8), lambda path: os.truncate(path, 0), _flip, Path.unlink
], ids=["truncated", "empty", "header", "missing"])  # fmt: skip
def test_a_broken_adapter(damage: Callable[[Path], Any], tuned: Path, dev: Path) -> None:
    damage(tuned / "adapter" / "adapter_model.safetensors")
    with pytest.raises(AdapterError) as caught:
        run(tuned, data__eval=str(dev))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_a_broken_base(size: int, model_folders: dict[str, Path], dev: Path, tmp_path: Path) -> None:
    model = shutil.copytree(model_folders["llama-tied"], tmp_path / "model")
    os.truncate(model / "model.safetensors", size)
    with pytest.raises(CtxtuneError) as caught:
        run(data__eval=str(dev), model=str(model), **TASK)
    assert caught.value.exit_code == 3


def test_the_base_is_what_it_was(tuned: Path, dev: Path, model_folders: dict[str, Path]) -> None:
    before = scores(data__eval=str(dev), model=str(model_folders["llama-tied"]), **TASK)
    run(tuned, data__eval=str(dev))
    assert scores(data__eval=str(dev), model=str(model_folders["llama-tied"]), **TASK) == before
    assert load_base(model_folders["llama-tied"]).model is not None


def test_what_every_row_gave(tuned: Path, dev: Path, tmp_path: Path) -> None:
    """The saved rows are those that the scores are means of."""
    found = scores(tuned, save=tmp_path / "items.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text("utf-8").splitlines()]
    rows = [json.loads(line) for line in dev.read_text("utf-8").splitlines()]
    assert [line["line"] for line in lines] == list(range(1, 11))
    assert len({line["row"] for line in lines}) == 10
    for line, row in zip(lines, rows, strict=True):
        lls, gold = line["said"]["ll"], CHOICES.index(row["label"])
        assert line["said"]["gold"] == gold
        assert line["scores"]["acc"] == float(lls.index(max(lls)) == gold)
        assert line["scores"]["loss"] == -lls[gold]
    for name in ("acc", "acc_norm", "acc_bytes", "loss"):
        assert sum(line["scores"][name] for line in lines) / 10 == pytest.approx(found[name])


def test_against_its_base_and_against_files(
    tuned: Path, dev: Path, tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    """In one run, from the saved rows of two, and with the adapter on the other side: the same differences."""
    model, base_rows, tuned_rows = str(model_folders["llama-tied"]), tmp_path / "base.jsonl", tmp_path / "tuned.jsonl"
    before = scores(model=model, data__eval=str(dev), save=base_rows, **TASK)
    once = run(tuned, against="base", save=tuned_rows)
    assert once["scores"] == scores(tuned)
    assert once["against"]["name"] == "base"
    found = once["against"]["differences"]
    assert found.keys() == {"acc", "acc_norm", "acc_bytes", "loss"}
    for name, one in found.items():
        assert one["other"] == pytest.approx(before[name])
        assert one["difference"] == pytest.approx(once["scores"][name] - before[name], abs=1e-12)
        assert one["low"] <= one["difference"] <= one["high"]
    assert found["loss"]["lower"] + found["loss"]["higher"] == 10
    assert run(tuned, against=str(base_rows))["against"]["differences"] == found
    (tmp_path / "turned.jsonl").write_text("".join(reversed(base_rows.read_text("utf-8").splitlines(True))), "utf-8")
    assert run(tuned, against=str(tmp_path / "turned.jsonl"))["against"]["differences"]["loss"] == found["loss"]
    other_way = run(model=model, data__eval=str(dev), against=str(tuned), **TASK)["against"]["differences"]
    assert {name: -one["difference"] for name, one in other_way.items()} == pytest.approx(
        {name: one["difference"] for name, one in found.items()}
    )
    itself = run(tuned, against=str(tuned_rows))["against"]["differences"]
    assert all((one["difference"], one["low"], one["high"], one["p"]) == (0, 0, 0, 1) for one in itself.values())


def test_running_text_against_its_base(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join([*GOOD, *BAD] * 3), encoding="utf-8")
    source = tmp_path / "text.yaml"
    recipe = {"model": model_of(tuned), "method": {"name": "freeze"}, "data": {"eval": str(tmp_path / "text.txt")}}
    source.write_text(json.dumps(recipe), encoding="utf-8")
    found = run(tuned, str(source), against="base")
    plain = run(source=str(source))["scores"]
    one = found["against"]["differences"]["loss"]
    assert one["other"] == pytest.approx(plain["loss"])
    assert one["difference"] == pytest.approx(found["scores"]["loss"] - plain["loss"])


def test_a_result_that_cannot_be_compared(
    tuned: Path, dev: Path, tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    """Found before a model is loaded, wherever the rows alone tell."""
    model = str(model_folders["llama-tied"])
    with pytest.raises(RecipeError, match="--against base compares an adapter"):
        run(model=model, data__eval=str(dev), against="base", **TASK)
    with pytest.raises(DataError, match="does not exist"):
        run(tuned, against=str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(DataError, match=r"dev\.jsonl line 1: this is no scored row"):
        run(tuned, against=str(dev))
    with pytest.raises(AdapterError, match="is no adapter"):
        run(tuned, against=str(tmp_path))
    scores(tuned, save=tmp_path / "items.jsonl")
    fewer = write_jsonl(tmp_path / "fewer.jsonl", review_rows(9, 30))
    with pytest.raises(DataError, match="scored on other rows: 10 rows against 9 here, 9 in common"):
        run(model=str(tmp_path / "no model"), data__eval=str(fewer), against=str(tmp_path / "items.jsonl"), **TASK)
    with pytest.raises(AdapterError, match="was made on"):
        run(model=str(model_folders["llama-untied"]), data__eval=str(dev), against=str(tuned), **TASK)


def test_saved_rows_never_replace_anything_but_an_earlier_result(dev: Path, tmp_path: Path) -> None:
    """Told before a model is looked for, and nothing has changed."""
    nowhere = str(tmp_path / "no model")
    earlier = tmp_path / "earlier.jsonl"
    earlier.write_text('{"row": "a", "line": 1, "scores": {"acc": 1.0}}\n', encoding="utf-8")
    others = {
        dev: "a file that this run reads",
        tmp_path / "link.jsonl": "a file that this run reads",
        write_jsonl(tmp_path / "train.jsonl", review_rows(3, 1)): "holds something else than an earlier result",
        tmp_path / "r.yaml": "holds something else than an earlier result",
        Path("/dev/null"): "is no regular file",
    }
    (tmp_path / "link.jsonl").symlink_to(dev)
    (tmp_path / "r.yaml").write_text("ctxtune: 1\n", encoding="utf-8")
    for path, why in others.items():
        before = path.read_bytes()
        with pytest.raises(PlaceError, match=why):
            run(model=nowhere, data__eval=str(dev), save=path, **TASK)
        assert path.read_bytes() == before
    rows = write_jsonl(tmp_path / "rows.jsonl", [{**json.loads(earlier.read_text("utf-8")), **review_rows(1, 1)[0]}])
    for read in ({"data__eval": str(rows)}, {"data__eval": str(dev), "against": str(rows)}):
        with pytest.raises(PlaceError, match="a file that this run reads"):
            run(model=nowhere, save=rows, **read, **TASK)
    (tmp_path / "empty.jsonl").touch()
    for path in (earlier, tmp_path / "empty.jsonl", tmp_path / "new.jsonl"):
        with pytest.raises(ModelError, match="no model"):
            run(model=nowhere, data__eval=str(dev), save=path, **TASK)


def test_a_place_for_saved_rows_that_cannot_be_written_is_found_before_the_model(dev: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, Path(), tmp_path / "file" / "x", tmp_path / "none" / "x", Path("/proc/x"), Path("x" * 300)):
        with pytest.raises(PlaceError) as caught:
            run(model=str(tmp_path / "no model"), data__eval=str(dev), save=path, **TASK)
        assert caught.value.exit_code == 2
    assert not (tmp_path / "none").exists()


def test_results_that_were_measured_otherwise_are_not_compared(tuned: Path, dev: Path, tmp_path: Path) -> None:
    """`loss` of the right choice leaves out the token that ends a free answer: a p-value of the two says nothing."""
    free: dict[str, Any] = {"model": model_of(tuned), "data__eval": str(dev), **TASK, "data__choices": None}
    chosen, likely, written = (tmp_path / f"{name}.jsonl" for name in ("chosen", "likely", "written"))
    run(tuned, save=chosen)
    run(save=likely, **free)
    run(save=written, **free, score__metric="exact", generate__max_tokens=2)
    nowhere = free | {"model": str(tmp_path / "no model")}
    for against in (chosen, written):
        with pytest.raises(DataError, match="mean other things"):
            run(against=str(against), **nowhere)
    for against in (chosen, likely):
        with pytest.raises(DataError, match="mean other things"):
            run(against=str(against), **nowhere, score__metric="exact")
    for against in (likely, written):
        with pytest.raises(DataError, match="and this result with choices: their numbers mean other things"):
            run(against=str(against), **nowhere | TASK)
    assert run(against=str(likely), **free)["against"]["differences"]["loss"]["difference"] == 0
