"""How soon `ctxtune freeze` reaches its first step, beside importing torch and transformers' model class alone.

Both start in processes of their own, in turn; seconds are those since the process began, on the wall and on the processor.

    python tests/benchmarks/freeze_startup.py --model smollm2-135m-instruct-q4 --times 5

The run has 8 short rows, a given rate, no rows to score and no probe: what is left is starting. The first step is over when
the loop reports it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CLOCK = "import json, os, time; wall = time.time() - begun; print(json.dumps([wall, time.process_time()])); "
ALONE = f"import time; begun = time.time(); import torch; from transformers import {{family}}; {CLOCK}"
FREEZE = f"""import time; begun = time.time()
import sys
from ctxtune.cli import main, voice
def first(self, facts):
    {CLOCK}sys.stdout.flush(); os._exit(0)
voice.Voice.step = first
main.run()
"""


def rows(path: Path) -> Path:
    lines = [
        json.dumps({"text": f"film number {i} was fine", "label": ("negative", "positive")[i % 2]}) for i in range(8)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def measured(code: str, *words: str) -> list[float]:
    # Modules are compiled once and kept, as for users.
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, env=kept)
    if done.returncode:
        raise SystemExit(done.stderr)
    wall, processor = json.loads(done.stdout.splitlines()[-1])
    return [wall, processor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct-q4")
    parser.add_argument("--family", default="LlamaForCausalLM", help="the model class that is imported alone")
    parser.add_argument("--layers", default="last:4")
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        words = ["freeze", "--model", given.model, "--train", str(rows(Path(scratch) / "rows.jsonl"))]
        words += ["--prompt", "Review: {{ text }}\nSentiment:", "--answer", "{{ label }}", "--layers", given.layers]
        words += ["--lr", "1e-4", "--batch", "8", "--quiet", "--set", "train.steps=1", "--set", "forget.probe=none"]
        words += ["--set", "cache=memory", "--device", "cpu"]
        alone, freeze = [], []
        for number in range(given.times + 1):  # the first of each reads the files from the disk and does not count
            alone.append(measured(ALONE.format(family=given.family)))
            freeze.append(measured(FREEZE, *words, "--out", str(Path(scratch) / f"run{number}")))
    for name, results in (("import alone", alone[1:]), ("freeze to its first step", freeze[1:])):
        wall, processor = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"{name:26s} {wall:6.2f} s, on the processor {processor:6.2f} s (medians of {given.times})")
    differences = [[b - a for a, b in zip(*pair, strict=True)] for pair in zip(alone[1:], freeze[1:], strict=True)]
    wall, processor = (statistics.median(column) for column in zip(*differences, strict=True))
    print(f"{'difference':26s} {wall:6.2f} s, on the processor {processor:6.2f} s")


if __name__ == "__main__":
    main()
