"""Make `fewshot.json`, and the rows that only few-shot tasks need, with lm-evaluation-harness, as make.py does.

    make_fewshot.py DATA MODEL [TASK ...]

DATA is as for make.py, with banking77/{train,test}.jsonl and sst2/train.jsonl {text, label}. Of every row is kept which places
of the pool the harness drew, the sha256 of the context that it wrote, and the log-probabilities of the choices or what the
model wrote.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

from tests.evals.parity.fewshot import FEWSHOT, INTENTS, Fewshot
from tests.evals.parity.make import harness_task, lls_of
from tests.evals.parity.tasks import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

DRAWN = {
    "sst2.jsonl": ("sst2/dev.jsonl", 40),
    "sst2_train.jsonl": ("sst2/train.jsonl", 100),
    "banking.jsonl": ("banking77/test.jsonl", 40),
    "banking_train.jsonl": ("banking77/train.jsonl", 64),
}
Row = dict[str, Any]
# Pools in which a question stands not at all, once, often; small ones and large ones, which are drawn from in another way.
CASES: list[Row] = [
    {
        "pool": pool,
        "questions": [*pool[:12], "new", pool[0]],
        "shots": shots,
        "select": select,
        "one_more": more,
        "seed": seed,
    }
    for pool in (list("abcdefgh"), list("aaaabbbbccd"), [str(place // 3) for place in range(300)])
    for shots in (1, 3, 6)
    for select, more, seed in (("random", False, 1234), ("random", True, 1234), ("random", True, 7), ("fixed", True, 0))
]


def rows_of(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def intents(rows: list[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    """The messages of eight intents, which are written as words."""
    for number, row in rows:
        label = row["label"].replace("_", " ").lower()
        if label in INTENTS:
            yield number, {"text": row["text"], "label": label}


def draw(data: Path, private: Path) -> dict[str, Any]:
    """Write the rows; returns line numbers and hashes of those that may not stand here."""
    kept: dict[str, Any] = {}
    for name, (source, count) in DRAWN.items():
        numbered = list(enumerate(rows_of(data / source), 1))
        shown = list(intents(numbered)) if "banking" in name else numbered
        rows = sorted(random.Random(0).sample(shown, count), key=lambda pair: pair[0])
        texts = [json.dumps(row, ensure_ascii=False) for _, row in rows]
        if "sst2" in name:
            hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
            kept[name] = {"lines": [number for number, _ in rows], "sha256": hashes}
        folder = private if "sst2" in name else FOLDER
        (folder / name).write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return kept


def config_of(name: str, task: Fewshot, private: Path) -> Row:
    """The task in the harness's words."""
    config = harness_task(name, task, private)
    there = {file: str((private if "sst2" in file else FOLDER) / file) for file in (task.rows, task.pool)}
    config |= {"num_fewshot": task.shots, "description": task.instruction}
    config["fewshot_config"] = {"sampler": {"random": "default", "fixed": "first_n"}[task.select]}
    if task.splits == "one":
        config |= {"dataset_kwargs": {"data_files": {"test": there[task.rows]}}, "fewshot_split": "test"}
    elif task.splits == "two":
        files = {"train": there[task.pool], "test": there[task.rows]}
        config |= {"dataset_kwargs": {"data_files": files}, "training_split": "train", "fewshot_split": "train"}
    else:
        files = {"train": there[task.pool], "validation": there[task.rows]}
        config |= {"dataset_kwargs": {"data_files": files}, "training_split": "train", "validation_split": "validation"}
        del config["test_split"]
    if task.choices is None:
        config |= {
            "output_type": "generate_until",
            "doc_to_target": task.answer,
            "metric_list": [{"metric": "exact_match"}],
        }
        config["generation_kwargs"] = {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 8}
    return config


def recorded(drawn: list[list[int]], sample: Any, sampler: Any, *args: Any, **kwargs: Any) -> Any:
    """What a sampler draws, each row as its place in the pool."""
    found = sample(sampler, *args, **kwargs)
    places = {id(row): place for place, row in enumerate(sampler.df)}
    drawn.append([places[id(row)] for row in found])
    return found


def sampled(case: Row) -> list[list[int]]:
    """What a sampler draws for questions of one field, one after another; `one_more` tells it the question."""
    from lm_eval.api.samplers import get_sampler

    pool = [{"text": text} for text in case["pool"]]
    sampler = get_sampler({"random": "default", "fixed": "first_n"}[case["select"]])(pool, rnd=case["seed"])
    drawn: list[list[int]] = []
    for text in case["questions"]:
        asked = {"text": text} if case["one_more"] else None
        recorded(drawn, type(sampler).sample, sampler, case["shots"], asked)
    return drawn


def ask(lm: Any, name: str, task: Fewshot, private: Path) -> Row:
    """A task as the harness does it."""
    from lm_eval import simple_evaluate
    from lm_eval.api import samplers

    drawn: list[list[int]] = []
    kind = {"random": samplers.ContextSampler, "fixed": samplers.FirstNSampler}[task.select]
    sample = kind.sample
    kind.sample = lambda sampler, *args, **kwargs: recorded(drawn, sample, sampler, *args, **kwargs)
    try:
        done = simple_evaluate(
            lm if task.model else "dummy",
            tasks=[config_of(name, task, private)],
            limit=task.first,
            apply_chat_template=task.chat,
            fewshot_as_multiturn=task.chat,
            log_samples=True,
            bootstrap_iters=100,
        )
    finally:
        kind.sample = sample
    samples = sorted(done["samples"][f"parity_{name}"], key=lambda one: one["doc_id"])
    contexts = [one["arguments"][0][0] for one in samples]
    entry = {"drawn": drawn, "contexts": [hashlib.sha256(text.encode()).hexdigest() for text in contexts]}
    if task.choices is None:
        return {**entry, "texts": [one["resps"][0][0] for one in samples]}
    if not task.model:
        return entry
    scores = {key.split(",")[0]: value for key, value in done["results"][f"parity_{name}"].items()}
    scores = {key: value for key, value in scores.items() if isinstance(value, float)}
    return {**entry, "scores": scores, "lls": [lls_of(one) for one in samples]}


def main() -> None:
    from lm_eval.models.huggingface import HFLM

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("task", nargs="*", default=list(FEWSHOT))
    given = parser.parse_args()
    path = FOLDER / "fewshot.json"
    with tempfile.TemporaryDirectory() as temporary:
        private = Path(temporary)
        rows = draw(given.data, private)
        cases = [{**case, "drawn": sampled(case)} for case in CASES]
        lm = HFLM(pretrained=str(given.model), dtype="float32", device="cpu", batch_size=4)
        for name in given.task:
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            versions = {package: version(package) for package in ("lm_eval", "transformers", "torch")}
            found |= {
                "made_with": versions,
                "rows": rows,
                "samplers": cases,
                name: ask(lm, name, FEWSHOT[name], private),
            }
            path.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
