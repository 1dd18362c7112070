"""Whether the rate that does best for a narrow model does best for wider ones: `lr: transfer`, and what the shares are worth.

    python tests/benchmarks/pretrain_transfer.py --data DATA --out RESULTS [--optimizer muon] [--steps 200] [--seeds 1]

Texts as in pretrain_speed.py. Models of 2 layers, 64, 128 and 256 wide, learn the same batches of 8 rows of 128 tokens
(vocabulary 1,024) at five rates each, those that `lr: transfer` tries; told is the loss of what is held out when the steps are
over, nats a token. One JSON line a run; lines that are there already are not computed again. The rate that is best 64 wide is
worth what it loses, at the other widths, against the best there.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from freeze_accuracy import ctxtune
from lines import kept
from pretrain_speed import texts, tokenizer_of

from ctxtune.commands.narrow import TIMES
from ctxtune.methods.pretrain import RATES

WIDTHS, VOCABULARY = (64, 128, 256), 1024
SHAPE = ["--depth", "2", "--set", "method.row=128", "--batch", "8", "--set", "method.compile=off"]


def learned(args: argparse.Namespace, tokenizer: str, width: int, rate: float, seed: int) -> dict[str, Any]:
    """One model at one rate; the corpus is tokenised already."""
    with tempfile.TemporaryDirectory() as folder:
        facts = ctxtune(
            "pretrain", *(word for text in texts(args) for word in ("--train", text)), "--tokenizer", tokenizer, *SHAPE,
            "--set", f"method.width={width}", "--optimizer", args.optimizer, "--steps", str(args.steps), "--lr", str(rate),
            "--seed", str(seed), "--out", f"{folder}/run",
        )  # fmt: skip
    return {
        "loss": facts["scores"]["after"]["loss"],
        "parameters": facts["parameters"],
        "seconds": facts["seconds"]["loop"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    tokenizer, rates = tokenizer_of(args, VOCABULARY), [RATES[args.optimizer] * times for times in TIMES]
    losses: dict[int, dict[float, float]] = {}
    for width in WIDTHS:
        losses[width] = {}
        for rate in rates:
            key = {"optimizer": args.optimizer, "steps": args.steps, "width": width, "rate": rate}
            found = [
                kept(args.out, {**key, "seed": seed}, partial(learned, args, tokenizer, width, rate, seed))["loss"]
                for seed in range(args.seeds)
            ]
            losses[width][rate] = statistics.mean(found)
    carried = min(rates, key=losses[WIDTHS[0]].__getitem__)
    for width, by_rate in losses.items():
        best = min(rates, key=by_rate.__getitem__)
        table = ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in by_rate.items())
        print(f"{width} wide: best at {best:g}; {carried:g} loses {by_rate[carried] - by_rate[best]:.4f} ({table})")


if __name__ == "__main__":
    main()
