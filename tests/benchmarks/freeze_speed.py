"""Layer-wise tuning against Hugging Face's Trainer: the same rows, type and rates, both in whole processes, in turn.

    python tests/benchmarks/freeze_speed.py --data DATA --model MODEL [--repeat 3]

DATA holds sst2/train.jsonl and sst2/dev.jsonl ({"text", "label"} a line; SST-2's full sentences, 6,920 and 872 rows, as in
https://github.com/tonyzhaozh/few-shot-learning). MODEL is a folder, for example what `ctxtune model pull
smollm2-135m-instruct-q4` prints. The peer is peers/hf_peer.py: Trainer with the last two blocks unfrozen.

What is compared: the training loop (ctxtune: building the cache, its check, all steps; Trainer: `train()`), every epoch
after the first, and the peak resident memory of the process. The work limit is what the loop's matrix products cost at the rate
that this machine reaches on them: tokens x FLOP / rate.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROWS, BATCH, EPOCHS = 256, 16, 3


def run(command: list[str]) -> tuple[str, float]:
    """Output and peak resident MiB of a whole process."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    text = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed; run it alone to see why")
    return text, usage.ru_maxrss / 1024


def peer(model: str, data: str) -> dict[str, float]:
    text, peak = run(
        [sys.executable, str(HERE / "peers" / "hf_peer.py"), "freeze", model, data, "--train", str(ROWS),
         "--batch", str(BATCH), "--epochs", str(EPOCHS), "--dev", "0"]
    )  # fmt: skip
    facts = json.loads(text.strip().splitlines()[-1])
    steps = facts["steps"] / EPOCHS
    return {"loop": facts["train_wall_s"], "epoch": facts["wall_s_step"] * steps, "peak": peak}


def ours(model: str, data: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "train.jsonl"
        rows.write_text(
            "".join((Path(data) / "sst2/train.jsonl").open(encoding="utf-8").readlines()[:ROWS]), encoding="utf-8"
        )
        os.environ["CTXTUNE_HOME"] = f"{folder}/home"  # no store of an earlier run
        text, peak = run(
            [sys.executable, "-m", "ctxtune", "freeze", "--model", model, "--train", str(rows), "--layers", "last:2",
             "--prompt", "Review: {{ text }}\nSentiment:", "--answer", "{{ label }}", "--choices", "negative,positive",
             "--batch", str(BATCH), "--epochs", str(EPOCHS), "--lr", "5e-5", "--set", "train.schedule=constant",
             "--set", "train.warmup=0", "--set", "forget.probe=none", "--out", f"{folder}/run", "--quiet", "--json"]
        )  # fmt: skip
        facts = json.loads(text)
        steps = [json.loads(line) for line in Path(f"{folder}/run/metrics.jsonl").read_text("utf-8").splitlines()]
    per_epoch = len(steps) // EPOCHS
    later = [sum(s["seconds"] for s in steps[e * per_epoch : (e + 1) * per_epoch]) for e in range(1, EPOCHS)]
    return {
        "loop": facts["seconds"]["cache"] + facts["seconds"]["loop"],
        "epoch": statistics.median(later),
        "peak": peak,
        "flop": work(facts, steps),
    }


def work(facts: dict, steps: list[dict]) -> float:
    """FLOP of the matrix products of our own loop on SmolLM2-135M: tokens x weights x 2, the backward pass twice as much.

    A layer has 3.54 M weights, the head 28.3 M. Of the last layer every token needs keys and values (0.22 M) alone.
    """
    layer, kv, head = 3_538_944, 221_184, 28_311_552
    tokens, answers = facts["train"]["tokens"], facts["train"]["supervised_tokens"]
    build = tokens * 2 * layer * facts["start_layer"]
    full_layers = 30 - facts["start_layer"] - 1
    epoch = tokens * 6 * (layer * full_layers + kv) + answers * 6 * (layer - kv) + answers * 4 * head
    return build + EPOCHS * epoch


def matrix_rate(model: str) -> float:
    """FLOP/s of a float32 product of the model's own shape, through the faster of torch's two libraries."""
    code = (
        "import time, torch; from ctxtune.backend.linear import linear, onednn_is_faster\n"
        "x, w = torch.randn(512, 576), torch.randn(1536, 576)\n"
        "f = linear if onednn_is_faster() else torch.nn.functional.linear\n"
        "times = []\n"
        "for _ in range(200):\n"
        "    t = time.perf_counter(); f(x, w); times.append(time.perf_counter() - t)\n"
        "print(2 * 512 * 576 * 1536 / sorted(times)[100])"
    )
    return float(run([sys.executable, "-c", code])[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    pairs = [(ours(args.model, args.data), peer(args.model, args.data)) for _ in range(args.repeat)]
    rate = matrix_rate(args.model)
    median = {key: statistics.median(a[key] for a, _ in pairs) for key in ("loop", "epoch", "peak", "flop")}
    ratio = {key: statistics.median(b[key] / a[key] for a, b in pairs) for key in ("loop", "epoch", "peak")}
    limit = median["flop"] / rate
    print(json.dumps({
        "pairs": [{"ctxtune": a, "trainer": b} for a, b in pairs],
        "trainer_over_ctxtune": {key: round(value, 2) for key, value in ratio.items()},
        "matrix_gflops": round(rate / 1e9, 1),
        "work_limit_seconds": round(limit, 2),
        "loop_over_work_limit": round(median["loop"] / limit, 2),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
