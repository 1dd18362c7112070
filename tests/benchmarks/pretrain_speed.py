"""Pretraining a small Llama: tokens a second beside Hugging Face's Trainer, and beside the limit of the machine's products.

    python tests/benchmarks/pretrain_speed.py --data DATA --out RESULTS [--repeat 3] [--who ours trainer litgpt --litgpt FOLDER]

DATA holds tinyshakespeare/input.txt, gutenberg/pride_and_prejudice.txt and wikitext2/valid.txt. The peers are
peers/hf_pretrain.py, and peers/litgpt_pretrain.py, which compiles, where litgpt is installed. All train the same architecture
(4 layers x 128, 4 heads, vocabulary 4,096) on the same three texts with the same tokenizer, which ctxtune has learned from
them, in batches of 8 rows of 256 tokens; `ours` with AdamW and without biases, as the Trainer has it, `compiled` the same with
torch.compile, whose seconds are told, `muon` as ctxtune trains where nobody says otherwise.
Rounds in turn; a round tells the median step behind the first five. One JSON line a round; lines that are there already are not
computed again. Set OMP_NUM_THREADS to the cores of both.

Work limit: 6 FLOP for each number of a matrix, and those of attention, for each token, at the rate that a product of 1024 x
1024 matrices reaches right behind the round. To reach: 1.35 times the Trainer, and at most twice the time of the work limit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from freeze_accuracy import ctxtune
from freeze_speed import HERE, run
from lines import kept, lines_of

TEXTS = ("tinyshakespeare/input.txt", "gutenberg/pride_and_prejudice.txt", "wikitext2/valid.txt")
ROW, BATCH, STEPS = 256, 8, 60
LAYERS, WIDTH, VOCABULARY = 4, 128, 4096
# What the others do.
SAME = ["--optimizer", "adamw", "--set", "method.previous_heads=0", "--set", "method.spelling=false"]
WAYS = {
    "ours": [*SAME, "--set", "method.compile=off"],
    "compiled": [*SAME, "--set", "method.compile=on"],
    "muon": ["--set", "method.compile=on"],
}


def texts(args: argparse.Namespace) -> list[str]:
    return [str(args.data / name) for name in TEXTS]


def own(args: argparse.Namespace, way: str, tokenizer: str) -> dict[str, Any]:
    """A round of ctxtune; the corpus is tokenised already."""
    with tempfile.TemporaryDirectory() as folder:
        facts = ctxtune(
            "pretrain", *(word for text in texts(args) for word in ("--train", text)), "--tokenizer", tokenizer,
            "--steps", str(STEPS), "--batch", str(BATCH), *WAYS.get(way, []), "--set", f"train.eval_every={STEPS}",
            "--out", f"{folder}/run",
        )  # fmt: skip
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [one for one in lines if "seconds" in one]
    pace = statistics.median(one["tokens"] / one["seconds"] for one in steps[5:])
    return {"tokens_per_s": pace, "params": facts["parameters"], "compile_s": facts["seconds"]["pace"]}


def trainer(args: argparse.Namespace, tokenizer: str) -> dict[str, Any]:
    """A round of the Trainer."""
    peer = [sys.executable, str(HERE / "peers" / "hf_pretrain.py"), f"{tokenizer}/tokenizer.json", *texts(args)]
    text, _ = run([*peer, "--steps", str(STEPS), "--batch", str(BATCH), "--rows", str(ROW)])
    facts = json.loads(text.strip().splitlines()[-1])
    return {"tokens_per_s": facts["tokens_per_s"], "params": facts["params"]}


def litgpt(args: argparse.Namespace, tokenizer: str) -> dict[str, Any]:
    """A round of litgpt, which compiles its model; it lies in a folder of its own, and takes torch from here."""
    peer = [sys.executable, str(HERE / "peers" / "litgpt_pretrain.py"), f"{tokenizer}/tokenizer.json", *texts(args)]
    path = {"PYTHONPATH": str(args.litgpt)}
    command = [*peer, "--steps", str(STEPS), "--batch", str(BATCH), "--rows", str(ROW)]
    text = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **path}).stdout
    facts = json.loads(text.strip().splitlines()[-1])
    return {"tokens_per_s": facts["tokens_per_s"], "params": facts["params"], "compile_s": facts["to_first_step_s"]}


def product_rate() -> float:
    """FLOP a second of a product of 1024 x 1024 matrices, the best of some."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = 0.0
    for _ in range(20):
        begun = time.perf_counter()
        a @ b
        best = max(best, 2 * 1024**3 / (time.perf_counter() - begun))
    return best


def flop_a_token() -> int:
    """Of a step, forwards and backwards."""
    inner = WIDTH * 8 // 3 // 8 * 8
    matrices = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * inner) + VOCABULARY * WIDTH
    return 6 * matrices + 6 * LAYERS * ROW * WIDTH  # each token looks at half of its row as a rule


def tokenizer_of(args: argparse.Namespace, vocabulary: int = VOCABULARY) -> str:
    """Learned by a run of one step, which leaves the corpus tokenised for the others."""
    folder = args.out.with_suffix(".tokenizer")
    if not folder.exists():
        words = [word for text in texts(args) for word in ("--train", text)]
        ctxtune("pretrain", *words, "--vocabulary", str(vocabulary), "--steps", "1", "--out", f"{folder}.run")
        Path(f"{folder}.run", "model").rename(folder)
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--who", nargs="+", default=["ours", "trainer", "compiled", "muon"])
    parser.add_argument(
        "--litgpt", type=Path, help="where it lies: pip install --no-deps --target FOLDER litgpt lightning ..."
    )
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    tokenizer = tokenizer_of(args)
    for number in range(args.repeat):
        for who in args.who:
            peers = {"trainer": partial(trainer, args, tokenizer), "litgpt": partial(litgpt, args, tokenizer)}
            once = peers.get(who, partial(own, args, who, tokenizer))
            key = {"who": who, "round": number, "threads": os.environ.get("OMP_NUM_THREADS", "")}
            kept(args.out, key, lambda once=once: {**once(), "product_rate": product_rate()})
    found = {who: [one for one in lines_of(args.out) if one["who"] == who] for who in args.who}
    pace = {who: statistics.median(one["tokens_per_s"] for one in some) for who, some in found.items()}
    for who, some in found.items():
        limit = statistics.median(one["product_rate"] for one in some) / flop_a_token()
        beside = f", {pace[who] / pace['trainer']:.2f} times the Trainer" if "trainer" in pace else ""
        compiling = statistics.median(one.get("compile_s", 0.0) for one in some)
        print(f"{who}: {pace[who]:,.0f} tokens/s{beside}; {limit / pace[who]:.2f} times the work limit's time", end="")
        print(f"; {compiling:.1f} s until the first step is compiled" if compiling > 1 else "")
    if "trainer" in pace and (some := [pace[who] for who in ("ours", "compiled") if who in pace]):
        print("reached" if max(some) >= 1.35 * pace["trainer"] else "NOT reached: 1.35 is to be")


if __name__ == "__main__":
    main()
