"""Other models and languages, each adapted end to end: Gemma 3 270M, a sentence encoder without a head, and Chinese.

    python tests/benchmarks/freeze_models.py --data DATA --models HOME --out results.jsonl [--tasks minilm-clinc150] [--seeds 1]

DATA holds sst2/ (SST-2 with full sentences, as in github.com/tonyzhaozh/few-shot-learning), clinc150/ (data_small.json of
github.com/clinc/oos-eval) and fewclue/eprstmt/ (github.com/CLUEbenchmark/FewCLUE) as rows of text and label; HOME is the
folder in which `ctxtune model pull gemma3-270m-q4` and `ctxtune model pull minilm-l6` have put models/. Rates are found by each
run itself (`lr: auto`); no epoch is chosen on the rows to score. To reach: an accuracy above that of the base (Gemma), or 40
points above a guess of the most frequent intent (MiniLM, whose files hold no head: its classifier begins at zero).
--rows and --eval-rows take fewer rows, to see that all works. One JSON line a run; lines that are there already are not
computed again, so that the script can be stopped and resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lines import kept

NEVER = 10_000_000  # steps between evaluations: beyond the end, so that the last numbers are kept


@dataclass(frozen=True)
class Task:
    """What is learned; `labels` are the choices by the labels of the rows, and rows with other labels are left out."""

    model: str
    train: str
    test: str
    prompt: str
    labels: dict[str, str]
    options: tuple[str, ...]
    rows: int
    points: float  # above the base, or above a guess of the most frequent answer


INTENTS = [
    "direct_deposit", "carry_on", "whisper_mode", "text", "recipe", "smart_home", "who_do_you_work_for", "rewards_balance",
    "restaurant_reservation", "travel_notification",
]  # fmt: skip
TASKS = {
    "minilm-clinc150": Task(
        model="minilm-l6",
        train="clinc150/train.jsonl",
        test="clinc150/test.jsonl",
        prompt="{{ text }}",
        labels={intent: intent.replace("_", " ") for intent in INTENTS},
        options=("--layers", "last:2", "--batch", "16", "--epochs", "3"),
        rows=500,
        points=40,
    ),
    "gemma-sst2": Task(
        model="gemma3-270m-q4",
        train="sst2/train.jsonl",
        test="sst2/dev.jsonl",
        prompt="Review: {{ text }}\nSentiment:",
        labels={"negative": "negative", "positive": "positive"},
        options=("--layers", "last:4", "--batch", "16", "--epochs", "3"),
        rows=1024,
        points=0,
    ),
    # 32 rows in all: small batches, more passes. No space stands between Chinese words.
    "gemma-eprstmt": Task(
        model="gemma3-270m-q4",
        train="fewclue/eprstmt/train_0.jsonl",
        test="fewclue/eprstmt/test_public.jsonl",
        prompt="评论：{{ text }}\n这条评论的评价是：",
        labels={"Negative": "差", "Positive": "好"},
        options=("--layers", "last:4", "--batch", "8", "--epochs", "5", "--set", "data.delimiter="),
        rows=32,
        points=0,
    ),
}


def rows_of(path: Path, labels: dict[str, str], seed: int, most: int) -> list[dict]:
    """The first rows of a seeded shuffle, with the choices for labels."""
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    rows = [{"text": row["text"], "label": labels[row["label"]]} for row in rows if row["label"] in labels]
    random.Random(seed).shuffle(rows)
    return rows[:most]


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def one(args: argparse.Namespace, name: str, seed: int) -> dict:
    """One run, in a process and a home of its own."""
    task = TASKS[name]
    train = rows_of(args.data / task.train, task.labels, 0, min(args.rows or task.rows, task.rows))
    test = rows_of(args.data / task.test, task.labels, 1, args.eval_rows)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        done = subprocess.run(
            [
                sys.executable, "-m", "ctxtune", "freeze", "--model", str(args.models.resolve() / "models" / task.model),
                "--train", write_rows(place / "train.jsonl", train), "--eval", write_rows(place / "test.jsonl", test),
                "--prompt", task.prompt, "--answer", "{{ label }}", "--choices", ",".join(task.labels.values()),
                *task.options, "--seed", str(seed), "--set", f"train.eval_every={NEVER}", "--out", f"{folder}/run", "--json",
            ],
            check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "CTXTUNE_HOME": f"{folder}/home"},
        )  # fmt: skip
    facts = json.loads(done.stdout)
    before, after = facts["scores"]["before"], facts["scores"]["after"]
    return {
        "rows": len(train), "eval_rows": len(test), "layers": facts["method"]["layers"],
        "lr": facts["lr"]["value"], "base": before["acc"], "acc": after["acc"], "stderr": after["acc_stderr"],
        "majority": Counter(row["label"] for row in test).most_common(1)[0][1] / len(test),
        "kl": facts["forgetting"]["after"].get("kl"), "seconds": facts["seconds"],
    }  # fmt: skip


def report(run: dict) -> None:
    """The row to be reached."""
    task = TASKS[run["task"]]
    rival = "majority" if task.points else "base"
    gained = 100 * (run["acc"] - run[rival])
    print(
        f"{run['task']} seed {run['seed']}: {run['rows']} rows, {100 * run['acc']:.1f} +- {100 * run['stderr']:.1f} % of "
        f"{run['eval_rows']}, base {100 * run['base']:.1f}, most frequent answer {100 * run['majority']:.1f}: "
        f"{gained:+.1f} points above {rival}, to reach more than {task.points:.0f}: {'yes' if gained > task.points else 'NO'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--models", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--eval-rows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    for name in args.tasks:
        for seed in range(args.seeds):
            report(kept(args.out, {"task": name, "seed": seed}, partial(one, args, name, seed)))


if __name__ == "__main__":
    main()
