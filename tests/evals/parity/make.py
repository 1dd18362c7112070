"""Make this folder's rows and `expected.json` with lm-evaluation-harness. Run it with a Python that has lm-eval[hf]==0.4.13.

    make.py DATA MODEL [TASK ...]

DATA: mr/all.jsonl {text, label}, sst2/dev.jsonl {text, label}, arc/{easy,challenge}.test.jsonl {question, choices,
answer}, lambada/test.jsonl {context, target}, wikitext2/test.txt; where they are from: CREDITS.md. MODEL: the folder of
smollm2-135m-instruct-q4 as `ctxtune model pull` leaves it. SST-2 has no licence to pass its sentences on: of it only line
numbers, hashes and results are kept.
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
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

from tasks import FOLDER, TASKS, Task, with_bos

DRAWN = {
    "sst2": ("sst2/dev.jsonl", 60, ("text", "label")),
    "mr": ("mr/all.jsonl", 40, ("text", "label")),
    "arc_easy": ("arc/easy.test.jsonl", 40, ("id", "question", "choices", "answer")),
    "arc_challenge": ("arc/challenge.test.jsonl", 40, ("id", "question", "choices", "answer")),
    "lambada": ("lambada/test.jsonl", 40, ("context", "target")),
}
TEXT_BYTES = 10_000


def draw(data: Path, private: Path) -> dict[str, Any]:
    """Write the rows; returns line numbers and hashes of those that may not stand here."""
    kept: dict[str, Any] = {}
    for name, (source, count, keys) in DRAWN.items():
        lines = (data / source).read_text(encoding="utf-8").splitlines()
        numbers = sorted(random.Random(0).sample(range(len(lines)), count))
        rows = [{key: json.loads(lines[number])[key] for key in keys} for number in numbers]
        texts = [json.dumps(row, ensure_ascii=False) for row in rows]
        if name == "sst2":
            hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
            kept["sst2"] = {"lines": [number + 1 for number in numbers], "sha256": hashes}
        folder = private if name == "sst2" else FOLDER
        (folder / f"{name}.jsonl").write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    text = (data / "wikitext2/test.txt").read_bytes()[:TEXT_BYTES].decode("utf-8", "ignore")
    (FOLDER / "wikitext.txt").write_text(text[: text.rindex("\n") + 1], encoding="utf-8")
    return kept


def harness_task(name: str, task: Task, private: Path) -> dict[str, Any]:
    """The task in the harness's words."""
    rows = (private if name == "sst2" else FOLDER) / task.rows
    if task.rows.endswith(".txt"):
        whole = private / f"{name}.jsonl"
        whole.write_text(json.dumps({"page": rows.read_text(encoding="utf-8")}) + "\n", encoding="utf-8")
        rows = whole
    config: dict[str, Any] = {
        "task": f"parity_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "num_fewshot": 0,
    }
    if task.rows.endswith(".txt"):
        metrics = ["word_perplexity", "byte_perplexity", "bits_per_byte"]
        config |= {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{page}}"}
        config["should_decontaminate"] = False
    elif task.choices is None:
        metrics = ["perplexity", "acc"]
        config |= {"output_type": "loglikelihood", "doc_to_text": task.prompt, "doc_to_target": f" {task.answer}"}
    else:
        metrics = ["acc", "acc_norm", "acc_bytes"]
        config |= {"output_type": "multiple_choice", "doc_to_text": task.prompt, "doc_to_target": task.answer}
        config["doc_to_choice"] = "{{ choices }}" if isinstance(task.choices, str) else task.choices
    return {**config, "metric_list": [{"metric": metric} for metric in metrics]}


def lls_of(sample: dict[str, Any]) -> list[float]:
    """The log-probabilities of a row's requests."""
    return [
        float(answer[0][0]) if isinstance(answer[0], (tuple, list)) else float(answer[0]) for answer in sample["resps"]
    ]


def main() -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("task", nargs="*", default=list(TASKS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        private = Path(temporary)
        drawn = draw(given.data, private)
        models = {False: given.model, True: with_bos(given.model, private / "bos")}
        for name in given.task:
            task = TASKS[name]
            long = {"max_length": task.max_length} if task.max_length else {}
            lm = HFLM(pretrained=str(models[task.bos]), dtype="float32", device="cpu", batch_size=4, **long)
            done = simple_evaluate(lm, tasks=[harness_task(name, task, private)], log_samples=True, bootstrap_iters=100)
            samples = sorted(done["samples"][f"parity_{name}"], key=lambda sample: sample["doc_id"])
            scores = {key.split(",")[0]: value for key, value in done["results"][f"parity_{name}"].items()}
            scores = {key: value for key, value in scores.items() if isinstance(value, float)}
            keep(name, {**drawn.get(name, {}), "scores": scores, "lls": [lls_of(sample) for sample in samples]})


def keep(name: str, entry: dict[str, Any]) -> None:
    """Put a task's results into `expected.json`, beside those of the others."""
    path = FOLDER / "expected.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    versions = {package: version(package) for package in ("lm_eval", "transformers", "torch")}
    text = json.dumps({**found, "made_with": versions, name: entry}, indent=0)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
