"""Two processes against one: the same losses, checkpoints that change hands, and what becomes of a run when one is killed.

    python tests/benchmarks/pretrain_ranks.py --data DATA --out RESULTS

DATA as in pretrain_speed.py, whose texts, tokenizer and model (4 layers x 128, batches of 8 rows of 256 tokens) these are; the
processors are shared by gloo. One JSON line each; lines that are there already are not computed again:

    losses   the largest difference of 20 steps of two processes (--nproc 2, and --nproc 2 --fsdp) to those of one
    hands    a run of one kind is stopped (SIGINT) and resumed as another: the largest difference of the next 20 losses
    killed   one of two is killed with SIGKILL: seconds until the command has ended, what it said, and whether the resumed run's
             losses are those of one that nobody disturbed, to the last bit

To reach: 1e-5 for 20 steps; the error within 30 s.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from lines import kept
from pretrain_speed import BATCH, texts, tokenizer_of

STEPS, LONG, STOP_AT, SAVED = 20, 60, 25, 10
WAYS = {"one": [], "two": ["--nproc", "2"], "shards": ["--nproc", "2", "--fsdp"]}
HANDS = [("two", "one"), ("one", "two"), ("shards", "one"), ("one", "shards"), ("shards", "two"), ("two", "shards")]


def words(args: argparse.Namespace, out: Path, steps: int, way: str, *more: str) -> list[str]:
    train = [word for text in texts(args) for word in ("--train", text)]
    return [
        sys.executable, "-m", "ctxtune", "pretrain", *train, "--tokenizer", tokenizer_of(args), "--batch", str(BATCH),
        "--steps", str(steps), "--set", f"train.save_every={SAVED}", "--out", str(out), *WAYS[way], *more,
    ]  # fmt: skip


def losses(out: Path) -> list[float]:
    log = out / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    return [line["loss"] for line in lines if "loss" in line]


def whole(args: argparse.Namespace, steps: int, way: str) -> list[float]:
    """The losses of a run that nobody disturbs."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(words(args, Path(folder, "run"), steps, way), check=True, capture_output=True)
        return losses(Path(folder, "run"))


def apart(ours: list[float], theirs: list[float]) -> float:
    return max(abs(one - other) for one, other in zip(ours, theirs, strict=True))


def until(process: subprocess.Popen[str], out: Path) -> None:
    """Wait for a step behind the second checkpoint."""
    while len(losses(out)) < STOP_AT:
        if process.poll() is not None:
            raise SystemExit(f"the run has ended before step {STOP_AT}: {process.communicate()[1]}")
        time.sleep(0.02)


def hands(args: argparse.Namespace, first: str, second: str, calm: list[float]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        with subprocess.Popen(words(args, out, LONG, first), text=True, stderr=subprocess.PIPE) as process:
            until(process, out)
            process.send_signal(signal.SIGINT)
            process.communicate()
        step = len(losses(out))
        subprocess.run(words(args, out, LONG, second, "--resume"), check=True, capture_output=True)
        found = losses(out)
    return {"stopped_at": step, "steps": len(found), "apart": apart(found[: step + STEPS], calm[: step + STEPS])}


def killed(args: argparse.Namespace, calm: list[float]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        with subprocess.Popen(words(args, out, LONG, "two"), text=True, stderr=subprocess.PIPE) as process:
            until(process, out)
            started = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(started[1]), signal.SIGKILL)
            begun = time.monotonic()
            said = process.communicate()[1]
            seconds = time.monotonic() - begun
        errors = [line for line in said.splitlines() if line.startswith(("error:", "hint:"))]
        subprocess.run(words(args, out, LONG, "two", "--resume"), check=True, capture_output=True)
        same = losses(out) == calm
    return {"code": process.returncode, "seconds": round(seconds, 2), "said": errors, "resumed_to_the_bit": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    runs = {
        way: kept(args.out, {"what": "run", "way": way}, lambda way=way: {"losses": whole(args, LONG, way)})
        for way in WAYS
    }
    calm = {way: run["losses"] for way, run in runs.items()}
    for way in ("two", "shards"):
        off = apart(calm[way][:STEPS], calm["one"][:STEPS])
        print(f"{'reached' if off <= 1e-5 else 'NOT reached'}: {way}, {STEPS} losses, largest difference {off:.1e}")
    for first, second in HANDS:
        key = {"what": "hands", "from": first, "to": second}
        found = kept(args.out, key, partial(hands, args, first, second, calm[first]))
        print(f"{first} to {second}: stopped at step {found['stopped_at']}, largest difference {found['apart']:.1e}")
    found = kept(args.out, {"what": "killed"}, partial(killed, args, calm["two"]))
    well = found["code"] == 1 and found["seconds"] < 30 and found["resumed_to_the_bit"]
    print(f"{'reached' if well else 'NOT reached'}: one of two killed, {json.dumps(found)}")


if __name__ == "__main__":
    main()
