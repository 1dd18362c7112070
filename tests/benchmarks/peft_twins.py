"""Plain PEFT loads the adapters: its logits against those of the adapter attached by ctxtune, on the same plain base.

    python tests/benchmarks/peft_twins.py [--model MODEL] [--tiny]

MODEL is a Llama folder or a name from `ctxtune model list`. Its adapters are made by `ctxtune freeze`, three steps on the
bundled film reviews for each choice of layers, and compared in float32; then the same for tiny random models made on the
spot (Llama and GPT-2, tied and untied), compared in float64. `--tiny` leaves the real model out. The base is what
transformers itself loads, once for each side. Rows are given one by one, and padded on the right in one batch; only real
tokens are compared. One JSON line an adapter; 1 is returned if a difference is above the bar (2e-4 and 1e-10), or if an
adapter moves nothing, because then equality says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from ctxtune.adapter.attach import attach
from ctxtune.adapter.read import open_adapter

BUNDLED = Path(__file__).parents[2] / "templates" / "data" / "mr_train.jsonl"
TASK = ["--prompt", "Review: {{ text }}\nSentiment:", "--answer", "{{ label }}", "--choices", "negative,positive"]
REAL_LAYERS = ("last:2", "last:2+norms", "embeddings", "head", "all")
TINY_LAYERS = ("last:2", "last:1+norms", "first:1.attn", "embeddings", "head", "last:1+head", "all")
LENGTHS = (40, 17, 2, 1)


def train(model: Path, layers: str, out: Path) -> Path:
    """Three steps at a rate that moves much; returns the adapter's folder."""
    rows = out.parent / "rows.jsonl"
    rows.write_text("".join(BUNDLED.read_text(encoding="utf-8").splitlines(keepends=True)[:12]), encoding="utf-8")
    command = [
        sys.executable, "-m", "ctxtune", "freeze", "--model", str(model), "--train", str(rows), *TASK, "--layers", layers,
        "--batch", "4", "--lr", "1e-3", "--set", "train.steps=3", "--set", "train.schedule=constant",
        "--set", "train.warmup=0", "--set", "forget.probe=none", "--cache", "off", "--device", "cpu", "--out", str(out),
        "--quiet", "--json",
    ]  # fmt: skip
    return Path(
        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)["adapter"]["folder"]
    )


def load(model: Path, dtype: torch.dtype) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()


def token_rows(model: Path) -> list[torch.Tensor]:
    """Beginnings of rows that the adapters learned from, so that trained embeddings are met."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [f"Review: {json.loads(line)['text']}" for line in BUNDLED.read_text(encoding="utf-8").splitlines()[:12]]
    rows = sorted((tokenizer(text)["input_ids"] for text in texts), key=len, reverse=True)
    return [torch.tensor(row[:length]) for row, length in zip(rows, LENGTHS, strict=False)]


def logits(model: torch.nn.Module, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """Of each row alone, then of all rows in one batch, padded on the right: (tokens, vocabulary) each."""
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.no_grad():
        alone = [model(input_ids=row[None]).logits[0] for row in rows]
        padded = model(input_ids=ids, attention_mask=mask).logits
    return [*alone, *(padded[i, : len(row)] for i, row in enumerate(rows))]


def largest(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def compare(name: str, model: Path, layers: str, dtype: torch.dtype, bar: float, folder: Path) -> bool:
    """Train, load in both ways, print; true if it is as it should be."""
    adapter = train(model, layers, folder / "run")
    rows = token_rows(model)
    base = load(model, dtype)
    plain = logits(base, rows)
    theirs = logits(PeftModel.from_pretrained(base, adapter).eval(), rows)
    base = load(model, dtype)
    taken = attach(base, open_adapter(adapter))
    ours = logits(base, rows)
    taken.detach()
    back = logits(base, rows)
    half = len(LENGTHS)
    alone, padded = largest(ours[:half], theirs[:half]), largest(ours[half:], theirs[half:])
    moved, restored = largest(ours, plain), largest(back, plain)
    good = max(alone, padded) <= bar and moved > 1e3 * bar and restored == 0.0
    print(json.dumps({
        "model": name, "layers": layers, "unpadded": alone, "right_padded": padded, "bar": bar, "moved": moved,
        "after_detaching": restored, "good": good,
    }), flush=True)  # fmt: skip
    shutil.rmtree(folder / "run")
    return good


def tiny(family: str, tied: bool, tokenizer: Path, folder: Path) -> Path:
    """A random model with every number random, norms and biases included, and the real model's tokenizer."""
    vocabulary = len(json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]) + 64
    torch.manual_seed(0)
    if family == "llama":
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
        shape = {**sizes, "num_key_value_heads": 2, "max_position_embeddings": 256, "vocab_size": vocabulary}
        model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=tied))
    else:
        shape = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256, "vocab_size": vocabulary}
        model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0, tie_word_embeddings=tied))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / file, folder / file)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct-q4")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")  # PEFT says of every module that is no norm that it does not know it
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not Path(args.model).is_dir():
        pull = [sys.executable, "-m", "ctxtune", "model", "pull", args.model]
        args.model = subprocess.run(pull, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    real = Path(args.model)
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CTXTUNE_HOME"] = str(folder / "home")
        for family, tied in (("llama", False), ("llama", True), ("gpt2", False), ("gpt2", True)):
            kind = f"{family}-{'tied' if tied else 'untied'}"
            model = tiny(family, tied, real, folder / kind)
            results += [compare(kind, model, layers, torch.float64, 1e-10, folder) for layers in TINY_LAYERS]
        if not args.tiny:
            results += [compare(real.name, real, layers, torch.float32, 2e-4, folder) for layers in REAL_LAYERS]
    print(json.dumps({"adapters": len(results), "good": sum(results)}))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
