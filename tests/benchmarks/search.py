"""What words found by `ctxtune prompt --search` are worth: accuracy before and after on rows that had no part in it.

    python tests/benchmarks/search.py --data DATA --model MODEL --out results.jsonl [--tasks sst2] [--shots 0 8] [--rows 300]

DATA holds sst2/ (SST-2 with full sentences, as in github.com/tonyzhaozh/few-shot-learning) and ag_news/ (train_sample.jsonl and
test.jsonl) as rows of text and label; MODEL is the folder of SmolLM2-135M-Instruct. The rows to score are the first of a seeded
shuffle. One JSON line a task and number of shots: accuracy and loss before and after, the gain with its standard error and
sign-test p, whether the recipe was kept, wall seconds, tokens that were read and those of all texts in full. Lines that are
there already are not computed again.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from lines import kept

# Task -> training rows, rows to score, prompt, labels.
TASKS: dict[str, tuple[str, str, str, list[str]]] = {
    "sst2": ("train.jsonl", "dev.jsonl", "Review: {{ text }}\nSentiment:", ["negative", "positive"]),
    "ag_news": (
        "train_sample.jsonl", "test.jsonl", "Article: {{ text }}\nTopic:", ["World", "Sports", "Business", "Sci/Tech"]
    ),
}  # fmt: skip


def one(args: argparse.Namespace, task: str, shots: int) -> dict[str, Any]:
    """A search in a process of its own."""
    train, test, prompt, labels = TASKS[task]
    rows = (args.data / task / test).read_text(encoding="utf-8").splitlines()
    random.Random(0).shuffle(rows)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        path.write_text("".join(row + "\n" for row in rows[: args.rows]), encoding="utf-8")
        command = [
            sys.executable, "-m", "ctxtune", "prompt", "--search", "--model", args.model, "--train",
            str(args.data / task / train), "--eval", str(path), "--prompt", prompt, "--answer", "{{ label }}", "--choices",
            ",".join(labels), "--shots", str(shots), "--candidates", str(args.candidates), "--seed", str(args.seed),
            "--out", str(Path(name) / "found"), "--json",
        ]  # fmt: skip
        facts = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    scores, gain = facts["scores"], facts["scores"].get("gain", {"acc": 0.0, "acc_stderr": 0.0})
    return {
        "before": {name: scores["first"][name] for name in ("acc", "acc_stderr", "loss")},
        "found": {name: scores["best"][name] for name in ("acc", "acc_stderr", "loss")},
        "gain": [gain["acc"], gain["acc_stderr"]],
        "p": scores["differences"]["acc"]["p"] if "differences" in scores else 1.0,
        "kept": facts["better"], "words": [facts["best"]["instruction"], facts["best"]["prompt"], facts["best"]["seed"]],
        "seconds": facts["seconds"], "read": facts["tokens"]["read"], "whole": facts["tokens"]["whole"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--shots", nargs="+", type=int, default=[0, 8])
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    asked = {"candidates": args.candidates, "seed": args.seed, "rows": args.rows}
    for task in args.tasks:
        for shots in args.shots:
            kept(args.out, {"task": task, "shots": shots, **asked}, partial(one, args, task, shots))


if __name__ == "__main__":
    main()
