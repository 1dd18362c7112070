"""What a few numbers learn, and what the model forgets of other text: masks beside PEFT's LoRA and whole layers, three tasks.

    python tests/benchmarks/mask_accuracy.py --data DATA --model MODEL --out RESULTS [--tasks sst2] [--who lora] [--seeds 0 1 2]

DATA holds sst2/, ag_news/ and banking77/, the last cut to 8 intents (as in fewshot_speed.py), MODEL is a folder. The peer is
peers/peft_lora.py: LoRA of rank 4 in all linear layers, 1.2 million numbers, where one weight in a hundred is 1.1. All learn in
the same 40 steps of 8 rows, with the same schedule; every seed shuffles the training rows, the same for all. The rate is that
of four with the highest accuracy, of equal ones the lowest, after 20 steps with the first seed, on 200 training rows that are
not learned from; nothing is chosen on the rows that are scored. KL is KL(base || tuned) on the built-in probe, in nats a token.
`contrast, ewc 0` is the default without what changes cost by themselves. One JSON line a run; lines that are there already
are not computed again, so that tasks, ways and seeds can be asked for one at a time. A table is printed, and a plot lies beside
RESULTS as .svg. To reach: the default mask (columns by contrast) is as accurate as LoRA on average, at a third of its KL.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_speed import TASKS, rows_of
from freeze_accuracy import NEVER, ctxtune
from freeze_speed import HERE, run
from lines import kept, lines_of

if TYPE_CHECKING:
    from collections.abc import Callable

PROBE = HERE.parents[1] / "templates" / "data" / "probe.txt"
STEPS, BATCH = 40, 8
MASK_RATES = [1e-3, 3e-3, 1e-2, 3e-2]
# Way -> options, rates.
WAYS: dict[str, tuple[list[str], list[float]]] = {
    "contrast columns": (["mask"], [3e-4, 1e-3, 3e-3, 1e-2]),
    "contrast, ewc 0": (["mask", "--ewc", "0"], [3e-4, 1e-3, 3e-3, 1e-2]),
    "random columns": (["mask", "--select", "random"], MASK_RATES),
    "random entries": (["mask", "--select", "random", "--shape", "entries"], MASK_RATES),
    "fisher columns": (["mask", "--select", "fisher"], MASK_RATES),
    "lora": ([], [3e-4, 1e-3, 3e-3, 1e-2]),
    "last:4": (["freeze", "--layers", "last:4"], [1e-4, 3e-4, 1e-3, 3e-3]),
    "all layers": (["freeze", "--layers", "all"], [1e-5, 3e-5, 1e-4, 3e-4]),
}
DEFAULT, PEER, SHARE = "contrast columns", "lora", 1 / 3


def parts_of(args: argparse.Namespace, task: str, seed: int) -> dict[str, list[dict[str, str]]]:
    """Rows to learn from in the order of a seed, rows to choose a rate by, and rows to score."""
    train, test, *_ = TASKS[task]
    rows, scored = rows_of(args.data / task, train), rows_of(args.data / task, test)
    for lot, some in ((f"held out {task}", rows), (f"scored {task}", scored)):
        random.Random(lot).shuffle(some)
    held_out, rest = rows[: args.held_out], rows[args.held_out :]
    random.Random(f"rows {seed}").shuffle(rest)
    return {"train": rest[: STEPS * BATCH], "held_out": held_out, "scored": scored[: args.rows]}


def rendered(task: str, row: dict[str, str]) -> dict[str, Any]:
    """A row as the peer wants it."""
    _, _, prompt, labels, _ = TASKS[task]
    return {"prompt": prompt.replace("{{ text }}", row["text"]), "choices": labels, "gold": labels.index(row["label"])}


def learned(
    args: argparse.Namespace, task: str, way: str, rate: float, seed: int, steps: int, by: str, more: tuple[str, ...] = (),
    look: Callable[[str], dict[str, Any]] = lambda adapter: {},
) -> dict[str, Any]:  # fmt: skip
    """One run, scored on the rows of a part; `look` adds what else is wanted of its adapter."""
    parts = parts_of(args, task, seed)
    _, _, prompt, labels, _ = TASKS[task]
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.jsonl" for name in parts}
        for name, rows in parts.items():
            lines = (rendered(task, row) if way == PEER else row for row in rows)
            paths[name].write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        if way == PEER:
            text, _ = run(
                [sys.executable, str(HERE / "peers" / "peft_lora.py"), args.model, str(paths["train"]), str(paths[by]),
                 str(PROBE), "--steps", str(steps), "--batch", str(BATCH), "--lr", str(rate), "--seed", str(seed)]
            )  # fmt: skip
            facts = json.loads(text.strip().splitlines()[-1])
            return {name: facts[name] for name in ("acc", "acc_stderr", "kl", "trainable", "seconds")}
        facts = ctxtune(
            *WAYS[way][0], "--model", args.model, "--train", str(paths["train"]), "--eval", str(paths[by]),
            "--prompt", prompt, "--answer", "{{ label }}", "--choices", ",".join(labels), "--batch", str(BATCH),
            "--lr", str(rate), "--seed", str(seed), "--set", f"train.steps={steps}", "--set", f"train.eval_every={NEVER}",
            *more, "--out", f"{folder}/run",
        )  # fmt: skip
        scores = facts["scores"]["after"]
        return {
            "acc": scores["acc"], "acc_stderr": scores["acc_stderr"], "kl": facts["forgetting"]["after"]["kl"],
            "task_kl": facts["forgetting"]["after"]["task_kl"], "trainable": facts["trainable"],
            "seconds": facts["seconds"]["loop"], **({"guard": facts["guard"]} if "guard" in facts else {}),
            **look(f"{folder}/run"),
        }  # fmt: skip


def best_rate(args: argparse.Namespace, task: str, way: str) -> float:
    """The rate that is best at half length."""
    found = {}
    for rate in WAYS[way][1]:
        key = {"task": task, "way": way, "rate": rate, "seed": 0, "steps": args.steps // 2}
        found[rate] = kept(args.out, key, partial(learned, args, task, way, rate, 0, args.steps // 2, "held_out"))[
            "acc"
        ]
    return max(sorted(found), key=lambda rate: found[rate])


def table(found: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    """Means over the seeds, and the verdict of each task."""
    print(f"{'task':10} {'way':16} {'rate':>8} {'accuracy':>9}  {'of the seeds':26} {'KL':>8}  of the seeds")
    for (task, way), runs in found.items():
        accs, kls = ([one[key] for one in runs] for key in ("acc", "kl"))
        each, far = (" ".join(f"{value:.4f}" for value in values) for values in (accs, kls))
        acc, kl = statistics.mean(accs), statistics.mean(kls)
        print(f"{task:10} {way:16} {runs[0]['rate']:8.0e} {acc:9.4f}  {each:26} {kl:8.4f}  {far}")
    tasks = [task for task, way in found if way == DEFAULT and (task, PEER) in found]
    pairs = [(found[task, DEFAULT], found[task, PEER]) for task in tasks]
    if not pairs:
        return
    means = [[statistics.mean(one[key] for one in runs) for runs in pair] for pair in pairs for key in ("acc", "kl")]
    halves = means[::2], means[1::2]
    for task, (own, theirs), (kl, their_kl) in zip(tasks, *halves, strict=True):
        print(f"{task}: {own - theirs:+.4f} accuracy against LoRA, {kl / their_kl:.3f} of its KL")
    (acc, peer), (kl, their_kl) = ([statistics.mean(pair[who] for pair in some) for who in (0, 1)] for some in halves)
    most = max(kl / theirs for kl, theirs in halves[1])
    reached = acc >= peer and kl <= SHARE * their_kl
    print(
        f"{'reached' if reached else 'NOT reached'} on the mean of the tasks: {acc:.4f} against {peer:.4f} of LoRA, "
        f"{kl / their_kl:.3f} of its KL; {'reached' if most <= SHARE else 'NOT reached'} in each: {most:.3f} at most"
    )


COLORS = ("#111111", "#777777", "#1b6ca8", "#3a9ad9", "#7b3fa0", "#d1495b", "#e0a030", "#77a077")
WIDE, HIGH, EDGE = 300, 260, 46


def plot(found: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """Accuracy over KL, of every run a dot: an SVG, a panel a task, KL by powers of ten."""
    tasks = list(dict.fromkeys(task for task, _ in found))
    logs = [math.log10(max(one["kl"], 1e-4)) for runs in found.values() for one in runs]
    accs = [one["acc"] for runs in found.values() for one in runs]
    left, right, low, high = math.floor(min(logs)), math.ceil(max(logs) + 1e-9), min(accs), max(accs) + 1e-9

    def at(panel: int, log: float, acc: float) -> tuple[float, float]:
        across, up = (log - left) / (right - left), (acc - low) / (high - low)
        return panel * WIDE + EDGE + across * (WIDE - EDGE - 12), HIGH - EDGE - up * (HIGH - EDGE - 28)

    parts = []
    for panel, task in enumerate(tasks):
        (x, y), (end, top) = at(panel, left, low), at(panel, right, high)
        parts.append(f'<path d="M{x:.1f} {top:.1f}V{y:.1f}H{end:.1f}" fill="none" stroke="black"/>')
        parts.append(f'<text x="{x:.1f}" y="16">{task}</text>')
        for acc in (low, high):
            parts.append(f'<text x="{x - 4:.1f}" y="{at(panel, left, acc)[1]:.1f}" text-anchor="end">{acc:.2f}</text>')
        for log in range(left, right + 1):
            place = at(panel, log, low)
            parts.append(f'<text x="{place[0]:.1f}" y="{place[1] + 14:.1f}" text-anchor="middle">{10.0**log:g}</text>')
        for color, way in zip(COLORS, WAYS, strict=True):
            for one in found.get((task, way), []):
                across, down = at(panel, math.log10(max(one["kl"], 1e-4)), one["acc"])
                parts.append(
                    f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{color}"><title>{way}</title></circle>'
                )
    for number, (color, way) in enumerate(zip(COLORS, WAYS, strict=True)):
        across = EDGE + number * 120
        parts.append(f'<circle cx="{across}" cy="{HIGH + 6}" r="4" fill="{color}"/>')
        parts.append(f'<text x="{across + 8}" y="{HIGH + 10}">{way}</text>')
    parts.append(f'<text x="{EDGE}" y="{HIGH - 12}">KL(base || tuned), nats a token; upwards: accuracy</text>')
    size = f'width="{max(len(tasks) * WIDE, 900)}" height="{HIGH + 20}" font-family="sans-serif" font-size="11"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', *parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--who", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    for task in args.tasks:
        for way in args.who:
            rate = best_rate(args, task, way)
            for seed in args.seeds:
                key = {"task": task, "way": way, "rate": rate, "seed": seed, "steps": args.steps}
                kept(args.out, key, partial(learned, args, task, way, rate, seed, args.steps, "scored"))
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for task in TASKS:
        for way in WAYS:
            runs = [
                one for one in lines_of(args.out) if (one["task"], one["way"], one["steps"]) == (task, way, args.steps)
            ]
            if runs:
                found[task, way] = sorted(runs, key=lambda one: one["seed"])
    table(found)
    args.out.with_suffix(".svg").write_text(plot(found), encoding="utf-8")


if __name__ == "__main__":
    main()
