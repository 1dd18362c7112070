"""Killed at any moment and resumed, a run gives the same weights bit for bit.

    python tests/benchmarks/freeze_kill.py [--model MODEL] [--data ROWS] [--moments 10] [--seed 0]

MODEL is a folder or a name from `ctxtune model list`; ROWS holds {"text", "label"} a line (the bundled film reviews, if
left out). One run is left alone. Then the same run is killed with SIGKILL, each time in a new CTXTUNE_HOME, so that the
cache is built again, and resumed with the same command and --resume; some are killed again on their way. The moments:

    random   drawn over the whole length of the undisturbed run, one in each of as many equal parts
    step     when a step has just been logged
    write    while the temporary file of the cache, of a checkpoint or of the adapter is there: in the middle of a write
    rename   a file lies complete under its temporary name and does not have its own name yet

Compared are the tensors of the adapter and of the last checkpoint (numbers, both moments of AdamW, the random state), byte
by byte, and the loss of every step. One JSON line a moment, then a summary; 1 is returned if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.numpy import load_file

if TYPE_CHECKING:
    from collections.abc import Callable

    Expected = tuple[dict[str, bytes], list[tuple[int, float]]]

ROWS, BATCH, EPOCHS, EVAL_ROWS = 64, 8, 3, 16
BUNDLED = Path(__file__).parents[2] / "templates" / "data" / "mr_train.jsonl"
TASK = ["--prompt", "Review: {{ text }}\nSentiment:", "--answer", "{{ label }}", "--choices", "negative,positive"]
# os.rename is what both os.rename and os.replace are called in the events that an audit hook hears of, before they happen.
AT_RENAME = """
import os, signal, sys
name, turn, seen = sys.argv[1], int(sys.argv[2]), [0]
def hook(event, arguments):
    if event == "os.rename" and os.path.basename(arguments[1]) == name:
        seen[0] += 1
        if seen[0] == turn:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
sys.argv[1:] = sys.argv[3:]
from ctxtune.cli.main import run
run()
"""


@dataclass(frozen=True)
class Moment:
    """When to kill: after `share` of the run's time, or at the `turn`-th step or write of `name`, `share` seconds later."""

    kind: str
    share: float = 0.0
    name: str = ""
    turn: int = 1


@dataclass(frozen=True)
class Place:
    """The folders of one run, and its command."""

    home: Path
    out: Path
    options: list[str]

    def start(self, *more: str, before: list[str] | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, *(before or ["-m", "ctxtune"]), *self.options, "--out", str(self.out), *more]
        environment = {**os.environ, "CTXTUNE_HOME": str(self.home)}
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)

    def finish(self, *more: str) -> str | None:
        """Let a run end by itself; what it said if it failed."""
        process = self.start(*more)
        _, said = process.communicate()
        return None if process.returncode == 0 else f"exit {process.returncode}: {' '.join(said.split())}"

    def steps(self) -> list[tuple[int, float]]:
        """(step, loss) of every line of the log."""
        log = self.out / "metrics.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        return [(record["step"], record["loss"]) for record in records if "loss" in record]

    def tensors(self) -> dict[str, bytes]:
        """Everything that has to be equal, by name."""
        files = ("adapter/adapter_model.safetensors", "checkpoint.safetensors")
        return {
            f"{file}:{name}": value.tobytes() for file in files for name, value in load_file(self.out / file).items()
        }

    def phase(self) -> str:
        """What the run was doing when it died, as its remains tell."""
        if (self.out / "result.json").exists():
            return "complete"
        if (self.out / "adapter").exists() or any(self.out.glob(".adapter.*.tmp")):
            return "writing the result"
        for name in ("checkpoint", "best"):
            if any(self.out.glob(f".{name}.safetensors.*.tmp")):
                return f"writing a {name}"
        if steps := self.steps():
            return f"step {steps[-1][0]}"
        if any((self.home / "states").glob("*.tmp")):
            return "building the cache"
        if any((self.home / "states").glob("*.safetensors")):
            return "cache built, no step yet"
        return "loaded, no cache yet" if (self.out / "recipe.yaml").exists() else "load"


def kill(place: Place, moment: Moment, seconds: float, resume: bool = False) -> float:
    """Start the run, which takes about `seconds`, and kill it; it may end first. Returns how long it lived."""
    more = ["--resume"] if resume else []
    begun = time.monotonic()
    if moment.kind == "rename":
        process = place.start(*more, before=["-c", AT_RENAME, moment.name, str(moment.turn)])
    else:
        process = place.start(*more)
        due = lapse(moment.share * seconds) if moment.kind == "random" else event(place, moment)
        while process.poll() is None and not due():
            time.sleep(0.0005)
        if moment.kind == "write":
            time.sleep(moment.share)
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return time.monotonic() - begun


def lapse(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def event(place: Place, moment: Moment) -> Callable[[], bool]:
    """Whether a step has been logged, or a temporary file has been there for the `turn`-th time."""
    if moment.kind == "step":
        return lambda: len(place.steps()) >= moment.turn
    folder = place.home / "states" if moment.name == "states" else place.out
    beginning = "" if moment.name == "states" else f".{moment.name}"
    met: set[str] = set()

    def due() -> bool:
        names = os.listdir(folder) if folder.exists() else []
        met.update(name for name in names if name.startswith(beginning) and name.endswith(".tmp"))
        return len(met) >= moment.turn

    return due


def moments(count: int, dice: random.Random) -> list[Moment]:
    writes = ROWS // BATCH * EPOCHS // 2
    return [
        *(Moment("random", (part + dice.random()) / count) for part in range(count)),
        *(Moment("step", turn=dice.randint(1, 2 * writes - 1)) for _ in range(2)),
        Moment("write", dice.random(), "states"),
        *(Moment("write", dice.random() / 50, "checkpoint", dice.randint(1, writes - 1)) for _ in range(2)),
        Moment("write", name="adapter"),
        Moment("rename", name="recipe.yaml"),
        Moment("rename", name="checkpoint.safetensors", turn=dice.randint(1, writes)),
        Moment("rename", name="best.safetensors"),
        Moment("rename", name="adapter"),
        Moment("rename", name="result.json"),
    ]


def go_through(new: Callable[[], Place], moment: Moment, expected: Expected, seconds: float, again: float) -> dict:
    """Kill, resume (after another kill at the share `again`, unless that is 0), compare."""
    place = new()
    lived = kill(place, moment, seconds)
    if moment.kind == "random" and place.phase() == "complete":
        # The machine has become faster: the same share of what this run took.
        place = new()
        kill(place, moment, lived)
    facts: dict = {**asdict(moment), "phase": place.phase()}
    if again:
        kill(place, Moment("random", again), seconds, resume=True)
        facts["killed_again"] = place.phase()
    fault = place.finish("--resume")
    if fault:
        return {**facts, "equal": False, "fault": fault}
    tensors, steps = expected
    found = place.tensors()
    wrong = sorted(name for name in tensors.keys() | found.keys() if tensors.get(name) != found.get(name))
    facts["equal"] = not wrong and place.steps() == steps
    facts["left_behind"] = sum(path.stat().st_size for path in place.out.parent.rglob("*.tmp") if path.is_file())
    return facts if facts["equal"] else {**facts, "fault": f"{len(wrong)} tensors differ: {wrong[:3]}; {place.steps()}"}


def resolve(model: str) -> str:
    """A folder: the runs have homes of their own, in which no model lies."""
    if Path(model).is_dir():
        return str(Path(model).resolve())
    pull = [sys.executable, "-m", "ctxtune", "model", "pull", model]
    return subprocess.run(pull, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct-q4")
    parser.add_argument("--data", type=Path, default=BUNDLED)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    dice = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        lines = args.data.read_text(encoding="utf-8").splitlines(keepends=True)
        train, dev = Path(folder) / "train.jsonl", Path(folder) / "dev.jsonl"
        train.write_text("".join(lines[:ROWS]), encoding="utf-8")
        dev.write_text("".join(lines[ROWS : ROWS + EVAL_ROWS]), encoding="utf-8")
        options = [
            "freeze", "--model", resolve(args.model), "--train", str(train), "--eval", str(dev), *TASK, "--layers", "last:2",
            "--batch", str(BATCH), "--epochs", str(EPOCHS), "--lr", "1e-4", "--cache", "disk",
            "--set", "train.save_every=2", "--set", "forget.probe=none",
        ]  # fmt: skip

        def new() -> Place:
            runs = Path(folder) / "runs"
            shutil.rmtree(runs, ignore_errors=True)
            return Place(runs / "home", runs / "run", options)

        whole = new()
        begun = time.monotonic()
        if fault := whole.finish():
            raise SystemExit(f"the undisturbed run failed: {fault}")
        seconds = time.monotonic() - begun
        expected = whole.tensors(), whole.steps()
        results = []
        for number, moment in enumerate(moments(args.moments, dice)):
            again = dice.random() if number % 3 == 0 else 0.0
            results.append(go_through(new, moment, expected, seconds, again))
            print(json.dumps({"moment": number, **results[-1]}), flush=True)
    different = sum(not result["equal"] for result in results)
    print(json.dumps({
        "undisturbed_seconds": round(seconds, 1), "steps": len(expected[1]), "tensors_compared": len(expected[0]),
        "moments": len(results), "phases": Counter(result["phase"] for result in results), "different": different,
    }))  # fmt: skip
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
