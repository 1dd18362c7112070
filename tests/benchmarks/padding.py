"""How many tokens are run for each that counts: rows in batches of like lengths, and in batches as they come.

    python tests/benchmarks/padding.py --model FOLDER --data FILE.jsonl [--field text] [--rows 1024]

Batches are made by the project's own functions, in pieces of 2,048 tokens as in training. Data sets measured: SST-2
(github.com/tonyzhaozh/few-shot-learning), Banking77, ARC, AG News and GSM8K, the first 1,024 rows of each.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from ctxtune.backend.tokenizer import load_tokenizer
from ctxtune.data.batch import length_buckets, micro_batches


def run_for_each(batches: list[list[int]], lengths: list[int]) -> float:
    """Tokens with padding over tokens without."""
    pieces = [piece for batch in batches for piece in micro_batches(batch, lengths, rows=None, max_tokens=2048)]
    return sum(max(lengths[i] for i in piece) * len(piece) for piece in pieces) / sum(lengths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--field", default=None, help="the text of a row; without it all texts of a row together")
    parser.add_argument("--rows", type=int, default=1024)
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.data.read_text(encoding="utf-8").splitlines()[: given.rows]]
    texts = [str(row[given.field]) if given.field else "\n".join(map(str, row.values())) for row in rows]
    lengths = [len(ids) for ids in load_tokenizer(given.model)(texts)["input_ids"]]
    order = list(range(len(lengths)))
    random.Random(0).shuffle(order)
    for size in (8, 16, 32):
        sorted_ = run_for_each(length_buckets(lengths, size, 0, 0), lengths)
        print(
            f"batch {size}: {sorted_:.3f} tokens run for each that counts, at {sum(lengths) / len(lengths):.0f} a row"
        )
        shuffled = [order[i : i + size] for i in range(0, len(order), size)]
        whole = sum(max(lengths[i] for i in one) * len(one) for one in shuffled) / sum(lengths)
        print(f"batch {size}: {whole:.3f} as they come")


if __name__ == "__main__":
    main()
