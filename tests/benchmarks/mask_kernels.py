"""What a step of mask tuning costs beyond what no step can do without: a frozen forward pass and the gradient of activations.

    python tests/benchmarks/mask_kernels.py --data DATA --model MODEL --out RESULTS [--batches 12] [--repeat 3] [--shapes rows]

DATA holds sst2/train.jsonl (as in freeze_speed.py), MODEL is a folder. Both go through the same code on the same batches and
the same answer rows, in turn, and in turn first: the frozen model, whose embeddings are made to want a gradient, runs
forward and back through all layers; the other learns one weight in a hundred by the loop's own step, optimiser included. Told
is the median over the batches of the ratios. Two models are in memory. One JSON line for a shape and round; lines that are
there already are not computed again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lines import kept

from ctxtune.backend.feed import Feed
from ctxtune.backend.load import load_base
from ctxtune.backend.trunk import Trunk
from ctxtune.data.batch import length_buckets
from ctxtune.data.encode import encode_pairs
from ctxtune.engine.loop import take_step
from ctxtune.engine.optimizer import make_optimizer
from ctxtune.methods.mask import open_method
from ctxtune.objectives.labels import Labels
from ctxtune.recipe.mask import Mask
from ctxtune.recipe.schema import Train

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.data.encode import Encoded

BATCH = 16
MOST = {"columns": 1.10, "rows": 1.10, "entries": 1.35, "blocks": None}
"""shape -> what a step may cost, of a frozen one"""


def examples_of(args: argparse.Namespace, tokenizer: Any) -> list[Encoded]:
    """The first reviews as prompts with their labels."""
    with (args.data / "sst2/train.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(BATCH * (args.batches + 1)), strict=False)]
    pairs = [(f"Review: {row['text']}\nSentiment:", row["label"]) for row in rows]
    return encode_pairs(tokenizer, pairs, delimiter=" ", kind="causal")


def seconds(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def measured(args: argparse.Namespace, shape: str) -> dict[str, Any]:
    """Seconds of both on every batch but the first."""
    frozen, learning = load_base(Path(args.model)), load_base(Path(args.model))
    words = frozen.model.get_submodule(frozen.anatomy.embeddings[0])
    words.register_forward_hook(lambda _module, _given, said: said.requires_grad_(True))
    method = open_method(Mask(name="mask", shape=shape), learning.model, learning.anatomy)
    optimizer, params = make_optimizer(method.params, options := Train(batch=BATCH)), list(method.params.values())
    examples, pairs = examples_of(args, learning.tokenizer), []
    with Trunk(frozen) as still, Trunk(learning, method.start) as moving:
        base, own = Labels(Feed(still, examples)), Labels(Feed(moving, examples))

        def pass_through(batch: list[int]) -> None:
            for part in base.parts(batch, None):
                (base.loss(part) / base.tokens(batch)).backward()

        for number, batch in enumerate(length_buckets([len(one.ids) for one in examples], BATCH, 0, 0)):
            acts = (partial(pass_through, batch), partial(take_step, params, optimizer, own, batch, 3e-3, options))
            told = {one: seconds(acts[one]) for one in ((0, 1) if number % 2 else (1, 0))}
            pairs.append((told[0], told[1]))
    return {
        "trainable": sum(param.numel() for param in params),
        "frozen": round(statistics.median(one for one, _ in pairs[1:]), 3),
        "step": round(statistics.median(other for _, other in pairs[1:]), 3),
        "ratio": round(statistics.median(other / one for one, other in pairs[1:]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", default=list(MOST), choices=MOST)
    args = parser.parse_args()
    for shape in args.shapes:
        runs = [
            kept(args.out, {"shape": shape, "round": number}, partial(measured, args, shape))
            for number in range(args.repeat)
        ]
        ratio, most = statistics.median(one["ratio"] for one in runs), MOST[shape]
        print(json.dumps({
            "shape": shape, "of_frozen": round(ratio, 3), "at_most": most, "reached": None if most is None else ratio <= most,
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
