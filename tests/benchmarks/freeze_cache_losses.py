"""The cache changes no number: the losses of the same run with the cache on disk, in memory and switched off.

    python tests/benchmarks/freeze_cache_losses.py --data DATA --model MODEL [--rows 256]

DATA and MODEL as in freeze_speed.py, whose run this is: SST-2, batch 16, last:2, 3 epochs. Prints for each pair of places the
largest difference between the losses of a step, in nats a token; 1 is returned if one is above 5e-6.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PLACES = ("disk", "memory", "off")
BAR = 5e-6


def losses(model: str, rows: Path, place: str, epochs: int, folder: Path) -> tuple[list[float], dict]:
    """The loss of every step, and what the run says of itself."""
    command = [
        sys.executable, "-m", "ctxtune", "freeze", "--model", model, "--train", str(rows), "--layers", "last:2",
        "--prompt", "Review: {{ text }}\nSentiment:", "--answer", "{{ label }}", "--choices", "negative,positive",
        "--batch", "16", "--epochs", str(epochs), "--lr", "5e-5", "--set", "train.schedule=constant",
        "--set", "train.warmup=0", "--set", "forget.probe=none", "--cache", place, "--out", str(folder / place),
        "--quiet", "--json",
    ]  # fmt: skip
    # A store of an earlier run would be read instead of built; the model is named by its folder.
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "CTXTUNE_HOME": str(folder / "home")}
    )
    if done.returncode:
        raise SystemExit(f"--cache {place} failed")
    facts = json.loads(done.stdout)
    if facts["cache"]["place"] != place:
        raise SystemExit(f"--cache {place} was asked for, and the run used {facts['cache']['place']}")
    lines = (folder / place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record], facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = folder / "train.jsonl"
        with (args.data / "sst2/train.jsonl").open(encoding="utf-8") as lines:
            rows.write_text("".join(itertools.islice(lines, args.rows)), encoding="utf-8")
        found = {place: losses(str(Path(args.model).resolve()), rows, place, args.epochs, folder) for place in PLACES}
    differences = {
        f"{one}, {other}": max(abs(a - b) for a, b in zip(found[one][0], found[other][0], strict=True))
        for one, other in itertools.combinations(PLACES, 2)
    }
    print(json.dumps({
        "rows": args.rows, "steps": len(found["off"][0]), "first_loss": found["off"][0][0], "last_loss": found["off"][0][-1],
        "largest_difference": differences, "bar": BAR,
        "seconds": {place: facts["seconds"]["cache"] + facts["seconds"]["loop"] for place, (_, facts) in found.items()},
    }, indent=1))  # fmt: skip
    return 1 if max(differences.values()) > BAR else 0


if __name__ == "__main__":
    sys.exit(main())
