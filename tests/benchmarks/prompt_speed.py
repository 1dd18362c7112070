"""A step of prompt tuning against PEFT's prompt tuning in Hugging Face's Trainer: the same rows, batch and type, in turn.

    python tests/benchmarks/prompt_speed.py --data DATA --model MODEL [--repeat 3] [--steps 8]

DATA holds sst2/train.jsonl (as in freeze_speed.py), MODEL is a folder. The peer is peers/hf_peer.py: 20 virtual tokens that
start from a text. Ours are 20 as well: vectors before the input, a prefix of all layers, one whose top 8 layers learn, with
its states kept, and vectors behind the input, with what the model makes of the rows kept; and 8 of these. Compared is the
median step after the first, by the clock and as whole processes one after the other; the work limit is what a step's matrix
products cost at the rate that this machine reaches on them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from freeze_speed import HERE, matrix_rate, run

ROWS, BATCH, LAYERS = 256, 16, 30
TEXT = "Classify whether the sentiment of this movie review is positive or negative"
# Way -> options, virtual tokens, layers that gradients go through, to reach.
WAYS = {
    "input": (["--kind", "input"], 20, LAYERS, 1.5),
    "prefix": (["--kind", "prefix"], 20, LAYERS, 2.3),
    "prefix, top 8": (["--kind", "prefix", "--top", "8"], 20, 8, 6.0),
    "suffix": (["--kind", "suffix"], 20, LAYERS, 3.5),
    "suffix of 8": (["--kind", "suffix"], 8, LAYERS, 7.0),
}


def peer(args: argparse.Namespace) -> float:
    """Seconds of a step of the peer."""
    text, _ = run(
        [sys.executable, str(HERE / "peers" / "hf_peer.py"), "prompt", args.model, args.data, "--train", str(ROWS),
         "--batch", str(BATCH), "--steps", str(args.steps), "--dev", "0"]
    )  # fmt: skip
    return float(json.loads(text.strip().splitlines()[-1])["wall_s_step"])


def ours(args: argparse.Namespace, options: list[str], virtual: int, layers: int) -> tuple[float, float]:
    """Seconds of a step, and the FLOP of its matrix products: forward, and as much again for the gradient of activations."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "train.jsonl"
        lines = (Path(args.data) / "sst2/train.jsonl").open(encoding="utf-8").readlines()[:ROWS]
        rows.write_text("".join(lines), encoding="utf-8")
        os.environ["CTXTUNE_HOME"] = f"{folder}/home"
        run(
            [sys.executable, "-m", "ctxtune", "prompt", "--model", args.model, "--train", str(rows), *options,
             "--tokens", str(virtual), "--init", f"text:{TEXT}", "--prompt", "Review: {{ text }}\nSentiment:",
             "--answer", "{{ label }}", "--choices", "negative,positive", "--batch", str(BATCH), "--lr", "1e-2",
             "--set", f"train.steps={args.steps}", "--set", "forget.probe=none", "--out", f"{folder}/run", "--quiet"]
        )  # fmt: skip
        steps = [json.loads(line) for line in Path(f"{folder}/run/metrics.jsonl").read_text("utf-8").splitlines()][1:]
    layer, head = 3_538_944, 28_311_552
    tokens = statistics.median(step["tokens"] for step in steps) + (virtual if "input" in options else 0)
    if "suffix" in options:
        tokens = BATCH * virtual  # the answers are one token each, which nothing is fed behind
    return statistics.median(step["seconds"] for step in steps), 4 * (tokens * layer * layers + BATCH * head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    rate = matrix_rate(args.model)
    rounds = [(peer(args), {way: ours(args, *what[:3]) for way, what in WAYS.items()}) for _ in range(args.repeat)]
    for way, (*_, wanted) in WAYS.items():
        seconds = statistics.median(found[way][0] for _, found in rounds)
        print(json.dumps({
            "way": way, "seconds": round(seconds, 3), "peer": round(statistics.median(theirs for theirs, _ in rounds), 3),
            "times": round(statistics.median(theirs / found[way][0] for theirs, found in rounds), 2), "to_reach": wanted,
            "over_work_limit": round(seconds / (rounds[0][1][way][1] / rate), 2), "matrix_gflops": round(rate / 1e9, 1),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
