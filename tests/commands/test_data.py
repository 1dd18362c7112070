"""What rows are before a run: counted by hand here, and by the run itself."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ctxtune.commands.adapt import adapt
from ctxtune.commands.data import quantiles, show, stats
from ctxtune.commands.dry_run import dry_run
from ctxtune.commands.prepare import compile_templates, unbound
from ctxtune.data.leakage import leaked_rows
from ctxtune.data.read import read_rows
from ctxtune.errors import RecipeError
from ctxtune.recipe.data import Data
from ctxtune.recipe.load import load

from ..conftest import CHOICES, review_rows, save_chatty, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.recipe.load import Resolved


@pytest.mark.parametrize("kind", ["llama-tied", "bert-tied"])
def test_the_counts_are_those_of_a_run(kind: str, resolve: Callable[..., Resolved], reviews: Path, dev: Path) -> None:
    resolved = resolve(kind, reviews, more={"data.eval": str(dev)})
    facts, foreseen = stats(resolved), dry_run(resolved)
    for key in ("rows", "tokens", "supervised_tokens"):
        assert facts[key] == foreseen[key]
    assert list(facts["labels"].values()) == [11, 11]
    assert (facts["twice"], facts["contradicting"], facts["leaked"], facts["eval_rows"]) == (0, 0, 0, 10)
    assert facts["warnings"] == []


def test_what_makes_a_result_worth_less_is_said(resolve: Callable[..., Resolved], tmp_path: Path) -> None:
    rows = review_rows(20)
    other = {"text": rows[0]["text"], "label": rows[1]["label"]}
    train = write_jsonl(tmp_path / "train.jsonl", [*rows, rows[3], rows[3], other])
    # A row whose text was learned from is leaked, whatever its label says.
    dev = write_jsonl(tmp_path / "dev.jsonl", [rows[2], {**rows[4], "label": rows[1]["label"]}, *review_rows(3, 40)])
    facts = stats(resolve("llama-tied", train, more={"data.eval": str(dev), "data.max_length": 20}))
    assert (facts["twice"], facts["contradicting"], facts["leaked"]) == (2, 2, 2)
    assert facts["limit"] == 20
    assert 0 < facts["longer_than"]["20"] < 23
    leakage, contradiction, longer = facts["warnings"]
    assert "2 of 5 rows to score stand among the training rows" in leakage
    assert "2 training rows" in contradiction
    assert f"{facts['longer_than']['20']} training rows are longer than 20 tokens" in longer


def test_a_run_says_that_it_scores_what_it_has_learned(resolve: Callable[..., Resolved], tmp_path: Path) -> None:
    """The same number as of `data stats`, in the words of a note, in the result and on the adapter's card."""
    rows = review_rows(8)
    dev = write_jsonl(tmp_path / "dev.jsonl", [rows[2], {**rows[4], "label": rows[1]["label"]}, *review_rows(3, 40)])
    resolved = resolve("llama-tied", write_jsonl(tmp_path / "train.jsonl", rows), more={"data.eval": str(dev)})
    notes: list[str] = []
    tell = SimpleNamespace(note=notes.append, step=lambda facts: None)
    assert adapt(resolved, False, tell)["leaked"] == stats(resolved)["leaked"] == 2
    assert "2 of 5 rows to score stand among the training rows: leakage: the scores say little of other rows" in notes
    run = tmp_path / "run"
    assert json.loads((run / "result.json").read_text("utf-8"))["leaked"] == 2
    assert "2 stand among those that were learned from" in (run / "adapter" / "README.md").read_text("utf-8")


def test_texts_without_a_prompt_are_leaked_where_they_are_the_same(
    resolve: Callable[..., Resolved], tmp_path: Path
) -> None:
    train, dev = (tmp_path / "train.txt", tmp_path / "dev.txt")
    train.write_text("a fine film\nand a long one\n", "utf-8")
    dev.write_text("a fine film\na dull one\nno film\n", "utf-8")
    texts = {"data.eval": str(dev), "data.prompt": "", "data.answer": "{{ text }}", "data.choices": None}
    assert stats(resolve("llama-tied", train, more=texts))["leaked"] == 1


def test_chats_are_leaked_where_they_begin_alike(tmp_path: Path) -> None:
    def talk(*said: str) -> dict[str, object]:
        return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]}

    train = read_rows(write_jsonl(tmp_path / "train.jsonl", [talk("hi", "hello", "how?", "so")]))
    talks = [talk("hi", "what?"), talk("hi", "hello", "how?", "no"), talk("x", "y")]
    dev = read_rows(write_jsonl(tmp_path / "dev.jsonl", talks))
    for learn, leaked in (("all", 2), ("last", 1)):
        data = Data(messages="messages", learn=learn)  # type: ignore[arg-type]
        assert leaked_rows(train, dev, unbound(data, compile_templates(data))) == leaked


def test_a_rare_label_and_free_answers(resolve: Callable[..., Resolved], tmp_path: Path) -> None:
    rows = [{"text": f"film {i}", "label": "positive" if i else "negative"} for i in range(12)]
    facts = stats(resolve("llama-tied", write_jsonl(tmp_path / "rare.jsonl", rows)))
    assert facts["labels"] == {"positive": 11, "negative": 1}
    assert facts["warnings"] == ["the rarest label has 1 row, the most frequent 11"]
    free = resolve("llama-tied", tmp_path / "rare.jsonl", more={"data.choices": None, "data.answer": "{{ text }}"})
    assert stats(free)["labels"] == {}


def test_quantiles() -> None:
    assert quantiles([7]) == {"p50": 7, "p90": 7, "p99": 7, "p100": 7}
    assert quantiles(range(1, 101)) == {"p50": 50, "p90": 90, "p99": 99, "p100": 100}
    assert quantiles([1, 2, 3]) == {"p50": 2, "p90": 3, "p99": 3, "p100": 3}


def test_rows_are_shown_from_any_place(resolve: Callable[..., Resolved], reviews: Path) -> None:
    resolved = resolve("gpt2-tied", reviews)
    shown = show(resolved, 3, 2, False)
    assert [one.where for one in shown] == [f"{reviews} line 3", f"{reviews} line 4"]
    for one, row in zip(shown, review_rows(4)[2:], strict=True):
        prompt, answer = one.pieces
        assert (prompt.text, answer.text) == (f"Review: {row['text']}\nSentiment:", f" {row['label']}")
        assert (one.tokens, one.supervised) == (prompt.tokens + answer.tokens, answer.tokens)
    with pytest.raises(RecipeError, match="--row 99: the last is row 22"):
        show(resolved, 99, 1, False)


ALONE = """
import json, sys
from dataclasses import asdict
from types import SimpleNamespace
from ctxtune.commands.data import show, stats
from ctxtune.recipe.load import load
from ctxtune.recipe.data import Data
for given in json.loads(sys.argv[1]):
    shown, facts = show(load(None, given, []), 1, 5, True), stats(load(None, given, []))
    print(json.dumps([[asdict(one) for one in shown], facts]))
heavy = [name for name in sys.modules if name.partition(".")[0] == "torch" or ".modeling_" in name]
assert not heavy, heavy
from pathlib import Path
from ctxtune.backend.load import load_base
print(load_base(Path(given["model"]), "cpu").parameters)
"""


def test_without_torch_the_tokens_are_the_same(model_folders: dict[str, Path], reviews: Path, tmp_path: Path) -> None:
    """And a model can still be run in the same process."""
    task = {
        "data.train": str(reviews), "data.prompt": "{{ text }}:", "data.answer": "{{ label }}", "method.name": "freeze",
    }  # fmt: skip
    kinds = ("gemma3_text-tied", "roberta-tied", "phi3-untied", "llama-tied")
    headless = {"data.choices": CHOICES, "model": str(model_folders["bert-headless"])}
    given = [{**task, **headless}, *({**task, "model": str(model_folders[kind])} for kind in kinds)]
    turns = [{"role": "user", "content": "good?"}, {"role": "assistant", "content": "a fine film"}]
    chats = write_jsonl(tmp_path / "chats.jsonl", [{"messages": turns}])
    chatty = save_chatty(model_folders["llama-tied"], tmp_path / "chatty", 256)
    chat = {"model": str(chatty), "data.train": str(chats), "data.messages": "messages", "method.name": "freeze"}
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE, json.dumps([chat, *given])], capture_output=True, text=True
    )
    assert (child.returncode, child.stderr) == (0, "")
    *said, parameters = child.stdout.splitlines()
    for flags, line in zip([chat, *given], said, strict=True):
        resolved = load(None, flags, [])
        assert json.loads(line) == [[asdict(one) for one in show(resolved, 1, 5, True)], stats(resolved)]
    assert int(parameters) > 0


STRANGE = """
import json, sys
from ctxtune.commands.data import stats
from ctxtune.recipe.load import load
from ctxtune.recipe.data import Data
print(json.dumps(stats(load(None, json.loads(sys.argv[1]), []))))
"""


def test_a_family_that_is_not_in_the_table(model_folders: dict[str, Path], reviews: Path) -> None:
    task = {
        "data.train": str(reviews), "data.prompt": "{{ text }}:", "data.answer": "{{ label }}", "method.name": "freeze",
        "model": str(model_folders["olmo2-untied"]),
    }  # fmt: skip
    child = subprocess.run([sys.executable, "-c", STRANGE, json.dumps(task)], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == stats(load(None, task, []))
