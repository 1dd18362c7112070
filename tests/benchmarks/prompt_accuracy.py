"""What kinds of prompts learn on SST-2 in the seconds that 60 steps of PEFT's prompt tuning take.

    python tests/benchmarks/prompt_accuracy.py --data DATA --model MODEL --speed SPEED --out RESULTS [--who peer prefix ...]

DATA holds sst2/train.jsonl and sst2/dev.jsonl (as in freeze_speed.py), SPEED is the output of prompt_speed.py: how many steps
of each kind, with its batch, take as long as 60 of the peer. Seconds become steps by that measure, so that a machine which is
busy with other things gives the same accuracies; what rows take to be read for the first time is counted. With --share 0.5 each
kind gets half of the seconds. Every seed shuffles the training rows, the same for all kinds; kinds that keep what the model
makes of a row see the first of these several times, all others each row once. All are scored on the 872 dev rows.
The peer (peers/hf_peer.py: 20 vectors before the input, started from a text) tries three rates with the first seed and goes on
with the best of them; the kinds have one rate each, or those of --rates. One JSON line a run; lines that are there already are
not computed again. To reach: each kind at least the peer's mean, the best kind four points more.
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

from freeze_speed import HERE, run
from lines import kept

STEPS, PEER_BATCH = 60, 16
TEXT = "text:Classify whether the sentiment of this movie review is positive or negative"
# Kind -> its name in SPEED, options, rates, how often it sees a row.
KINDS = {
    "peer": (None, [], [3e-3, 1e-2, 3e-2], 1),
    "input": ("input", ["--kind", "input", "--tokens", "20", "--init", TEXT], [1e-2], 1),
    "residual": ("input", ["--kind", "residual", "--tokens", "20", "--init", TEXT], [1e-2], 1),
    "ptuning": ("input", ["--kind", "ptuning", "--tokens", "20", "--init", TEXT], [1e-3], 1),
    "prefix": ("prefix", ["--kind", "prefix", "--tokens", "20", "--init", TEXT], [1e-2], 1),
    "prefix, top 8": (
        "prefix, top 8", ["--kind", "prefix", "--top", "8", "--tokens", "20", "--init", TEXT], [1e-2], 3,
    ),
    "prefix of 8 demonstrations": (
        "prefix of 8 demonstrations", ["--kind", "prefix", "--init", "fewshot", "--shots", "8"], [1e-2], 1,
    ),
    "suffix": ("suffix", ["--kind", "suffix", "--tokens", "20"], [1e-2], 3),
    "suffix of 8": ("suffix of 8", ["--kind", "suffix", "--tokens", "8"], [1e-2], 3),
}  # fmt: skip


def shuffled(data: Path, seed: int, count: int | None, folder: Path) -> Path:
    """A folder as DATA with the first training rows in the order of a seed."""
    (folder / "sst2").mkdir(parents=True)
    lines = (data / "sst2/train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    random.Random(seed).shuffle(lines)
    (folder / "sst2/train.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    (folder / "sst2/dev.jsonl").write_bytes((data / "sst2/dev.jsonl").read_bytes())
    return folder


def plan(kind: str, share: float, speed: dict[str, dict]) -> tuple[int, int, int | None]:
    """Steps, rows of a step, and rows to learn from: all, from which it takes as many as it needs, or fewer."""
    timed, _, _, passes = KINDS[kind]
    if timed is None:
        return STEPS, PEER_BATCH, None
    one = speed[timed]
    steps = int(STEPS * share * one["peer"] / (one["seconds"] + one["reading"] / passes))
    return steps, one["batch"], None if passes == 1 else -(-steps * one["batch"] // passes)


def accuracy(args: argparse.Namespace, kind: str, rate: float, seed: int, speed: dict[str, dict]) -> dict:
    """One run, and what it makes of the dev rows."""
    steps, batch, count = plan(kind, args.share, speed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = shuffled(args.data, seed, count, folder / "data")
        if kind == "peer":
            text, _ = run(
                [sys.executable, str(HERE / "peers" / "hf_peer.py"), "prompt", args.model, str(data), "--train", "1000000",
                 "--batch", str(batch), "--steps", str(steps), "--dev", "872", "--lr", str(rate)]
            )  # fmt: skip
            found = json.loads(text.strip().splitlines()[-1])["dev_acc"]
        else:
            run(
                [sys.executable, "-m", "ctxtune", "prompt", "--model", args.model, "--train", str(data / "sst2/train.jsonl"),
                 *KINDS[kind][1], "--prompt", "Review: {{ text }}\nSentiment:", "--answer", "{{ label }}", "--choices",
                 "negative,positive", "--batch", str(batch), "--lr", str(rate), "--seed", str(seed), "--set",
                 f"train.steps={steps}", "--set", "forget.probe=none", "--out", f"{folder}/run", "--quiet"]
            )  # fmt: skip
            text, _ = run(
                [sys.executable, "-m", "ctxtune", "eval", "--adapter", f"{folder}/run", "--eval", str(data / "sst2/dev.jsonl"),
                 "--json"]
            )  # fmt: skip
            found = json.loads(text)["scores"]["acc"]
    return {"steps": steps, "batch": batch, "acc": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--speed", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--rates", nargs="+", type=float)
    parser.add_argument("--who", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    speed = {one["way"]: one for one in map(json.loads, args.speed.read_text("utf-8").splitlines())}

    def found(kind: str, rate: float, seed: int) -> float:
        key = {"kind": kind, "rate": rate, "seed": seed, "share": args.share if KINDS[kind][0] else 1.0}
        return kept(args.out, key, partial(accuracy, args, kind, rate, seed, speed))["acc"]

    for kind in args.who:
        best = max(args.rates or KINDS[kind][2], key=lambda rate: found(kind, rate, args.seeds[0]))
        each = [found(kind, best, seed) for seed in args.seeds]
        print(
            f"{kind}: rate {best:.0e}, {statistics.mean(each):.4f} ({', '.join(f'{one:.4f}' for one in each)})",
            flush=True,
        )


if __name__ == "__main__":
    main()
