"""What a litgpt user writes today to pretrain a small Llama from scratch: `litgpt pretrain` on packed rows of 256 tokens.

litgpt_pretrain.py TOKENIZER.json TEXT... --steps N --batch 8 --layers 4 --width 128 --lr 3e-3        (pip install litgpt)
As its command does, it compiles the model with torch.compile; steps are timed by litgpt itself. Prints one JSON line: tokens/s
(median step after the first five), seconds until the first step was done, most of which is compiling, final loss, peak RSS.
"""
import argparse, io, json, re, resource, statistics, sys, tempfile, time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import DataModule
from litgpt.pretrain import setup

p = argparse.ArgumentParser()
p.add_argument("tokenizer"); p.add_argument("text", nargs="+")
p.add_argument("--steps", type=int, default=60); p.add_argument("--batch", type=int, default=8); p.add_argument("--rows", type=int, default=256)
p.add_argument("--layers", type=int, default=4); p.add_argument("--width", type=int, default=128); p.add_argument("--lr", type=float, default=3e-3)
a = p.parse_args()
sys.argv[1:] = ["small"]  # litgpt reads the command line again when it saves
tok = Tokenizer.from_file(a.tokenizer)
corpus = []
for f in a.text:
    s = open(f, encoding="utf-8").read(); corpus += tok.encode(s[:int(len(s) * 0.95)]).ids
rows = [torch.tensor(corpus[i:i + a.rows + 1]) for i in range(0, len(corpus) - a.rows - 1, a.rows)]


@dataclass
class Rows(DataModule):
    def connect(self, tokenizer=None, batch_size=1, max_seq_length=-1): pass
    def train_dataloader(self): return DataLoader(rows, batch_size=a.batch, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(0))
    def val_dataloader(self): return DataLoader(rows[:a.batch], batch_size=a.batch)


class Clock(io.StringIO):
    """Notes when the first step was told."""
    first = None
    def write(self, text):
        if self.first is None and "iter 1 " in text: self.first = time.perf_counter()
        return super().write(text)


config = Config(name="small", block_size=a.rows, vocab_size=tok.get_vocab_size(), padded_vocab_size=tok.get_vocab_size(), n_layer=a.layers, n_head=a.width // 32,
    n_embd=a.width, rotary_percentage=1.0, parallel_residual=False, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=int(a.width * 8 / 3) // 8 * 8)
begun, said = time.perf_counter(), Clock()
with tempfile.TemporaryDirectory() as out, redirect_stdout(said):
    setup("small", model_config=config, out_dir=Path(out), precision="32-true", data=Rows(), logger_name="csv", devices=1, seed=0,
        optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": a.lr, "weight_decay": 0.1}},
        train=TrainArgs(save_interval=None, log_interval=1, global_batch_size=a.batch, micro_batch_size=a.batch, max_tokens=a.steps * a.batch * a.rows, max_norm=1.0,
            min_lr=0.0, lr_warmup_steps=5), eval=EvalArgs(interval=10**9, max_iters=1, initial_validation=False, final_validation=False))
text = said.getvalue()
wall = [float(x) / 1000 for x in re.findall(r"iter time: ([\d.]+) ms", text)]
if len(wall) < 6: sys.exit(text)
print(json.dumps({"params": int(re.search(r"Total parameters: ([\d,]+)", text)[1].replace(",", "")), "steps": len(wall),
    "tokens_per_s": round(a.batch * a.rows / statistics.median(wall[5:]), 1), "to_first_step_s": round(said.first - begun, 1),
    "loss": float(re.findall(r"loss train: ([\d.]+)", text)[-1]), "rss_peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}))
