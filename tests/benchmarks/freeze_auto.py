"""What `--layers auto` is worth: SST-2, Banking77 (8 intents) and AG News, against last:1, 2, 4, 8 and 16, each tried in full.

    python tests/benchmarks/freeze_auto.py --data DATA --model MODEL --out results.jsonl [--rows 1024] [--eval-rows 872]

DATA holds sst2/ (SST-2 with full sentences, as in github.com/tonyzhaozh/few-shot-learning), ag_news/ (train_sample.jsonl and
test.jsonl) and banking77/ (train*.jsonl and test*.jsonl, from github.com/PolyAI-LDN/task-specific-datasets) as rows of text and
label; MODEL is the folder of SmolLM2-135M-Instruct. Every run starts from an empty home, so that none finds what another has
kept. Rates are found by each run itself (`lr: auto`); no epoch is chosen on the eval rows. To reach: within 1 point of the
best of the five, in at most 40 % of the time of trying them all; both wall and processor seconds are given, of whole processes.
One JSON line a run; lines that are there already are not computed again, so that the script can be stopped and resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from lines import kept, lines_of

NEVER = 10_000_000  # steps between evaluations: beyond the end, so that the last numbers are kept
DEPTHS = ["last:1", "last:2", "last:4", "last:8", "last:16"]
INTENTS = [
    "card arrival", "exchange rate", "lost or stolen card", "top up failed", "verify my identity", "transfer timing",
    "wrong amount of cash received", "refund not showing up",
]  # fmt: skip
# Task -> training rows, rows to score, prompt, labels.
TASKS = {
    "sst2": ("train.jsonl", "dev.jsonl", "Review: {{ text }}\nSentiment:", ["negative", "positive"]),
    "banking77": ("train*.jsonl", "test*.jsonl", "Message: {{ text }}\nIntent:", INTENTS),
    "ag_news": ("train_sample.jsonl", "test.jsonl", "Article: {{ text }}\nTopic:", ["World", "Sports", "Business", "Sci/Tech"]),
}  # fmt: skip


def rows_of(folder: Path, pattern: str, seed: int, most: int, path: Path) -> Path:
    """The first rows of a seeded shuffle, as a file."""
    (source, *_) = sorted(folder.glob(pattern))
    rows = [json.loads(line) for line in source.open(encoding="utf-8")]
    if folder.name == "banking77":
        rows = [{**row, "label": row["label"].replace("_", " ").lower()} for row in rows]
        rows = [row for row in rows if row["label"] in INTENTS]
    random.Random(seed).shuffle(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:most]), encoding="utf-8")
    return path


def one(args: argparse.Namespace, task: str, layers: str, seed: int) -> dict:
    """One run, in a process and a home of its own."""
    train, test, prompt, labels = TASKS[task]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = rows_of(args.data / task, train, 0, args.rows, folder / "train.jsonl")
        dev = rows_of(args.data / task, test, 1, args.eval_rows, folder / "dev.jsonl")
        used, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [
                sys.executable, "-m", "ctxtune", "freeze", "--model", args.model, "--train", str(rows), "--eval", str(dev),
                "--prompt", prompt, "--answer", "{{ label }}", "--choices", ",".join(labels), "--layers", layers,
                "--batch", "16", "--epochs", "3", "--seed", str(seed), "--set", f"train.eval_every={NEVER}",
                "--out", f"{folder}/run", "--json",
            ],
            check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "CTXTUNE_HOME": f"{folder}/home"},
        )  # fmt: skip
        wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    facts = json.loads(done.stdout)
    scores = facts["scores"]
    return {
        "rows": args.rows, "eval_rows": args.eval_rows,
        "trained": facts["method"]["layers"], "lr": facts["lr"]["value"], "base": scores["before"]["acc"],
        "acc": scores["after"]["acc"], "stderr": scores["after"]["acc_stderr"], "loss": scores["after"]["loss"],
        "kl": facts["forgetting"]["after"]["kl"], "wall": round(wall, 1),
        "cpu": round(after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime, 1),
        "seconds": facts["seconds"], "choice": facts.get("choice"),
    }  # fmt: skip


def report(done: list[dict], task: str, seed: int) -> None:
    """The row to be reached."""
    runs = {run["layers"]: run for run in done if (run["task"], run["seed"]) == (task, seed)}
    grid = [runs[layers] for layers in DEPTHS if layers in runs]
    if len(grid) < len(DEPTHS) or "auto" not in runs:
        return
    best, auto = max(grid, key=lambda run: run["acc"]), runs["auto"]
    shares = [100 * auto[key] / sum(run[key] for run in grid) for key in ("wall", "cpu")]
    print(f"{task} seed {seed}: " + "  ".join(f"{run['layers']} {100 * run['acc']:.1f}" for run in grid))
    print(
        f"  auto took {auto['trained']} at {auto['lr']:.0e}: {100 * auto['acc']:.1f}, {100 * (best['acc'] - auto['acc']):.1f} "
        f"below the best, in {shares[0]:.0f} % of the wall and {shares[1]:.0f} % of the processor seconds of all five"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--eval-rows", type=int, default=872)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--layers", nargs="+", default=["auto", *DEPTHS])
    args = parser.parse_args()
    for seed in range(args.seeds):
        for task in args.tasks:
            for layers in args.layers:
                kept(args.out, {"task": task, "layers": layers, "seed": seed}, partial(one, args, task, layers, seed))
            report(lines_of(args.out), task, seed)


if __name__ == "__main__":
    main()
