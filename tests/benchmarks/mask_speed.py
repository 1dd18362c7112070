"""A step of mask tuning against PEFT's SHiRA, LoRA and full tuning in Hugging Face's Trainer: the same rows, batch and type.

    python tests/benchmarks/mask_speed.py --data DATA --model MODEL --out RESULTS [--repeat 3] [--steps 8] [--who columns shira]

DATA holds sst2/train.jsonl (as in freeze_speed.py), MODEL is a folder. The peer is peers/hf_peer.py: SHiRA and LoRA of rank 4
move about one weight in a hundred, as our masks do, and full tuning moves all. Whole processes one after the other, every way
once in each round. Compared is the median step after the first; `times_fresh` counts to each step what it takes to read its
rows for the first time, where these are kept. What it takes to choose the numbers, once, is told as `choice`. Memory is what
a process needs at its most beyond what it had when the model was loaded: of ours beyond what was in use then, with all
weights in memory, which are mapped from their files and come as they are used, of the peer beyond its most until then, which
flatters the peer. The work limit is what a step's matrix products cost at the rate that this machine reaches on them: a
forward pass, and as much again for the gradient of activations. One JSON line a run; lines that are there already are not
computed again. The verdicts are printed of the ways that were asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from freeze_speed import HERE, matrix_rate, run
from lines import kept

ROWS, BATCH, LAYERS = 256, 16, 30
LAYER, HEAD = 3_538_944, 28_311_552  # weights of SmolLM2-135M
# Way -> options, layers with gradients.
WAYS = {
    "columns": (["--shape", "columns"], LAYERS),
    "rows": (["--shape", "rows"], LAYERS),
    "entries": (["--shape", "entries"], LAYERS),
    "columns, last:4": (["--shape", "columns", "--layers", "last:4"], 4),
}
PEERS = ("shira", "lora", "full")
# Way, peer, how many times as fast it is to be.
TIMES = [
    ("columns", "shira", 1.8), ("rows", "shira", 1.8), ("entries", "shira", 1.4), ("columns", "lora", 1.5),
    ("rows", "lora", 1.5), ("columns, last:4", "lora", 6.0),
]  # fmt: skip
# Peer, the share of its memory that ours may take.
MEMORY = [("shira", 0.6), ("full", 0.45)]
# The command itself, which writes down in its first argument how far its memory rises once the model is loaded.
MEASURED = """
import atexit, sys
from pathlib import Path
from ctxtune.commands import adapt
def mib(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1]) / 1024
own, told = adapt.load_to_train, Path(sys.argv.pop(1))
def load(*given):
    base = own(*given)
    for number in base.model.parameters():
        number.sum()
    Path("/proc/self/clear_refs").write_text("5")
    before = mib("VmRSS")
    atexit.register(lambda: told.write_text(str(mib("VmHWM") - before)))
    return base
adapt.load_to_train = load
from ctxtune.__main__ import main
main()
"""


def peer(args: argparse.Namespace, method: str) -> dict[str, float]:
    """Seconds of a step of the peer, and how far its memory rises."""
    text, _ = run(
        [sys.executable, str(HERE / "peers" / "hf_peer.py"), method, args.model, str(args.data), "--train", str(ROWS),
         "--batch", str(BATCH), "--steps", str(args.steps), "--dev", "0"]
    )  # fmt: skip
    facts = json.loads(text.strip().splitlines()[-1])
    return {
        "trainable": facts["trainable"], "seconds": facts["wall_s_step"], "mib": facts["rss_peak"] - facts["rss_before"],
    }  # fmt: skip


def ours(args: argparse.Namespace, way: str) -> dict[str, float]:
    """The same of a mask, and of the rows that a step would have to read first."""
    options, layers = WAYS[way]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "train.jsonl"
        lines = (args.data / "sst2/train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:ROWS]
        rows.write_text("".join(lines), encoding="utf-8")
        os.environ["CTXTUNE_HOME"] = f"{folder}/home"  # no store of an earlier run
        text, _ = run(
            [sys.executable, "-c", MEASURED, f"{folder}/mib", "mask", "--model", args.model, "--train", str(rows), *options,
             "--prompt", "Review: {{ text }}\nSentiment:", "--answer", "{{ label }}", "--choices", "negative,positive",
             "--batch", str(BATCH), "--lr", "3e-3", "--set", f"train.steps={args.steps}", "--set", "forget.probe=none",
             "--out", f"{folder}/run", "--quiet", "--json"]
        )  # fmt: skip
        steps = [json.loads(line) for line in Path(f"{folder}/run/metrics.jsonl").read_text("utf-8").splitlines()][1:]
        mib = float(Path(f"{folder}/mib").read_text())
    facts = json.loads(text)
    tokens = statistics.median(step["tokens"] for step in steps)
    return {
        "trainable": facts["trainable"], "seconds": round(statistics.median(step["seconds"] for step in steps), 3),
        "reading": round(facts["seconds"]["cache"] / args.steps, 3) if facts["cache"]["place"] != "off" else 0.0,
        "choice": facts["seconds"]["choice"], "mib": round(mib), "flop": 4 * (tokens * LAYER * layers + BATCH * HEAD),
    }  # fmt: skip


def verdicts(rounds: list[dict[str, dict[str, Any]]], rate: float) -> None:
    """Print what came out, beside what was to be reached; ratios are medians of those of the rounds."""
    for way in (way for way in WAYS if way in rounds[0]):
        limit = statistics.median(found[way]["seconds"] / (found[way]["flop"] / rate) for found in rounds)
        print(json.dumps({"way": way, "over_work_limit": round(limit, 2), "matrix_gflops": round(rate / 1e9, 1)}))
    for way, who, wanted in TIMES:
        if {way, who} <= rounds[0].keys():
            pairs = [(found[who]["seconds"], found[way]) for found in rounds]
            times = statistics.median(theirs / own["seconds"] for theirs, own in pairs)
            fresh = statistics.median(theirs / (own["seconds"] + own["reading"]) for theirs, own in pairs)
            print(json.dumps({
                "way": way, "peer": who, "times": round(times, 2), "times_fresh": round(fresh, 2), "to_reach": wanted,
                "reached": times >= wanted,
            }))  # fmt: skip
    for way in (way for way in WAYS if way in rounds[0]):
        for who, most in MEMORY:
            if who in rounds[0]:
                share = statistics.median(found[way]["mib"] / found[who]["mib"] for found in rounds)
                print(json.dumps(
                    {"way": way, "peer": who, "memory": round(share, 2), "at_most": most, "reached": share <= most}
                ))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--who", nargs="+", default=[*WAYS, *PEERS], choices=[*WAYS, *PEERS])
    args = parser.parse_args()
    rounds = [
        {
            who: kept(args.out, {"round": number, "who": who}, partial(peer if who in PEERS else ours, args, who))
            for who in args.who
        }
        for number in range(args.repeat)
    ]
    verdicts(rounds, matrix_rate(args.model))


if __name__ == "__main__":
    main()
