"""A corpus far larger than a step needs: what memory it takes to read, tokenise and learn from it, second by second.

    python tests/benchmarks/pretrain_corpus.py --data DATA --out RESULTS [--gigabytes 5] [--form jsonl txt] [--threads 0]

DATA as in pretrain_speed.py. The three texts are repeated until they are so many gigabytes (10^9 bytes), in a temporary folder
(--folder: where it is made) that goes afterwards, however it ends, and so do the tokens. `jsonl`: a document a line, of
paragraphs that make at least 500 characters together, millions of documents; `txt`: one document. Then `ctxtune pretrain
--steps 30` with its defaults. Once a second the memory of the process and of all that it starts is read in /proc:

    anonymous   RssAnon, what it has taken for itself and nobody can take back
    mapped      RssFile, pages of files that it reads where they lie; the machine takes them back when it needs them
    rss         both, and RssShmem

by phase: `survey` reads all text once, `learn` learns a tokenizer, `tokenise` writes tokens, `rows` fills rows and makes the
model, `train` takes the steps and scores. Of each phase its seconds, its most, and the most of its last third over that of its
first. One JSON line a corpus; lines that are there already are not computed again. --threads is how many the tokenizer has, 0
all cores. To reach: below 2 GB resident, and where tokens are written and learned no more at the end than in the beginning.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lines import kept
from pretrain_speed import texts

if TYPE_CHECKING:
    from collections.abc import Iterator

PHASES = ("survey", "learn", "tokenise", "rows", "train")
FLAT = ("tokenise", "train")
DOCUMENT, STEPS = 500, 30
FIELDS = {"anonymous": "RssAnon", "mapped": "RssFile", "shared": "RssShmem"}


def block(args: argparse.Namespace, form: str) -> bytes:
    """The three texts once, as they are repeated."""
    whole = [Path(name).read_text(encoding="utf-8") for name in texts(args)]
    if form == "txt":
        return ("\n".join(whole) + "\n").encode()
    documents = [""]
    for paragraph in (one for text in whole for one in re.split(r"\n\s*\n", text)):
        if len(documents[-1]) >= DOCUMENT:
            documents.append("")
        documents[-1] += paragraph + "\n\n"
    return "".join(json.dumps({"text": one}, ensure_ascii=False) + "\n" for one in documents).encode()


def write_repeated(path: Path, once: bytes, num_bytes: int) -> None:
    """At least so many bytes."""
    with path.open("wb") as file:
        for _ in range(-(-num_bytes // len(once))):
            file.write(once)


def family(pid: int) -> Iterator[int]:
    """A process and all that come from it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended
            for child in task.read_text().split():
                yield from family(int(child))


def memory(pid: int) -> dict[str, float]:
    """MB of a process and of all that come from it, by kind."""
    found = dict.fromkeys(FIELDS, 0.0)
    for one in family(pid):
        try:
            lines = dict(line.split(":", 1) for line in Path(f"/proc/{one}/status").read_text().splitlines())
        except OSError:  # it has ended
            continue
        for name, field in FIELDS.items():
            found[name] += int(lines.get(field, "0").split()[0]) * 1024 / 1e6
    return {**found, "rss": sum(found.values())}


class Watched:
    """A run of ctxtune, its notes and its memory as it goes on."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.notes, self.samples = folder, list[str](), list[tuple[float, str, dict[str, float]]]()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.notes.append(line.rstrip())

    def phase(self) -> str:
        """By what it has said and left on the disk."""
        corpora = self.folder / "home" / "corpora"
        if (self.folder / "run" / "metrics.jsonl").exists():
            return "train"
        if any(not marker.parent.name.endswith(".tmp") for marker in corpora.glob("*/corpus.json")):
            return "rows"
        if any(corpora.glob("*/train.tokens")):
            return "tokenise"
        return "learn" if any("learning a tokenizer" in note for note in self.notes) else "survey"

    def facts(self) -> dict[str, Any]:
        """Its result, when it has ended."""
        assert self.process.stdout is not None
        try:
            while self.process.poll() is None:
                self.samples.append((time.monotonic(), self.phase(), memory(self.process.pid)))
                time.sleep(1)
        finally:
            self.process.kill()
            self._reader.join()
        if self.process.returncode:
            raise SystemExit("\n".join(["the run failed:", *self.notes[-5:]]))
        result: dict[str, Any] = json.loads(self.process.stdout.read())
        return result

    def told(self) -> dict[str, dict[str, float]]:
        """Of each phase its seconds, the most of each kind of memory, and what the last third has over the first."""
        found = {}
        for phase in PHASES:
            some = [(when, taken) for when, now, taken in self.samples if now == phase and taken["rss"]]
            if not some:
                continue
            third = -(-len(some) // 3)
            most = {kind: round(max(taken[kind] for _, taken in some)) for kind in ("anonymous", "mapped", "rss")}
            ends = [max(taken["anonymous"] for _, taken in part) for part in (some[:third], some[-third:])]
            found[phase] = {
                "seconds": round(some[-1][0] - some[0][0] + 1), **most, "first_third": round(ends[0]),
                "last_third": round(ends[1]), "last_over_first": round(ends[1] / ends[0], 3),
            }  # fmt: skip
        return found


def measured(args: argparse.Namespace, form: str) -> dict[str, Any]:
    """One corpus, made, learned from, and taken away."""
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder, num_bytes = Path(name), int(args.gigabytes * 1e9)
        if (free := shutil.disk_usage(folder).free) < 3 * num_bytes:
            raise SystemExit(
                f"{3 * num_bytes:,} bytes are needed in {folder}, {free:,} are free: name another --folder"
            )
        corpus = folder / f"corpus.{form}"
        write_repeated(corpus, block(args, form), num_bytes)
        command = [
            sys.executable, "-m", "ctxtune", "pretrain", "--train", str(corpus), "--steps", str(STEPS),
            "--out", str(folder / "run"), "--json",
        ]  # fmt: skip
        threads = {"RAYON_NUM_THREADS": str(args.threads)} if args.threads else {}
        run = Watched(command, folder, {"CTXTUNE_HOME": str(folder / "home"), **threads})
        facts, phases = run.facts(), run.told()
    train, held = facts["corpus"]["train"], facts["corpus"]["held_out"]
    text = train["num_bytes"] + held["num_bytes"]
    return {
        "documents": train["documents"] + held["documents"], "tokens": train["tokens"] + held["tokens"],
        "text_bytes": text, "rows": facts["corpus"]["rows"], "phases": phases,
        "most_rss": max(one["rss"] for one in phases.values()),
        "most_anonymous": max(one["anonymous"] for one in phases.values()),
        "tokenised_mb_per_s": round(text / 1e6 / phases["tokenise"]["seconds"], 2), "seconds": facts["seconds"],
    }  # fmt: skip


def verdict(line: dict[str, Any]) -> None:
    """Print what came out of a corpus, beside what was to be reached."""
    print(f"{line['gigabytes']:g} GB of {line['form']}, {line['documents']:,} documents, {line['rows']:,} rows:")
    for phase, one in line["phases"].items():
        print(
            f"  {phase}: {one['seconds']:,} s, at most {one['rss']:,} MB, {one['anonymous']:,} of them its own and"
            f" {one['mapped']:,} mapped; its own in the last third {one['last_over_first']:.2f} times the first's"
        )
    print(f"  {line['tokenised_mb_per_s']} MB of text tokenised a second")
    flat = all(line["phases"][phase]["last_over_first"] < 1.1 for phase in FLAT)
    print(f"  {'reached' if line['most_rss'] < 2000 and flat else 'NOT reached'}: {line['most_rss']:,} MB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--gigabytes", type=float, default=5)
    parser.add_argument("--form", nargs="+", default=["jsonl", "txt"], choices=["jsonl", "txt"])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the corpus is made; a temporary one where nobody says")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder goes as well
    for form in args.form:
        key = {"form": form, "gigabytes": args.gigabytes, "threads": args.threads}
        verdict(kept(args.out, key, partial(measured, args, form)))


if __name__ == "__main__":
    main()
