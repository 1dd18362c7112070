"""How many tokens are run for each that counts, and in how many seconds: rows as they come, sorted by length, and packed.

    python tests/benchmarks/padding.py --model FOLDER --data FILE.jsonl [--field text] [--rows 1024] [--time 256]

Batches are made by the project's own functions, in pieces of 2,048 tokens as in training. Data sets measured: SST-2
(github.com/tonyzhaozh/few-shot-learning), Banking77, ARC, AG News and GSM8K, the first 1,024 rows of each. With `--time N`, N
rows are run forwards and backwards through the model's last two blocks from kept states, and through the whole model:
processor seconds, padded and packed in turns, the least of three.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

from ctxtune.backend.tokenizer import load_tokenizer
from ctxtune.data.batch import length_buckets, micro_batches, padded
from ctxtune.data.encode import Encoded
from ctxtune.data.pack import alone, packed


def run_for_each(batches: list[list[int]], lengths: list[int], pack: bool = False) -> float:
    """Tokens with padding over tokens without."""
    pieces = [piece for batch in batches for piece in micro_batches(batch, lengths, rows=None, max_tokens=2048)]
    empty = [[Encoded((0,) * lengths[i], (), ()) for i in piece] for piece in pieces]
    return sum(padded(piece, 0, packed if pack else alone).ids.size for piece in empty) / sum(lengths)


def seconds(model: Path, texts: list[str], batch: int, layers: str) -> dict[str, float]:
    """Of one epoch over the texts, the loss on the last token of each."""
    from ctxtune.backend.feed import Feed
    from ctxtune.backend.load import load_base
    from ctxtune.backend.trunk import Trunk
    from ctxtune.methods.registry import open_method
    from ctxtune.objectives.labels import Labels
    from ctxtune.recipe.schema import Freeze

    base = load_base(model, "cpu")
    rows = [base.tokenizer(text)["input_ids"] for text in texts]
    examples = [Encoded(tuple(ids[:-1]), (len(ids) - 2,), (ids[-1],)) for ids in rows]
    method = open_method(Freeze(name="freeze", layers=layers), base.model, base.anatomy)
    least = {}
    with Trunk(base, method.start) as trunk:
        feed = Feed(trunk, examples)
        states = feed.keep("memory", "benchmark")
        batches = length_buckets(feed.lengths, batch, 0, 0)
        for _ in range(3):
            for name, pack in (("padded", False), ("packed", True)):
                labels = Labels(Feed(trunk, examples, pack))
                labels.feed.states = states
                begun = time.process_time()
                for one in batches:
                    for part in labels.parts(one, None):
                        labels.loss(part).backward()  # type: ignore[no-untyped-call]
                least[name] = min(time.process_time() - begun, least.get(name, float("inf")))
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--field", default=None, help="the text of a row; without it all texts of a row together")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--time", type=int, default=0, help="rows that are run through the model")
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.data.read_text(encoding="utf-8").splitlines()[: given.rows]]
    texts = [str(row[given.field]) if given.field else "\n".join(map(str, row.values())) for row in rows]
    lengths = [len(ids) for ids in load_tokenizer(given.model)(texts)["input_ids"]]
    order = list(range(len(lengths)))
    random.Random(0).shuffle(order)
    print(f"{sum(lengths) / len(lengths):.0f} tokens a row; tokens run for each that counts:")
    for size in (8, 16, 32):
        buckets = length_buckets(lengths, size, 0, 0)
        shuffled = [order[i : i + size] for i in range(0, len(order), size)]
        whole = sum(max(lengths[i] for i in one) * len(one) for one in shuffled) / sum(lengths)
        found = run_for_each(buckets, lengths), run_for_each(buckets, lengths, pack=True)
        print(f"batch {size}: {whole:.3f} as they come, {found[0]:.3f} sorted, {found[1]:.3f} packed")
    for layers in ("last:2", "all") if given.time else ():
        for name, took in seconds(given.model, texts[: given.time], 16, layers).items():
            print(f"{layers}, batch 16: {took:.2f} s {name}")


if __name__ == "__main__":
    main()
