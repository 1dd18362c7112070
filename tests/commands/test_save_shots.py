"""Demonstrations as an adapter: eval, generate and plain PEFT say behind it what they say behind the demonstrations' text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ctxtune.adapter import write
from ctxtune.adapter.read import open_adapter
from ctxtune.backend.load import load_base
from ctxtune.commands import fewshot as command
from ctxtune.commands.evaluate import evaluate
from ctxtune.commands.export import export
from ctxtune.commands.fewshot_run import fewshot_run
from ctxtune.commands.generate import asks_of_prompts, generate, stream
from ctxtune.commands.session import Session
from ctxtune.errors import AdapterError, ModelError, RecipeError, StorageError
from ctxtune.recipe.load import load

from ..backend.test_trunk import double  # noqa: F401
from ..conftest import CHOICES, FOUND, WINDOW, write_jsonl
from .test_calibrated import MANY
from .test_fewshot import ASKED, POOL, ask, question  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base
    from ctxtune.recipe.load import Resolved

CAUSAL = ("llama-tied", "gpt2-tied", "qwen2-tied", "qwen3-untied", "gpt_neox-untied", "opt-tied", "opt-projected-tied")
SLIDING = ("qwen3-sliding-tied", "gemma3_text-tied", "mistral-untied", "phi3-untied")
FRONT = "".join(f"{question(shot)} {shot['label']}\n" for shot in POOL[:3])


@pytest.fixture
def saved(ask: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:  # noqa: F811
    """Run the command on a tiny model with `--scores items.jsonl --save adapter`."""

    def saved(kind: str = "llama-tied", **more: Any) -> dict[str, Any]:
        more = {"method__select": "fixed", **more}
        facts: dict[str, Any] = ask(kind, scores=tmp_path / "items.jsonl", save=tmp_path / "adapter", **more)
        return facts

    return saved


def evaluated(folder: Path, notes: list[str] | None = None, **more: Any) -> dict[str, Any]:
    given = {"device": "cpu", "data.eval": str(folder / "asked.jsonl"), **more}
    say = [].append if notes is None else notes.append
    return evaluate(None, given, [], folder / "adapter", False, say, folder / "again.jsonl")


def items(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("kind", [*CAUSAL, *SLIDING])
def test_peft_alone_says_what_the_model_says_of_the_whole_text(
    kind: str,
    saved: Callable[..., Any],
    double: Callable[[str], Base],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from peft import PeftModel

    base = double(kind)
    monkeypatch.setattr(command, "_load", lambda *_: (base, "sha256:0"))
    facts = saved(kind)["adapter"]
    assert (facts["demonstrations"], facts["question_alone"]) == (3, True)
    assert facts["tokens"] > 2 * WINDOW
    asked = [base.tokenizer(question(row), add_special_tokens=False)["input_ids"] for row in ASKED[:3]]
    with torch.no_grad():
        whole = [
            base.model(input_ids=base.tokenizer(FRONT + question(row), return_tensors="pt")["input_ids"]).logits[0]
            for row in ASKED[:3]
        ]
        torch.set_default_dtype(torch.float64)  # PEFT keeps a prefix in that
        try:
            model = PeftModel.from_pretrained(base.model, tmp_path / "adapter").eval()
        finally:
            torch.set_default_dtype(torch.float32)
        longest = max(map(len, asked))
        ids = torch.tensor([one + [0] * (longest - len(one)) for one in asked])
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in asked])
        padded = model(input_ids=ids, attention_mask=mask).logits
        for number, (one, expected) in enumerate(zip(asked, whole, strict=True)):
            alone = model(input_ids=torch.tensor([one])).logits[0]
            for found in (alone, padded[number, : len(one)]):
                assert (found - expected[-len(one) :]).abs().max() <= 1e-10
        assert (alone - base.model(input_ids=torch.tensor([one])).logits[0]).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "gemma3_text-tied"])
def test_eval_gives_what_fewshot_gave(kind: str, saved: Callable[..., Any], tmp_path: Path) -> None:
    facts = saved(kind, data__instruction="So:\n")
    again = evaluated(tmp_path)["scores"]
    assert again["acc"] == facts["scores"]["acc"]
    assert again == pytest.approx(facts["scores"], abs=1e-4)
    for one, other in zip(items(tmp_path / "items.jsonl"), items(tmp_path / "again.jsonl"), strict=True):
        assert other["said"]["ll"] == pytest.approx(one["said"]["ll"], abs=1e-4)


def test_nothing_that_is_held_is_read(
    saved: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxtune.backend import prefix

    saved()
    read, lengths = prefix._read, []
    monkeypatch.setattr(
        prefix, "_read", lambda trunk, ids, *rest: (lengths.append(len(ids)), read(trunk, ids, *rest))[1]
    )
    evaluated(tmp_path)
    assert lengths == [1]


@pytest.mark.parametrize("name", ["contextual", "domain", "batch", "pmi"])
def test_the_calibration_is_held(name: str, saved: Callable[..., Any], tmp_path: Path) -> None:
    facts = saved(asked=MANY, method__calibrate=name, method__prior=[0.3, 0.7])
    again = evaluated(tmp_path)
    assert again["scores"]["acc"] == facts["scores"]["acc"]
    assert not [key for key in again["scores"] if key in ("acc_none", f"acc_{name}")]
    for key, found in again["calibrations"].items():
        assert found == {part: facts["calibrations"][key][part] for part in ("acc", "acc_stderr")}
    assert list(again["calibrations"]) == ["none", name]
    for one, other in zip(items(tmp_path / "items.jsonl"), items(tmp_path / "again.jsonl"), strict=True):
        assert other["said"]["calibrated"][name] == pytest.approx(one["said"]["calibrated"][name], abs=1e-4)
    notes: list[str] = []
    other = evaluated(tmp_path, notes, **{"data.choices": [*CHOICES, "odd"]})
    assert "calibrations" not in other
    assert any("calibration is for the choices negative, positive" in note for note in notes)


def test_quantisation_is_held(saved: Callable[..., Any], tmp_path: Path) -> None:
    facts, notes = saved(quant="nf4"), list[str]()
    assert evaluated(tmp_path, notes)["scores"] == pytest.approx(facts["scores"], abs=1e-4)
    assert any("in nf4" in note for note in notes)


def test_rows_that_are_demonstrations(saved: Callable[..., Any], tmp_path: Path) -> None:
    """Few-shot prompting asks them behind the others; the adapter holds all, and eval says so."""
    facts = saved(asked=[*POOL[:2], *ASKED])
    assert facts["asked_behind_fewer"] == 2
    assert facts["adapter"]["demonstrations"] == 3
    notes: list[str] = []
    evaluated(tmp_path, notes)
    assert "rows that are demonstrations of the adapter, and see their own answer: 2" in notes
    for one, other in list(zip(items(tmp_path / "items.jsonl"), items(tmp_path / "again.jsonl"), strict=True))[2:]:
        assert other["said"]["ll"] == pytest.approx(one["said"]["ll"], abs=1e-4)


def test_written_answers(saved: Callable[..., Any], tmp_path: Path) -> None:
    saved(data__choices=None, score__metric="exact", generate__max_tokens=6)
    evaluated(tmp_path)
    texts = [[item["said"]["text"] for item in items(tmp_path / name)] for name in ("items.jsonl", "again.jsonl")]
    assert texts[0] == texts[1]


def written_by_hand(base: Base, text: str, count: int = 6) -> str:
    ids = base.tokenizer(text, return_tensors="pt")["input_ids"]
    told = base.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    text = base.tokenizer.decode(told[0, ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.partition("\n")[0]  # the separator ends an answer


@pytest.mark.parametrize("kind", ["llama-tied", "gemma3_text-tied"])
def test_generate(kind: str, saved: Callable[..., Any], open_base: Callable[[str], Base], tmp_path: Path) -> None:
    saved(kind)
    base, asked = open_base(kind), [question(row) for row in ASKED[:4]]
    expected = [written_by_hand(base, FRONT + one) for one in asked]
    flags, notes = {"device": "cpu", "generate.max_tokens": 6}, list[str]()
    given = (flags, tmp_path / "adapter", False)
    assert [one["text"] for one in generate(asks_of_prompts(asked), *given, 3, notes.append)] == expected
    assert ["".join(stream(one, *given, notes.append)) for one in asked] == expected
    assert not any("read as a whole" in note for note in notes)
    session = Session({"model": str(base.folder), **flags}, None, False, notes.append)
    assert "".join(session.ask(asked[0])) == written_by_hand(base, asked[0])
    session.obey(f"/adapter {tmp_path / 'adapter'}")
    assert ["".join(session.ask(one)) for one in asked] == expected
    session.obey("/adapter none")
    assert "".join(session.ask(asked[1])) == written_by_hand(base, asked[1])


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "mistral-untied"])
def test_the_python_of_the_card_runs(
    kind: str, saved: Callable[..., Any], open_base: Callable[[str], Base], tmp_path: Path
) -> None:
    saved(kind)
    base, asked = open_base(kind), question(ASKED[0])
    shown = (tmp_path / "adapter" / "README.md").read_text("utf-8").partition("```python\n")[2].partition("```")[0]
    for word, value in (('"BASE"', str(base.folder)), ('"QUESTION"', asked), ('"."', str(tmp_path / "adapter"))):
        shown = shown.replace(word, repr(value))
    said: dict[str, Any] = {}
    exec(shown.replace("print", "text =").replace("max_new_tokens=8", "max_new_tokens=6, do_sample=False"), said)
    whole = base.tokenizer(FRONT + asked, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = base.model(input_ids=whole).logits[0, -said["ids"].shape[1] :]
    assert (said["logits"][0] - expected).abs().max() <= 2e-4
    assert said["text"].partition("\n")[0] == written_by_hand(base, FRONT + asked)


def test_a_chat_does_not_stand_behind_demonstrations(saved: Callable[..., Any], tmp_path: Path) -> None:
    saved()
    with pytest.raises(RecipeError, match="stands before plain text, not before a chat"):
        list(generate(asks_of_prompts(["a"]), {"generate.chat": True}, tmp_path / "adapter", False, 1, print))


def spaced(model: Path, folder: Path) -> Path:
    """A copy of a model whose tokenizer puts a space before the first word of a text, as SentencePiece does."""
    shutil.copytree(model, folder)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    bpe.decoder = decoders.Metaspace(prepend_scheme="first")
    letters = [chr(code) for code in range(32, 127)] + ["\n", "\u2581"]
    special = ["<s>", "</s>", "<pad>"]
    bpe.train_from_iterator(
        [FRONT, *(f" {choice}" for choice in CHOICES)] * 4,
        trainers.BpeTrainer(vocab_size=200, special_tokens=special, initial_alphabet=letters, show_progress=False),
    )
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")  # peft's own
def test_a_tokenizer_that_joins_otherwise(
    saved: Callable[..., Any], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """A question's own tokens are others: ctxtune takes those of the whole text, and tells how PEFT is given them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = spaced(model_folders["llama-tied"], tmp_path / "spaced")
    facts = saved(model=str(folder))
    assert not facts["adapter"]["question_alone"]
    assert evaluated(tmp_path)["scores"] == pytest.approx(facts["scores"], abs=1e-4)
    size = facts["adapter"]["tokens"]
    card = (tmp_path / "adapter" / "README.md").read_text("utf-8")
    assert f".input_ids[:, {size}:]" in card
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder)(FRONT + question(ASKED[0]), return_tensors="pt").input_ids
    with torch.no_grad():
        expected = base(input_ids=ids).logits[:, size:]
        model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert (model(input_ids=ids[:, size:]).logits - expected).abs().max() <= 2e-4


def test_texts_that_begin_otherwise_are_read_as_a_whole(saved: Callable[..., Any], tmp_path: Path) -> None:
    """Cut at their left, they no longer begin with what is held."""
    facts = saved()
    notes: list[str] = []
    longest = facts["adapter"]["tokens"] + 4
    found = evaluated(tmp_path, notes, **{"data.max_length": longest, "data.on_long": "truncate"})
    assert found["scores"]["rows"] == len(ASKED)
    assert 0 < found["scores"]["truncated"] <= len(ASKED)
    said = "texts that do not begin with the tokens that the adapter holds, and were read as a whole"
    assert f"{said}: {found['scores']['truncated']}" in notes


def test_a_prompt_that_joins_otherwise(
    saved: Callable[..., Any], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Merged with the end of the demonstrations it is other tokens: it is read with them, as a whole, and that is said."""
    folder = tmp_path / "merging"
    shutil.copytree(model_folders["llama-tied"], folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["pre_tokenizer"]["use_regex"] = False  # a line break may merge with what is behind it
    size = len(tokenizer["model"]["vocab"])
    vocabulary = {piece: number for piece, number in tokenizer["model"]["vocab"].items() if number < size - 1}
    tokenizer["model"]["vocab"] = {**vocabulary, "\u010aZ": size - 1}
    lost = next(
        piece
        for piece, number in json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"].items()
        if number == size - 1
    )
    tokenizer["model"]["merges"] = [
        ["\u010a", "Z"], *(pair for pair in tokenizer["model"]["merges"] if "".join(pair) != lost)
    ]  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    saved(model=str(folder))
    base, notes = load_base(folder, "cpu"), list[str]()
    given = ({"device": "cpu", "generate.max_tokens": 6}, tmp_path / "adapter", False)
    prompts = [question(ASKED[0]), "Zoo ="]
    expected = [written_by_hand(base, FRONT + prompt) for prompt in prompts]
    assert [one["text"] for one in generate(asks_of_prompts(prompts), *given, 2, notes.append)] == expected
    assert "texts that do not begin with the tokens that the adapter holds, and were read as a whole: 1" in notes
    assert "".join(stream(prompts[1], *given, notes.append)) == expected[1]
    assert "the text does not begin with the tokens that the adapter holds, and is read as a whole" in notes


def test_a_full_disk_leaves_nothing(saved: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "write_tensors", lambda *_: full(0))
    with pytest.raises(OSError, match="No space left"):
        saved()
    assert {path.name for path in tmp_path.iterdir()} <= {"pool.jsonl", "asked.jsonl", "items.jsonl", "home"}


def test_an_older_adapter_is_not_replaced(
    saved: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by --save nor by an export; a run that was killed before its result is done again in its own folder."""
    saved()
    before = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    monkeypatch.setattr(command, "_load", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(StorageError, match="adapter holds an adapter already"):
        saved(method__seed=1)
    with pytest.raises(StorageError, match="adapter holds an adapter already"):
        export(tmp_path / "adapter", "peft", tmp_path / "adapter")
    assert {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()} == before


def test_a_killed_save_is_swept_by_the_next(saved: Callable[..., Any], tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [tmp_path / f".{name}.{dead.pid}-0badf00d.tmp" for name in ("adapter", "items.jsonl")]
    left[0].mkdir()
    (left[0] / "adapter_model.safetensors").write_text("half")
    left[1].write_text("half")
    saved()
    assert not [path for path in left if path.exists()]


def test_a_narrow_type_is_held_as_it_is(saved: Callable[..., Any], tmp_path: Path) -> None:
    facts = saved(dtype="bfloat16")
    info = open_adapter(tmp_path / "adapter").header.tensors["prompt_embeddings"]
    assert info.dtype == "BF16"
    assert evaluated(tmp_path, dtype="bfloat16")["scores"] == pytest.approx(facts["scores"], abs=0.05)
    assert evaluated(tmp_path)["scores"]["loss"] == pytest.approx(facts["scores"]["loss"], abs=0.1)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method__select": "bm25"}, "select bm25 shows each question other examples"),
        ({"method__select": "random", "method__seeds": 2}, "2 draws are 2 sets"),
        ({"method__shots": 0}, "there is nothing to hold"),
        ({"method__calibrate": "channel"}, "calibration channel asks for something else of every row"),
    ],
)
def test_what_no_adapter_holds(more: dict[str, Any], said: str, saved: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        saved(**more)
    assert not (tmp_path / "adapter").exists()


def test_an_instruction_alone(saved: Callable[..., Any], tmp_path: Path) -> None:
    facts = saved(method__shots=0, data__train=None, data__instruction="What is it?\n")
    assert facts["adapter"]["demonstrations"] == 0
    assert evaluated(tmp_path)["scores"] == pytest.approx(facts["scores"], abs=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in FOUND if not kind.startswith("distilbert")])
def test_a_family_that_was_found_is_refused(kind: str, saved: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="is not known: nothing can be put before its texts"):
        saved(kind)


def test_another_base_is_refused(saved: Callable[..., Any], model_folders: dict[str, Path], tmp_path: Path) -> None:
    saved()
    with pytest.raises(AdapterError, match="was made on"):
        evaluated(tmp_path, model=str(model_folders["llama-untied"]))
    given = {"device": "cpu", "data.eval": str(tmp_path / "asked.jsonl"), "model": str(model_folders["gpt2-tied"])}
    with pytest.raises(AdapterError, match=r"has 128 numbers a token, the model keeps 256"):
        evaluate(None, given, [], tmp_path / "adapter", True, print)


def test_something_else_is_not_overwritten(saved: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"holds 'mine\.txt'"):
        saved()


def test_against_the_base(saved: Callable[..., Any], tmp_path: Path, model_folders: dict[str, Path]) -> None:
    facts = saved()
    given = {"device": "cpu", "data.eval": str(tmp_path / "asked.jsonl")}
    found = evaluate(None, given, [], tmp_path / "adapter", False, print, None, "base")
    alone = evaluate(
        None,
        {
            **given,
            "model": str(model_folders["llama-tied"]),
            "data.prompt": "{{ text }} =",
            "data.answer": "{{ label }}",
            "data.choices": CHOICES,
        },
        [],
        None,
        False,
        print,
    )
    difference = found["against"]["differences"]["loss"]["difference"]
    assert difference == pytest.approx(facts["scores"]["loss"] - alone["scores"]["loss"], abs=1e-4)


def test_the_file_alone_is_enough(saved: Callable[..., Any], tmp_path: Path) -> None:
    facts = saved()
    lone = tmp_path / "lone.safetensors"
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(lone)
    given = {"device": "cpu", "data.eval": str(tmp_path / "asked.jsonl")}
    assert evaluate(None, given, [], lone, False, print)["scores"] == pytest.approx(facts["scores"], abs=1e-4)
    manifest = open_adapter(lone).manifest
    assert manifest is not None
    assert manifest.shown is not None
    assert manifest.shown.front == FRONT
    assert manifest.shown.where == ["pool.jsonl line 1", "pool.jsonl line 2", "pool.jsonl line 3"]
    assert {"train", "eval"} <= manifest.inputs.keys()


def run_of(model: Path, folder: Path, **more: object) -> Resolved:
    given = {
        "model": str(model), "method.name": "fewshot", "device": "cpu", "data.prompt": "{{ text }} =", "data.choices": CHOICES,
        "data.answer": "{{ label }}", "cache": "off", "data.separator": "\n", "method.shots": 3, "method.select": "fixed",
        "data.train": str(write_jsonl(folder / "pool.jsonl", POOL)), "out": str(folder / "run"),
        "data.eval": str(write_jsonl(folder / "asked.jsonl", ASKED)),
    }  # fmt: skip
    return load(None, {**given, **{name.replace("__", "."): value for name, value in more.items()}})


def test_a_run_leaves_a_folder(model_folders: dict[str, Path], tmp_path: Path) -> None:
    notes: list[str] = []
    facts = fewshot_run(run_of(model_folders["llama-tied"], tmp_path), False, notes.append)
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {".lock", "recipe.yaml", "result.json", "scores.jsonl", "adapter"}
    given = {"device": "cpu"}
    assert evaluate(None, given, [], run, False, print)["scores"] == pytest.approx(facts["scores"], abs=1e-4)
    resolved = load(str(run / "recipe.yaml"), {})
    assert {"train", "eval", "model"} <= (resolved.recipe.inputs or {}).keys()
    with pytest.raises(RecipeError, match="holds a complete run"):
        fewshot_run(resolved, False, notes.append)
    (run / "result.json").unlink()
    again = fewshot_run(load(str(run / "recipe.yaml"), {"out": str(run)}), True, notes.append)
    assert again["scores"] == facts["scores"]
    assert open_adapter(run).manifest is not None
    resolved = load(str(run / "recipe.yaml"), {"out": str(run)})
    assert fewshot_run(resolved, True, notes.append) == json.loads((run / "result.json").read_text())
    assert notes[-1].endswith("is complete: nothing to resume")
    other = load(
        str(run / "recipe.yaml"), {"model": str(model_folders["llama-untied"]), "out": str(tmp_path / "other")}
    )
    with pytest.raises(RecipeError, match="made with another base"):
        fewshot_run(other, False, notes.append)
    assert not (tmp_path / "other").exists()


def test_a_run_of_many_sets_has_no_adapter(model_folders: dict[str, Path], tmp_path: Path) -> None:
    notes: list[str] = []
    fewshot_run(run_of(model_folders["llama-tied"], tmp_path, method__select="bm25"), False, notes.append)
    assert not (tmp_path / "run" / "adapter").exists()
    assert (tmp_path / "run" / "result.json").exists()
    assert any(note.startswith("no adapter: select bm25 shows each question other examples") for note in notes)
