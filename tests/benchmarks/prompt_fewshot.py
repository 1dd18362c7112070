"""A prefix that starts from demonstrations: at step 0 it says what few-shot prompting says, and training makes it no worse.

    python tests/benchmarks/prompt_fewshot.py --data DATA --model MODEL --out RESULTS [--rows 128] [--dev 300] [--shots 8]

DATA holds sst2/ (train.jsonl, dev.jsonl) and ag_news/ (train_sample.jsonl, test.jsonl), MODEL is a folder. Every seed shuffles
the training rows: demonstrations, rows to learn from and 64 rows that choose the step are drawn from these, the scored rows are
looked at by nothing before. Compared row by row with `ctxtune fewshot` behind the same demonstrations: the log-probabilities of
all choices before the first step (a step at a rate of 1e-30 is none), to 2e-4; and the accuracy after training. One JSON
line a run; lines that are there already are not computed again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

from freeze_speed import run
from lines import kept

# Task -> training rows, rows to score, prompt, labels.
TASKS = {
    "sst2": ("sst2/train.jsonl", "sst2/dev.jsonl", "Review: {{ text }}\nSentiment:", "negative,positive"),
    "ag_news": (
        "ag_news/train_sample.jsonl", "ag_news/test.jsonl", "Article: {{ text }}\nTopic:", "World,Sports,Business,Sci/Tech",
    ),
}  # fmt: skip


def items(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def one(args: argparse.Namespace, task: str, seed: int) -> dict:
    """Learn, and score start and end beside the demonstrations."""
    train, test, prompt, labels = TASKS[task]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = (args.data / train).read_text(encoding="utf-8").splitlines(keepends=True)
        scored = (args.data / test).read_text(encoding="utf-8").splitlines(keepends=True)
        random.Random(seed).shuffle(rows)
        random.Random(0).shuffle(scored)
        parts = {"train": rows[: args.rows], "held": rows[args.rows : args.rows + 64], "dev": scored[: args.dev]}
        for part, lines in parts.items():
            (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
        words = ["--prompt", prompt, "--answer", "{{ label }}", "--choices", labels]
        asked = ["--model", args.model, "--train", str(folder / "train.jsonl"), *words, "--shots", str(args.shots)]
        ctxtune = [sys.executable, "-m", "ctxtune"]
        learn = [*ctxtune, "prompt", *asked, "--kind", "prefix", "--init", "fewshot", "--seed", str(seed), "--batch", "16",
                 "--set", "forget.probe=none", "--quiet"]  # fmt: skip
        run([*learn, "--lr", "1e-30", "--set", "train.steps=1", "--out", f"{folder}/start"])
        text, _ = run([*learn, "--lr", args.lr, "--epochs", str(args.epochs), "--eval", str(folder / "held.jsonl"), "--out",
                       f"{folder}/end", "--json"])  # fmt: skip
        eval_ = ["--eval", str(folder / "dev.jsonl")]
        for place in ("start", "end"):
            run(
                [
                    *ctxtune,
                    "eval",
                    "--adapter",
                    f"{folder}/{place}",
                    *eval_,
                    "--save",
                    f"{folder}/{place}.jsonl",
                    "--quiet",
                ]
            )
        same = ["--set", f"method.seed={seed}", "--scores", f"{folder}/fewshot.jsonl"]
        run([*ctxtune, "fewshot", *asked, *eval_, *same, "--quiet"])
        told, start, end = (items(folder / f"{who}.jsonl") for who in ("fewshot", "start", "end"))
    facts = json.loads(text)
    pairs = zip(told, start, strict=True)
    off = max(abs(a - b) for row, other in pairs for a, b in zip(row["said"]["ll"], other["said"]["ll"], strict=True))
    return {
        "tokens": facts["method"]["tokens"], "lr": facts["lr"]["value"], "steps": facts["steps"],
        "best_step": facts["best_step"], "off": off, "seconds": round(facts["seconds"]["total"]),
        **{who: statistics.mean(row["scores"]["acc"] for row in some)
           for who, some in (("fewshot", told), ("start", start), ("end", end))},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--dev", type=int, default=300)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--lr", default="auto")
    args = parser.parse_args()
    for task in args.tasks:
        runs = [kept(args.out, {"task": task, "seed": seed}, partial(one, args, task, seed)) for seed in args.seeds]
        shown, end = (statistics.mean(found[who] for found in runs) for who in ("fewshot", "end"))
        off = max(found["off"] for found in runs)
        print(f"{task}: at step 0 off by {off:.1e}; few-shot {shown:.4f}, learned {end:.4f}", flush=True)


if __name__ == "__main__":
    main()
