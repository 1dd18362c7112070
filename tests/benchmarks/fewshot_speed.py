"""`ctxtune fewshot` against lm-evaluation-harness, whole processes, with the same demonstrations and questions.

    python tests/benchmarks/fewshot_speed.py --data DATA --model MODEL --peer PYTHON [--tasks sst2] [--rows 200] [--repeats 1]

DATA holds sst2/ (SST-2 with full sentences, as in github.com/tonyzhaozh/few-shot-learning), ag_news/ (train_sample.jsonl and
test.jsonl) and banking77/ (train*.jsonl and test*.jsonl, from github.com/PolyAI-LDN/task-specific-datasets) as rows of text
and label; MODEL is the folder of SmolLM2-135M-Instruct, PYTHON one that has lm-eval[hf]. Demonstrations are a seeded draw, as
many of each label in turn. ctxtune runs twice: on an empty home, and again, where the demonstrations have been kept. Of each
task one JSON line: wall and processor seconds and peak memory of both, the ratios, how many predictions differ, and the largest
difference of a choice's log-probability. To reach: 20 times (SST-2 with 16 shots, AG News with 8), 40 times (8 intents of
Banking77, 8 shots), equal predictions, log-probabilities within 1e-3, less than a third of the memory.

Beside it stands a work limit: the seconds that scoring took, over those of a plain forward pass of the model's body over the
same questions alone, without demonstrations, in batches of 512 tokens, each question with its choices behind it once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

INTENTS = [
    "card_arrival", "exchange_rate", "lost_or_stolen_card", "top_up_failed", "verify_my_identity", "transfer_timing",
    "wrong_amount_of_cash_received", "Refund_not_showing_up",
]  # fmt: skip
# Task -> training rows, rows to score, prompt, labels, shots.
TASKS: dict[str, tuple[str, str, str, list[str], int]] = {
    "sst2": ("train.jsonl", "dev.jsonl", "Review: {{ text }}\nSentiment:", ["negative", "positive"], 16),
    "ag_news": (
        "train_sample.jsonl", "test.jsonl", "Article: {{ text }}\nTopic:", ["World", "Sports", "Business", "Sci/Tech"], 8
    ),
    "banking77": (
        "train*.jsonl", "test*.jsonl", "Message: {{ text }}\nIntent:", [one.replace("_", " ").lower() for one in INTENTS], 8
    ),
}  # fmt: skip


def rows_of(folder: Path, pattern: str) -> list[dict[str, str]]:
    """Rows of text and label; of Banking77 those of eight intents, shuffled, because they lie sorted."""
    (path, *_) = sorted(folder.glob(pattern))
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    if folder.name == "banking77":
        rows = [row for row in rows if row["label"] in INTENTS]
        rows = [{**row, "label": row["label"].replace("_", " ").lower()} for row in rows]
        random.Random(1).shuffle(rows)
    return [{"text": row["text"], "label": row["label"]} for row in rows]


def write_rows(args: argparse.Namespace, task: str, work: Path) -> None:
    """Demonstrations and questions as files."""
    train, test, _, labels, shots = TASKS[task]
    pool = rows_of(args.data / task, train)
    random.Random(0).shuffle(pool)
    by_label = {label: [row for row in pool if row["label"] == label] for label in labels}
    demos = [by_label[labels[i % len(labels)]][i // len(labels)] for i in range(shots)]
    for name, rows in (("demos", demos), ("queries", rows_of(args.data / task, test)[: args.rows])):
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def timed(command: list[str], home: Path) -> tuple[dict[str, float], str]:
    """Wall and processor seconds and peak memory of a whole process, and what it printed."""
    environment = {**os.environ, "CTXTUNE_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _resident(process.pid))
        time.sleep(0.1)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    out, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors[-2000:])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": round(wall, 2), "cpu": round(cpu, 2), "peak_mib": round(peak / 1024)}, out


def _resident(pid: int) -> int:
    """The most memory that a process has had in use so far, in KiB."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")), 0)


def peer(args: argparse.Namespace, task: str, work: Path) -> tuple[dict[str, float], list[list[float]]]:
    """lm-evaluation-harness: its cost, and the log-likelihoods of each row's choices."""
    _, _, prompt, labels, shots = TASKS[task]
    settings = {
        "task": f"{task}_local", "dataset_path": "json", "output_type": "multiple_choice",
        "dataset_kwargs": {"data_files": {"train": f"{work}/demos.jsonl", "validation": f"{work}/queries.jsonl"}},
        "training_split": "train", "fewshot_split": "train", "validation_split": "validation",
        "doc_to_text": prompt, "doc_to_choice": labels, "doc_to_target": "{{label}}", "target_delimiter": " ",
        "fewshot_delimiter": "\n\n", "fewshot_config": {"sampler": "first_n"}, "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (work / f"{task}_local.yaml").write_text(json.dumps(settings))  # JSON is YAML
    command = [
        str(Path(args.peer).with_name("lm_eval")), "run",
        "--model", "hf", "--model_args", f"pretrained={args.model},dtype=float32",
        "--tasks", f"{task}_local", "--include_path", str(work), "--num_fewshot", str(shots), "--batch_size", "8",
        "--device", "cpu", "--output_path", f"{work}/out", "--log_samples",
    ]  # fmt: skip
    cost, _ = timed(command, work / "home")
    (path, *_) = sorted(work.glob("out/*/samples*.jsonl"), reverse=True)
    samples = sorted(map(json.loads, path.open(encoding="utf-8")), key=lambda sample: sample["doc_id"])
    return cost, [[float(one[0]) for one in sample["filtered_resps"]] for sample in samples]


def ours(args: argparse.Namespace, task: str, work: Path) -> tuple[dict[str, float], dict[str, Any], list[list[float]]]:
    """ctxtune: its cost, its facts, and the log-likelihoods of each row's choices."""
    _, _, prompt, labels, shots = TASKS[task]
    command = [
        sys.executable, "-m", "ctxtune", "fewshot", "--model", args.model, "--train", f"{work}/demos.jsonl",
        "--eval", f"{work}/queries.jsonl", "--prompt", prompt, "--answer", "{{ label }}", "--choices", ",".join(labels),
        "--shots", str(shots), "--select", "fixed", "--json", "--scores", f"{work}/items.jsonl",
    ]  # fmt: skip
    cost, out = timed(command, work / "home")
    items = [json.loads(line) for line in (work / "items.jsonl").open(encoding="utf-8")]
    return cost, json.loads(out), [item["said"]["ll"] for item in items]


def plain_seconds(args: argparse.Namespace, task: str, work: Path) -> float:
    """A plain forward pass of the model's body over the questions, each with its choices behind it, in batches by length."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, _, prompt, labels, _ = TASKS[task]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = [json.loads(line) for line in (work / "queries.jsonl").open(encoding="utf-8")]
    behind = [token for label in labels for token in tokenizer(f" {label}")["input_ids"][:-1]]
    ids = sorted(
        (tokenizer(prompt.replace("{{ text }}", row["text"]))["input_ids"] + behind for row in rows),
        key=len,
        reverse=True,
    )
    batches: list[list[list[int]]] = []
    for one in ids:
        if not batches or len(batches[-1][0]) * (len(batches[-1]) + 1) > 512:
            batches.append([])
        batches[-1].append(one)
    seconds = []
    with torch.no_grad():
        for _ in range(3):
            begun = time.perf_counter()
            for batch in batches:
                longest = max(map(len, batch))
                model.model(
                    input_ids=torch.tensor([one + [0] * (longest - len(one)) for one in batch]), use_cache=False
                )
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def largest(pairs: Iterable[tuple[list[float], list[float]]]) -> float:
    """The largest difference between log-likelihoods."""
    return max(abs(x - y) for one, other in pairs for x, y in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--peer", required=True, help="a Python that has lm-eval[hf]")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    for task in args.tasks:
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory() as name:
                work = Path(name)
                write_rows(args, task, work)
                theirs, expected = peer(args, task, work)
                first, facts, found = ours(args, task, work)
                second, kept, again = ours(args, task, work)
                plain = plain_seconds(args, task, work)
            pairs = list(zip(expected, found, strict=True))
            print(json.dumps({
                "task": task, "rows": len(expected), "peer": theirs, "ours": first, "again": second,
                "times": {key: round(theirs[key] / first[key], 1) for key in theirs},
                "times_again": {key: round(theirs[key] / second[key], 1) for key in theirs},
                "predictions_differ": sum(a.index(max(a)) != b.index(max(b)) for a, b in pairs),
                "largest_difference": largest(pairs),
                "same_again": largest(zip(found, again, strict=True)),
                "acc": facts["scores"]["acc"], "tokens": facts["tokens"], "tokens_again": kept["tokens"],
                "seconds": facts["seconds"], "plain_body": round(plain, 2),
                "work": round(facts["seconds"]["score"] / plain, 2),
            }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
