"""A step of prompt tuning against PEFT's prompt tuning in Hugging Face's Trainer: the same rows, batch and type, in turn.

    python tests/benchmarks/prompt_speed.py --data DATA --model MODEL [--repeat 3] [--steps 8] [--batch 16]

DATA holds sst2/train.jsonl (as in freeze_speed.py), MODEL is a folder. The peer is peers/hf_peer.py: 20 virtual tokens that
start from a text. Ours are 20 as well: vectors before the input, a prefix of all layers, one whose top 8 layers learn, with
its states kept, and vectors behind the input, with what the model makes of the rows kept; and 8 of these; and the prefix that
is the default, of 8 demonstrations. Compared is the median step after the first, by the clock and as whole processes one after
the other; `times_fresh` counts to each step what it takes to read its rows for the first time. The work limit is what a step's
matrix products cost at the rate that this machine reaches on them. With --batch 8 ours have steps of 8 rows beside the peer's
of 16, for prompt_accuracy.py.
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

ROWS, LAYERS = 256, 30
PEER_BATCH = 16
TEXT = "Classify whether the sentiment of this movie review is positive or negative"
WORDS = ["--init", f"text:{TEXT}", "--tokens"]
# Way -> options, virtual tokens that are run in every step, whether for each row, layers with gradients, to reach.
WAYS = {
    "input": (["--kind", "input", *WORDS, "20"], 20, False, LAYERS, 1.5),
    "prefix": (["--kind", "prefix", *WORDS, "20"], 0, False, LAYERS, 2.3),
    "prefix, top 8": (["--kind", "prefix", "--top", "8", *WORDS, "20"], 0, False, 8, 6.0),
    "suffix": (["--kind", "suffix", *WORDS, "20"], 20, True, LAYERS, 3.5),
    "suffix of 8": (["--kind", "suffix", *WORDS, "8"], 8, True, LAYERS, 7.0),
    "prefix of 8 demonstrations": (["--kind", "prefix", "--init", "fewshot", "--shots", "8"], 0, False, LAYERS, None),
}  # fmt: skip


def peer(args: argparse.Namespace) -> float:
    """Seconds of a step of the peer."""
    text, _ = run(
        [sys.executable, str(HERE / "peers" / "hf_peer.py"), "prompt", args.model, args.data, "--train", str(ROWS),
         "--batch", str(PEER_BATCH), "--steps", str(args.steps), "--dev", "0"]
    )  # fmt: skip
    return float(json.loads(text.strip().splitlines()[-1])["wall_s_step"])


def ours(
    args: argparse.Namespace, options: list[str], virtual: int, each: bool, layers: int
) -> tuple[float, float, float]:
    """Seconds of a step, those that its rows take to be read first, and the FLOP of a step's matrix products.

    These are a forward pass, and as much again for the gradient of activations.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "train.jsonl"
        lines = (Path(args.data) / "sst2/train.jsonl").open(encoding="utf-8").readlines()[:ROWS]
        rows.write_text("".join(lines), encoding="utf-8")
        os.environ["CTXTUNE_HOME"] = f"{folder}/home"
        text, _ = run(
            [sys.executable, "-m", "ctxtune", "prompt", "--model", args.model, "--train", str(rows), *options,
             "--prompt", "Review: {{ text }}\nSentiment:", "--answer", "{{ label }}", "--choices", "negative,positive",
             "--batch", str(args.batch), "--lr", "1e-2", "--set", f"train.steps={args.steps}", "--set",
             "forget.probe=none", "--out", f"{folder}/run", "--quiet", "--json"]
        )  # fmt: skip
        steps = [json.loads(line) for line in Path(f"{folder}/run/metrics.jsonl").read_text("utf-8").splitlines()][1:]
    layer, head = 3_538_944, 28_311_552
    tokens = statistics.median(step["tokens"] for step in steps) + virtual
    if each:
        tokens = virtual * args.batch  # the answers are one token each, which nothing is fed behind
    facts = json.loads(text)
    reading = facts["seconds"]["cache"] / args.steps if facts["cache"]["place"] != "off" else 0.0
    flop = 4 * (tokens * layer * layers + args.batch * head)
    return statistics.median(step["seconds"] for step in steps), reading, flop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=PEER_BATCH)
    args = parser.parse_args()
    rate = matrix_rate(args.model)
    rounds = [(peer(args), {way: ours(args, *what[:4]) for way, what in WAYS.items()}) for _ in range(args.repeat)]
    for way, (*_, wanted) in WAYS.items():
        seconds, reading = (statistics.median(found[way][which] for _, found in rounds) for which in (0, 1))
        ratios = [(theirs / found[way][0], theirs / sum(found[way][:2])) for theirs, found in rounds]
        print(json.dumps({
            "way": way, "batch": args.batch, "seconds": round(seconds, 3), "reading": round(reading, 3),
            "peer": round(statistics.median(theirs for theirs, _ in rounds), 3),
            "times": round(statistics.median(one for one, _ in ratios), 2),
            "times_fresh": round(statistics.median(one for _, one in ratios), 2), "to_reach": wanted,
            "over_work_limit": round(seconds / (rounds[0][1][way][2] / rate), 2), "matrix_gflops": round(rate / 1e9, 1),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
