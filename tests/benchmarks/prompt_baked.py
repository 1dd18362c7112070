"""A learned prompt as words of an ordinary checkpoint: what plain transformers makes of it, with no ctxtune.

    python tests/benchmarks/prompt_baked.py --data DATA --model MODEL [--kinds input suffix] [--tokens 1000]

DATA holds sst2/train.jsonl and sst2/dev.jsonl (as in freeze_speed.py). A prompt is learned in 24 steps, `ctxtune adapter export
--to model` writes the checkpoint and says how far it is from the adapter on the built-in probe. Then 1,000 tokens are written
behind reviews, half of them the likeliest, half drawn, by transformers alone and without the list of suppressed tokens: at
each the share of all new words is looked at, and whether one of them is the likeliest. To reach: log-probabilities of the old
words within 1e-5, the new ones under 1e-6 and never the likeliest.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from freeze_speed import run
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS, EACH = 10, 100


def baked(args: argparse.Namespace, kind: str, folder: Path) -> dict:
    """Learn and export; what the export says of itself."""
    rows = (args.data / "sst2/train.jsonl").open(encoding="utf-8").readlines()[:384]
    (folder / "train.jsonl").write_text("".join(rows), encoding="utf-8")
    ctxtune = [sys.executable, "-m", "ctxtune"]
    run(
        [*ctxtune, "prompt", "--model", args.model, "--train", str(folder / "train.jsonl"), "--kind", kind, "--tokens", "8",
         "--init", "labels", "--prompt", "Review: {{ text }}\nSentiment:", "--answer", "{{ label }}", "--choices",
         "negative,positive", "--batch", "16", "--lr", "1e-2", "--set", "train.steps=24", "--set", "forget.probe=none", "--out",
         str(folder / "run"), "--quiet"]
    )  # fmt: skip
    export = ["adapter", "export", str(folder / "run"), "--to", "model", "--out", str(folder / "model"), "--json"]
    text, _ = run([*ctxtune, *export])
    return json.loads(text)


@torch.no_grad()
def written(folder: Path, data: Path, count: int) -> dict:
    """Tokens written behind prompts, and the largest share that the new words ever have."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    new = [at for name, at in tokenizer.get_vocab().items() if name.startswith("<|virtual-")]
    rows = [json.loads(line) for line in (data / "sst2/dev.jsonl").open(encoding="utf-8")][:PROMPTS]
    torch.manual_seed(0)
    share, likeliest, told = 0.0, 0, 0
    while told < count:
        for number, row in enumerate(rows):
            ids = tokenizer(f"Review: {row['text']}\nSentiment:", return_tensors="pt").input_ids
            past = None
            for _ in range(EACH):
                said = model(input_ids=ids, past_key_values=past, use_cache=True)
                odds, past = said.logits[0, -1].softmax(-1), said.past_key_values
                share, likeliest = max(share, float(odds[new].sum())), likeliest + (int(odds.argmax()) in new)
                ids = odds.argmax().view(1, 1) if number % 2 else torch.multinomial(odds, 1)[None]
                told += 1
    return {"words": len(new), "written": told, "largest_share": share, "likeliest": likeliest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kinds", nargs="+", default=["input", "suffix"])
    parser.add_argument("--tokens", type=int, default=1000)
    args = parser.parse_args()
    for kind in args.kinds:
        with tempfile.TemporaryDirectory() as name:
            facts = baked(args, kind, Path(name))
            print(
                json.dumps({"kind": kind, **facts, **written(Path(name) / "model", args.data, args.tokens)}), flush=True
            )


if __name__ == "__main__":
    main()
