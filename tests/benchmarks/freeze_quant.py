"""What a quantised base costs and saves: SST-2, last:4 in float, the layers below in nf4 (or int8), against all in float32.

    python tests/benchmarks/freeze_quant.py --data DATA --model MODEL [--quants none,nf4] [--rows 1024] [--dev 872] [--epochs 3]
        [--lr auto] [--seed 0]

DATA and MODEL as in freeze_speed.py. Each way of storing runs as a whole process with the same rows, rate and seed. Compared
are the accuracy on the dev rows, the seconds of each part, and two peaks of memory, read twenty times a second: of anonymous
pages (RssAnon) and of all resident ones. A model that is stored in float32 stays in its mapped file, so that its weights are
resident and not anonymous; of one that is stored in bfloat16 they are both. One JSON line a run, then the ratios to the first;
those without imports leave out what importing torch and transformers takes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TASK = ["--prompt", "Review: {{ text }}\nSentiment:", "--answer", "{{ label }}", "--choices", "negative,positive"]
IMPORTS = "import torch; from transformers import AutoModelForCausalLM, LlamaForCausalLM"


def run(command: list[str], errors: Path) -> tuple[str, dict[str, float]]:
    """Output of a whole process, and its peaks of anonymous and of all resident memory in MiB."""
    with errors.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    peaks = {"RssAnon": 0, "resident": 0}
    while process.poll() is None:
        found = resident(process.pid)
        peaks = {key: max(peak, found.get(key, 0)) for key, peak in peaks.items()}
        time.sleep(0.05)
    text = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {errors.read_text()}")
    return text, {key: round(peak / 1024, 1) for key, peak in peaks.items()}


def resident(pid: int) -> dict[str, int]:
    """Kilobytes of memory that no file stands behind, and of all."""
    try:
        lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    except OSError:
        return {}
    found = {words[0].rstrip(":"): int(words[1]) for words in lines if words[0] in ("RssAnon:", "RssFile:")}
    return {**found, "resident": sum(found.values())}


def one(args: argparse.Namespace, quant: str, folder: Path) -> dict:
    os.environ["CTXTUNE_HOME"] = str(folder / "home")  # no store of an earlier run
    task = ["--eval", str(folder / "dev.jsonl")] if args.dev else []
    text, peak = run(
        [sys.executable, "-m", "ctxtune", "freeze", "--model", args.model, "--train", str(folder / "train.jsonl"), *task, *TASK,
         "--layers", "last:4", "--batch", "16", "--epochs", str(args.epochs), "--lr", args.lr, "--quant", quant,
         "--seed", str(args.seed), "--set", "forget.probe=none", "--out", str(folder / quant), "--json"],
        folder / "stderr",
    )  # fmt: skip
    facts = json.loads(text)
    after = facts["scores"]["after"]
    return {
        "quant": quant, "seed": args.seed, "lr": facts["lr"]["value"], "acc": after.get("acc"),
        "stderr": after.get("acc_stderr"), "peak_mib": peak,
        "weight_mib": round(facts["weight_bytes"] / 2**20, 1), "device": facts["device"], "seconds": facts["seconds"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--quants", default="none,nf4")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--dev", type=int, default=872)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", default="1e-4")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.model = str(Path(args.model).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, count in (("train", args.rows), ("dev", args.dev)):
            lines = (args.data / f"sst2/{part}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
            (folder / f"{part}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
        _, imports = run([sys.executable, "-c", IMPORTS], folder / "stderr")
        results = []
        for quant in args.quants.split(","):
            results.append(one(args, quant, folder))
            print(json.dumps(results[-1]), flush=True)
    first = results[0]
    for other in results[1:]:
        said = {
            "quant": other["quant"],
            "peak": {key: round(value / first["peak_mib"][key], 3) for key, value in other["peak_mib"].items()},
            "peak_without_imports": {
                key: round((value - imports[key]) / (first["peak_mib"][key] - imports[key]), 3)
                for key, value in other["peak_mib"].items()
            },
            "seconds": {key: round(value / max(first["seconds"][key], 1e-9), 2) for key, value in other["seconds"].items()},
        }  # fmt: skip
        if args.dev:
            said["points"] = round(100 * (other["acc"] - first["acc"]), 2)
        print(json.dumps({"imports_mib": imports, "ratio_to_the_first": said}))


if __name__ == "__main__":
    main()
