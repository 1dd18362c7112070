"""What `lr: auto` is worth: SST-2 with 1,024 rows, last:4, against a grid of fixed rates, several seeds each.

    python tests/benchmarks/freeze_accuracy.py --data DATA --model MODEL --out results.jsonl [--seeds 3]

DATA and MODEL as in freeze_speed.py. The 872 dev rows are scored once before and once after training; no epoch is chosen on
them. All runs keep the same frozen layers: the first one runs these, the others start from what they said.
One JSON line a run; lines that are there already are not computed again, so that the script can be stopped and resumed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from lines import kept

NEVER = 10_000_000  # steps between evaluations: beyond the end, so that the last numbers are kept
RATES = ["3e-5", "1e-4", "3e-4", "1e-3", "3e-3"]
TASK = ["--prompt", "Review: {{ text }}\nSentiment:", "--answer", "{{ label }}", "--choices", "negative,positive"]


def ctxtune(*arguments: str) -> dict:
    command = [sys.executable, "-m", "ctxtune", *arguments, "--quiet", "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def one(model: str, data: Path, rows: Path, lr: str, seed: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        facts = ctxtune(
            "freeze", "--model", model, "--train", str(rows), "--eval", str(data / "sst2/dev.jsonl"), *TASK,
            "--layers", "last:4", "--batch", "16", "--epochs", "3", "--lr", lr, "--seed", str(seed),
            "--set", f"train.eval_every={NEVER}", "--out", f"{folder}/run",
        )  # fmt: skip
    before, after = facts["scores"]["before"], facts["scores"]["after"]
    return {
        "rate": facts["lr"]["value"], "base": before["acc"], "acc": after["acc"],
        "stderr": after["acc_stderr"], "kl": facts["forgetting"]["after"]["kl"], "seconds": facts["seconds"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    done = []
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "train.jsonl"
        rows.write_text(
            "".join((args.data / "sst2/train.jsonl").open(encoding="utf-8").readlines()[:1024]), encoding="utf-8"
        )
        for seed in range(args.seeds):
            for lr in ["auto", *RATES]:
                compute = partial(one, args.model, args.data, rows, lr, seed)
                done.append(kept(args.out, {"lr": lr, "seed": seed}, compute))
    print(f"  base  accuracy {done[0]['base']:.4f}")
    for lr in ["auto", *RATES]:
        accs = [run["acc"] for run in done if run["lr"] == lr]
        kls = [run["kl"] for run in done if run["lr"] == lr]
        print(f"{lr:>6}  mean accuracy {statistics.mean(accs):.4f}  of {accs}  KL {[round(kl, 3) for kl in kls]}")


if __name__ == "__main__":
    main()
