"""A base goes on learning a domain's text under a forgetting budget: what that brings there, and what is forgotten.

    python tests/benchmarks/pretrain_continued.py --data DATA --model MODEL --out RESULTS [--sets pubmedqa] [--ways last:4]

DATA holds pubmedqa/train.jsonl and test.jsonl (PubMedQA, Jin et al. 2019, github:pubmedqa/pubmedqa), and corpus.jsonl in
legal_licences (npm:spdx-license-list) and chinese_classics (npm:chinese-poetry). Of each so many documents are learned, and
others scored that no run learns. A way is layers, or a method, with a rate; it runs with the budget and, with `--free`, without
one. One JSON line a run; lines that are there already are not computed again. To reach: the perplexity of the domain falls, and
KL(base || tuned) on the probe is within the budget.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from freeze_accuracy import ctxtune
from lines import kept

# Set -> the file to learn from, that to score (or None), how a row is a document, and how many are learned and scored.
SETS: dict[str, tuple[str, str | None, str, int, int]] = {
    "pubmedqa": (
        "pubmedqa/train.jsonl",
        "pubmedqa/test.jsonl",
        "{{ question }}\n{{ context }}\n{{ long_answer }}",
        160,
        24,
    ),
    "legal_licences": ("legal_licences/corpus.jsonl", None, "{{ name }}\n{{ text }}", 12, 3),
    "chinese_classics": ("chinese_classics/corpus.jsonl", None, "{{ title }}\n{{ author }}\n{{ text }}", 80, 16),
}
WAYS: dict[str, list[str]] = {
    "last:4": ["--layers", "last:4", "--lr", "1e-3"],
    "all": ["--lr", "1e-4"],
    "mask": ["--method", "mask", "--layers", "last:4", "--lr", "1e-2"],
    "prompt": ["--method", "prompt", "--lr", "1e-2"],
}


def parts(args: argparse.Namespace, name: str, folder: Path) -> tuple[Path, Path]:
    """The documents to learn from and those to score, as files."""
    learned, scored, _, most, few = SETS[name]
    rows = (args.data / learned).read_text(encoding="utf-8").splitlines(keepends=True)
    if scored is None:
        Random(0).shuffle(rows)
        others = rows[-few:]
    else:
        others = (args.data / scored).read_text(encoding="utf-8").splitlines(keepends=True)
    train, dev = folder / "train.jsonl", folder / "dev.jsonl"
    train.write_text("".join(rows[: args.documents or most]), encoding="utf-8")
    dev.write_text("".join(others[:few]), encoding="utf-8")
    return train, dev


def once(args: argparse.Namespace, name: str, way: str, budget: float | None) -> dict[str, Any]:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        train, dev = parts(args, name, Path(folder))
        more = ("--forget-budget", str(budget)) if budget is not None else ()
        facts = ctxtune(
            "pretrain", "--model", args.model, *WAYS[way], "--train", str(train), "--eval", str(dev), *more, "--set",
            f"data.text={SETS[name][2]}", "--epochs", str(args.epochs), "--batch", str(args.batch), "--out", f"{folder}/run",
        )  # fmt: skip
    told = {when: {key: facts["scores"][when][key] for key in SCORES} for when in ("before", "after")}
    return {
        **told, "scored_tokens": facts["scores"]["after"]["tokens"], "learned_tokens": facts["train"]["supervised_tokens"],
        "steps": facts["steps"], "best_step": facts["best_step"], "kl": facts["forgetting"]["after"]["kl"],
        "probe_loss": [facts["forgetting"][when]["loss"] for when in ("before", "after")],
        "guard": facts.get("guard"), "trainable": facts["trainable"], "seconds": facts["seconds"],
    }  # fmt: skip


SCORES = ("loss", "perplexity", "bits_per_byte")


def verdict(name: str, way: str, budget: float | None, run: dict[str, Any]) -> str:
    """What came of it."""
    before, after = (run[when]["perplexity"] for when in ("before", "after"))
    reached = after < before and (budget is None or run["kl"] <= budget)
    bits = " to ".join(f"{run[when]['bits_per_byte']:.4f}" for when in ("before", "after"))
    return (
        f"{name}, {way}, budget {budget}: perplexity {before:.3f} to {after:.3f}, bits per byte {bits}, KL {run['kl']:.4f} on "
        f"the probe, {run['seconds']['total']:.0f} s: {'reached' if reached else 'NOT reached'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--ways", nargs="+", default=["last:4"], choices=WAYS)
    parser.add_argument("--budget", type=float, default=0.05)
    parser.add_argument("--free", action="store_true", help="without the budget as well")
    parser.add_argument("--documents", type=int, help="to learn from, in place of as many as the set has here")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    for name in args.sets:
        for way in args.ways:
            for budget in (args.budget, None) if args.free else (args.budget,):
                key = {
                    "set": name, "way": way, "more": WAYS[way], "budget": budget, "documents": args.documents,
                    "epochs": args.epochs, "batch": args.batch,
                }  # fmt: skip
                print(
                    verdict(name, way, budget, kept(args.out, key, partial(once, args, name, way, budget))), flush=True
                )


if __name__ == "__main__":
    main()
