"""`ctxtune fewshot --as lm-eval` says what lm-evaluation-harness says: every row's log-probabilities, and the metrics of them.

`tests/evals/parity/make_fewshot.py` wrote what is expected here; SST-2, whose sentences may not be passed on, is compared where
CTXTUNE_SST2 names its dev set, with train.jsonl beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..evals.parity.fewshot import FEWSHOT, Fewshot, expected_fewshot

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.real
NEAR = 1e-3  # nats: float32 sums in another order
EXPECTED = expected_fewshot()
QUICK = ("mr_space", "banking_chat")


@pytest.fixture
def ask(model: Path, tmp_path: Path) -> Callable[..., Any]:
    """ask(task, ...): the scores, and what was said of each row."""
    from ctxtune.commands.fewshot import fewshot
    from ctxtune.recipe.load import load

    def ask(task: Fewshot, **more: object) -> Any:
        given = {"model": str(model), "device": "cpu", "cache": "off", "generate.max_tokens": 8}
        given |= {f"method.{key}": value for key, value in task.method.items()}
        given |= {f"data.{key}": value for key, value in (task.data | more).items()}
        if task.choices is None:
            given["score.metric"] = "exact"
        if task.first is not None:
            lines = Path(str(given["data.eval"])).read_text("utf-8").splitlines()[: task.first]
            given["data.eval"] = str(tmp_path / "first.jsonl")
            (tmp_path / "first.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")
        facts = fewshot(load(None, given), [].append, tmp_path / "items.jsonl")
        items = (tmp_path / "items.jsonl").read_text("utf-8").splitlines()
        return facts["scores"], [json.loads(item)["said"] for item in items]

    return ask


def check(name: str, scores: dict[str, float], said: list[Any]) -> None:
    wanted = EXPECTED[name]
    if FEWSHOT[name].choices is None:
        assert [one["text"] for one in said] == wanted["texts"]
        return
    assert len(said) == len(wanted["lls"]) >= 16
    for i, (one, lls) in enumerate(zip(said, wanted["lls"], strict=True)):
        assert one["ll"] == pytest.approx(lls, abs=NEAR), f"row {i + 1}"
        assert one["ll"].index(max(one["ll"])) == lls.index(max(lls))
    for metric in ("acc", "acc_norm", "acc_bytes"):
        assert scores[metric] == pytest.approx(wanted["scores"][metric], abs=1e-12)
        assert scores[f"{metric}_stderr"] == pytest.approx(wanted["scores"][f"{metric}_stderr"], rel=1e-9)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
        for name in FEWSHOT
        if FEWSHOT[name].model and name != "sst2"
    ],
)
def test_rows_are_scored_as_there(name: str, ask: Callable[..., Any]) -> None:
    check(name, *ask(FEWSHOT[name]))


def rows_of(folder: Path, name: str, source: Path) -> str:
    """The rows of SST-2 that were drawn, as a file."""
    lines, wanted = source.read_text("utf-8").splitlines(), EXPECTED["rows"][name]
    rows = [json.loads(lines[number - 1]) for number in wanted["lines"]]
    texts = [json.dumps({"text": row["text"], "label": row["label"]}, ensure_ascii=False) for row in rows]
    assert [hashlib.sha256(text.encode()).hexdigest() for text in texts] == wanted["sha256"]
    (folder / name).write_text("".join(text + "\n" for text in texts), "utf-8")
    return str(folder / name)


@pytest.mark.slow
def test_sst2(ask: Callable[..., Any], tmp_path: Path) -> None:
    if not (named := os.environ.get("CTXTUNE_SST2")):
        pytest.skip("CTXTUNE_SST2 does not name SST-2's dev.jsonl")
    dev, train = Path(named), Path(named).with_name("train.jsonl")
    files = {"eval": rows_of(tmp_path, "sst2.jsonl", dev), "train": rows_of(tmp_path, "sst2_train.jsonl", train)}
    check("sst2", *ask(FEWSHOT["sst2"], **files))
