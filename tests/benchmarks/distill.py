"""A short prompt distilled from a long one: accuracy kept against length, on rows whose labels are not read.

    python tests/benchmarks/distill.py --data DATA --model MODEL --out results.jsonl [--seeds 0 1 2] [--tokens 32] [--rows 300]

DATA holds sst2/ (train.jsonl, dev.jsonl) and ag_news/ (train_sample.jsonl, test.jsonl) as rows of text and label, MODEL is the
folder of SmolLM2-135M-Instruct. Of the training rows, in a seeded order, 16 labelled ones are the demonstrations, and 512
without a label are what is learned from; other rows choose the step that is kept, and none of either is scored. Every seed
draws its own demonstrations. To reach: the prompt's accuracy, over the scored rows of all seeds, is at most 1.5 of its standard
errors below that of the demonstrations; told as well is how many standard errors of the paired differences that is. SST-2 is
measured as it is, AG News with `--tasks ag_news --epochs 4 --lr 1e-2`: 3 epochs at the rate that `auto` takes, 3e-3, come less
near to its longer demonstrations. One JSON line a run; lines that are there already are not computed again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from lines import kept

SHOTS = 16
# Task -> training rows, rows to score, prompt, labels.
TASKS = {
    "sst2": ("sst2/train.jsonl", "sst2/dev.jsonl", "Review: {{ text }}\nSentiment:", ["negative", "positive"]),
    "ag_news": (
        "ag_news/train_sample.jsonl", "ag_news/test.jsonl", "Article: {{ text }}\nTopic:",
        ["World", "Sports", "Business", "Sci/Tech"],
    ),
}  # fmt: skip


def drawn(args: argparse.Namespace, task: str, seed: int, folder: Path) -> dict[str, Path]:
    """Files of the rows to learn from, to choose by and to score."""
    train, test, _, labels = TASKS[task]
    rows = [json.loads(line) for line in (args.data / train).open(encoding="utf-8")]
    random.Random(f"rows {seed}").shuffle(rows)
    each = -(-SHOTS // len(labels))
    shown = [row for label in labels for row in [one for one in rows if one["label"] == label][:each]]
    rest = [row for row in rows if row not in shown]
    scored = [json.loads(line) for line in (args.data / test).open(encoding="utf-8")]
    random.Random(0).shuffle(scored)
    bare = [{"text": row["text"]} for row in rest[: args.unlabelled]]
    chosen_by = rest[args.unlabelled : args.unlabelled + args.held_out]
    parts = {"train": [*shown, *bare], "held_out": chosen_by, "scored": scored[: args.rows]}
    paths = {name: folder / f"{name}.jsonl" for name in parts}
    for name, some in parts.items():
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return paths


def ctxtune(*words: str) -> dict[str, Any]:
    """What a command tells."""
    command = [sys.executable, "-m", "ctxtune", *words, "--json"]
    facts: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return facts


def hits(path: Path) -> list[float]:
    """Of each scored row whether it was right."""
    return [json.loads(line)["scores"]["acc"] for line in path.read_text(encoding="utf-8").splitlines()]


def one(args: argparse.Namespace, task: str, seed: int) -> dict[str, Any]:
    """Distil, then score the prompt and the demonstrations on the same rows."""
    _, _, prompt, labels = TASKS[task]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = drawn(args, task, seed, folder)
        words = ["--prompt", prompt, "--answer", "{{ label }}", "--choices", ",".join(labels)]
        asked = ["--model", args.model, "--train", str(rows["train"]), *words, "--shots", str(SHOTS)]
        run = ctxtune(
            "prompt", *asked, "--seed", str(seed), "--eval", str(rows["held_out"]), "--distill-from", "fewshot", "--kind",
            args.kind, "--tokens", str(args.tokens), "--epochs", str(args.epochs), "--batch", "16", "--lr", args.lr,
            "--set", "forget.probe=none", "--out", f"{folder}/run",
        )  # fmt: skip
        short, long = folder / "short.jsonl", folder / "long.jsonl"
        ctxtune("eval", "--adapter", f"{folder}/run", "--eval", str(rows["scored"]), "--save", str(short))
        labelled = folder / "labelled.jsonl"
        labelled.write_text(
            "".join(f"{line}\n" for line in rows["train"].read_text("utf-8").splitlines() if '"label"' in line), "utf-8"
        )
        asked[asked.index("--train") + 1] = str(labelled)
        ctxtune("fewshot", *asked, "--eval", str(rows["scored"]), "--set", f"method.seed={seed}", "--scores", str(long))
        student, teacher = hits(short), hits(long)
    return {
        "kind": args.kind, "tokens": [args.tokens, run["teacher"]["tokens"]],
        "lr": run["lr"]["value"], "steps": run["steps"], "best_step": run["best_step"],
        "seconds": round(run["seconds"]["total"]),
        "kl": [run["start"]["scores"]["kl_teacher"], run["scores"]["after"]["kl_teacher"]],
        "held_out": [run["start"]["scores"]["acc"], run["scores"]["after"]["acc"], run["teacher"]["scores"]["acc"]],
        "student": student, "teacher": teacher,
    }  # fmt: skip


def told(task: str, runs: list[dict[str, Any]]) -> str:
    """A task in a line: the accuracies, how far apart they are, and the standard errors of the one and of the difference."""
    short, long = ([hit for run in runs for hit in run[who]] for who in ("student", "teacher"))
    gaps = [b - a for a, b in zip(long, short, strict=True)]
    own, paired = (statistics.stdev(some) / math.sqrt(len(some)) for some in (short, gaps))
    gap, (tokens, of) = statistics.mean(gaps), runs[0]["tokens"]
    return (
        f"{task}, {tokens} of about {of} tokens, {len(runs)} seeds, {len(gaps)} rows: {statistics.mean(short):.3f} of "
        f"{statistics.mean(long):.3f}, {gap:+.4f} (standard error {own:.4f}, paired {paired:.4f}): "
        f"{'reached' if gap >= -1.5 * own else 'missed'}, {'reached' if gap >= -1.5 * paired else 'missed'} in pairs"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--kind", default="prefix")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--unlabelled", type=int, default=512)
    parser.add_argument("--held-out", type=int, default=128)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--lr", default="auto")
    args = parser.parse_args()
    for task in args.tasks:
        runs = [kept(args.out, {"task": task, "seed": seed}, partial(one, args, task, seed)) for seed in args.seeds]
        print(told(task, runs), flush=True)


if __name__ == "__main__":
    main()
