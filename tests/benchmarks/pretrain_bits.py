"""What ten minutes of pretraining come to: bits per byte of held-out text, beside Hugging Face's Trainer.

    python tests/benchmarks/pretrain_bits.py --data DATA --out RESULTS [--minutes 10]

Texts and tokenizer as in pretrain_speed.py; of each text the last 5 % of its characters are held out, the same for both. The
peer (peers/hf_pretrain.py: 4 layers x 128, AdamW, cosine) has so many minutes at each of three rates, and its best counts;
ctxtune has them once, as it is where nobody says otherwise. Bits per byte of both: nats of the tokens that are predicted in
rows of 256, over ln 2, times tokens a byte. One JSON line a run; lines that are there already are not computed again. To reach:
8 % less.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from freeze_accuracy import ctxtune
from freeze_speed import HERE, run
from lines import kept
from pretrain_speed import texts, tokenizer_of

RATES = [1e-3, 3e-3, 1e-2]
HELD_OUT = 0.05


def own(args: argparse.Namespace, tokenizer: str) -> dict[str, Any]:
    """ctxtune, with its defaults; the texts are cut as the peer cuts them."""
    with tempfile.TemporaryDirectory() as folder:
        words, held = list[str](), Path(folder, "held")
        held.mkdir()
        for number, name in enumerate(texts(args)):
            text = Path(name).read_text(encoding="utf-8")
            cut = int(len(text) * (1 - HELD_OUT))
            train = Path(folder, f"train{number}.txt")
            train.write_text(text[:cut], encoding="utf-8")
            (held / f"{number}.txt").write_text(text[cut:], encoding="utf-8")
            words += ["--train", str(train)]
        facts = ctxtune(
            "pretrain", *words, "--eval", str(held), "--tokenizer", tokenizer, "--minutes", str(args.minutes),
            *args.more, "--out", f"{folder}/run",
        )  # fmt: skip
    return {
        "bits_per_byte": facts["scores"]["after"]["bits_per_byte"], "params": facts["parameters"],
        "steps": facts["steps"], "tokens_per_s": facts["tokens_per_second"], "seconds": facts["seconds"]["loop"],
    }  # fmt: skip


def trainer(args: argparse.Namespace, tokenizer: str, rate: float) -> dict[str, Any]:
    """The Trainer at one rate."""
    peer = [sys.executable, str(HERE / "peers" / "hf_pretrain.py"), f"{tokenizer}/tokenizer.json", *texts(args)]
    text, _ = run([*peer, "--seconds", str(args.minutes * 60), "--lr", str(rate)])
    facts: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--more", nargs="*", default=[], help="options of ctxtune, to try others than its defaults")
    args = parser.parse_args()
    tokenizer = tokenizer_of(args)
    key = {"minutes": args.minutes}
    ours = kept(args.out, {"who": "ours", "more": args.more, **key}, partial(own, args, tokenizer))
    theirs = [
        kept(args.out, {"who": "trainer", "rate": rate, **key}, partial(trainer, args, tokenizer, rate))
        for rate in RATES
    ]
    best = min(one["bits_per_byte"] for one in theirs)
    share = 1 - ours["bits_per_byte"] / best
    print(
        f"{'reached' if share >= 0.08 else 'NOT reached'}: {ours['bits_per_byte']:.4f} bits per byte, {share:.1%} less than"
    )
    print(f"the Trainer's {best:.4f} at its best of {', '.join(f'{rate:g}' for rate in RATES)}")


if __name__ == "__main__":
    main()
