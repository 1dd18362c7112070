"""What calibration is worth: mean and worst accuracy over draws of demonstrations, on three tasks and on skewed labels.

    python tests/benchmarks/fewshot_calibration.py --data DATA --model MODEL --out results.jsonl [--rows 400] [--seeds 5]

DATA holds sst2/ (SST-2 with full sentences, as in github.com/tonyzhaozh/few-shot-learning), ag_news/ (train_sample.jsonl and
test.jsonl) and fewclue/eprstmt/ (train_0.jsonl and test_public.jsonl, from github.com/CLUEbenchmark/FewCLUE) as rows of text
and label; MODEL is the folder of SmolLM2-135M-Instruct. Demonstrations are drawn anew for each seed, as many of each label.
`skewed` is SST-2 with nine rows of one label for each of the other, both ways, their shares told. To reach: `batch` not below
`none`, in the mean and in the worst draw; AG News at least 0.60. One JSON line a task; lines that are there already are not
computed again.
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

SENTIMENT = ["negative", "positive"]
# Task -> folder, training rows, rows to score, prompt, labels, shots, share of the first label where it is made one.
TASKS: dict[str, tuple[str, str, str, str, list[str], int, float | None]] = {
    "sst2": ("sst2", "train.jsonl", "dev.jsonl", "Review: {{ text }}\nSentiment:", SENTIMENT, 16, None),
    "ag_news": (
        "ag_news", "train_sample.jsonl", "test.jsonl", "Article: {{ text }}\nTopic:",
        ["World", "Sports", "Business", "Sci/Tech"], 8, None,
    ),
    "eprstmt": (
        "fewclue/eprstmt", "train_0.jsonl", "test_public.jsonl", "评论：{{ text }}\n情感：", ["Negative", "Positive"], 8, None
    ),
    "skewed 90/10": ("sst2", "train.jsonl", "dev.jsonl", "Review: {{ text }}\nSentiment:", SENTIMENT, 16, 0.9),
    "skewed 10/90": ("sst2", "train.jsonl", "dev.jsonl", "Review: {{ text }}\nSentiment:", SENTIMENT, 16, 0.1),
}  # fmt: skip


def rows_to_score(path: Path, labels: list[str], count: int, share: float | None) -> list[dict[str, str]]:
    """The first rows of a seeded shuffle; of the first label a given share."""
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    random.Random(0).shuffle(rows)
    if share is None:
        return rows[:count]
    wanted = {labels[0]: round(share * count), labels[1]: count - round(share * count)}
    kept = [row for label in labels for row in [one for one in rows if one["label"] == label][: wanted[label]]]
    random.Random(1).shuffle(kept)
    return kept


def one(args: argparse.Namespace, task: str) -> dict[str, Any]:
    """The accuracy of every calibration: mean and worst over the draws, and over each draw."""
    folder, train, test, prompt, labels, shots, share = TASKS[task]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        rows = rows_to_score(args.data / folder / test, labels, args.rows, share)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        command = [
            sys.executable, "-m", "ctxtune", "fewshot", "--model", args.model, "--train", str(args.data / folder / train),
            "--eval", str(path), "--prompt", prompt, "--answer", "{{ label }}", "--choices", ",".join(labels),
            "--shots", str(shots), "--select", "balanced", "--seeds", str(args.seeds), "--calibrate", "batch", "--json",
        ]  # fmt: skip
        if share is not None:
            command += ["--prior", f"{share},{1 - share:.1f}"]
        facts = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return {
        "rows": len(rows), "shots": shots, "seeds": args.seeds, "seconds": facts["seconds"]["total"],
        "calibrations": {name: found["spread"] for name, found in facts["calibrations"].items()},
        "draws": {
            name: [draw["calibrations"][name]["acc"] for draw in facts["draws"]] for name in facts["calibrations"]
        },
    }  # fmt: skip


def told(run: dict[str, Any]) -> str:
    """A task in a few lines."""
    lines = [f"{run['task']}, {run['shots']} shots, {run['rows']} rows, {run['seeds']} draws"]
    for name, spread in run["calibrations"].items():
        lines.append(
            f"  {name:11} mean {spread['mean']:.3f}  worst {spread['worst']:.3f}  deviation {spread['deviation']:.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    args = parser.parse_args()
    for task in args.tasks:
        print(told(kept(args.out, {"task": task}, partial(one, args, task))), flush=True)


if __name__ == "__main__":
    main()
