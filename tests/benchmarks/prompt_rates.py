"""Whether `lr: auto` finds the rate of a suffix: SST-2, 7 rates x 3 starts against what is chosen alone.

    python tests/benchmarks/prompt_rates.py --data DATA --model MODEL --out RESULTS [--rows 512] [--dev 400] [--epochs 2]

DATA holds sst2/train.jsonl and sst2/dev.jsonl (as in freeze_speed.py). 8 vectors behind the input; what the model makes of the
rows is kept once for all runs. The automatic run leaves start and rate open. To reach: it loses at most two points to the best
of the grid. One JSON line a run; lines that are there already are not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from freeze_speed import run
from lines import kept

RATES = ["3e-4", "1e-3", "3e-3", "1e-2", "3e-2", "1e-1", "3e-1"]
STARTS = ["text:\nIs the review positive or negative? It is", "labels", "vocab"]


def accuracy(args: argparse.Namespace, start: str, rate: str, folder: Path) -> dict:
    """One run, and what it makes of the dev rows after its last step."""
    out = folder / "run"
    text, _ = run(
        [sys.executable, "-m", "ctxtune", "prompt", "--model", args.model, "--train", str(folder / "train.jsonl"), "--eval",
         str(folder / "dev.jsonl"), "--kind", "suffix", "--tokens", "8", "--init", start, "--lr", rate, "--prompt",
         "Review: {{ text }}\nSentiment:", "--answer", "{{ label }}", "--choices", "negative,positive", "--batch", "16",
         "--epochs", str(args.epochs), "--set", "forget.probe=none", "--out", str(out), "--quiet", "--json"]
    )  # fmt: skip
    facts = json.loads(text)
    for path in sorted(out.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    after = facts["scores"]["after"]
    return {
        "value": facts["lr"]["value"], "acc": after["acc"], "stderr": after["acc_stderr"],
        "begun": facts["start"]["scores"]["acc"], "best_step": facts["best_step"], "seconds": facts["seconds"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--dev", type=int, default=400)
    parser.add_argument("--epochs", type=float, default=2)
    args = parser.parse_args()
    runs = [("auto", "auto"), *((start, rate) for start in STARTS for rate in RATES)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CTXTUNE_HOME"] = str(folder / "home")
        for part, count in (("train", args.rows), ("dev", args.dev)):
            rows = (args.data / f"sst2/{part}.jsonl").open(encoding="utf-8").readlines()[:count]
            (folder / f"{part}.jsonl").write_text("".join(rows), encoding="utf-8")
        auto, *grid = [
            kept(args.out, {"start": start, "rate": rate}, partial(accuracy, args, start, rate, folder))
            for start, rate in runs
        ]
    best = max(grid, key=lambda one: one["acc"])
    print(
        f"auto {auto['acc']:.4f} at {auto['value']:.0e}; best of {len(grid)}: {best['acc']:.4f} at {best['rate']} from "
        f"{best['start']!r}; {100 * (auto['acc'] - best['acc']):+.1f} points"
    )


if __name__ == "__main__":
    main()
