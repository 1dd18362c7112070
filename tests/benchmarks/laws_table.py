"""The laws of tests/test_laws.py and test_prompt_laws.py, all of them, as one table: families x quantisation x what trains.

    python tests/benchmarks/laws_table.py [--kinds KIND ...] [--quants QUANT ...] [--trained CHOICE ...] [--out FILE]

What trains is a choice of layers or a kind of prompt. The checks are the tests of these modules as pytest collects them, slow
ones included, and run by pytest itself, one family after the other in each worker: what the modules list is in the table. A
cell

    holds      all of its checks pass; below the table stands which laws were asked of each choice
    refused    the product declines the run with its own one-line error, which the test has asked for (`refused` of the test's
               record); the line stands once below the table, under the cell's letter
    fails      a check fails: its name and what it says, the figure included, stand below the table, under the cell's number

KIND is one of the tests' own models (tests/conftest.py). FILE keeps one JSON line a check: those that are there already are
not run again, unless they failed, so that the command can be stopped and resumed. Returns 1 if a check fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Iterator, Mapping

LAWS = tuple(Path(__file__).parents[1] / name for name in ("test_laws.py", "test_prompt_laws.py"))
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Check:
    """One test of the modules: the law it asks, and the cell it asks it of (empty: of a setting of its own)."""

    name: str
    law: str
    kind: str
    quant: str
    trained: str


def check_of(item: pytest.Item) -> Check:
    """A check as its test's name and parameters tell it; a way to move is a choice of layers, the base float if not told."""
    given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    number = re.match(r"test_law_(\d+)", item.name)
    return Check(
        name=item.name,
        law=number[1] if number else "",
        kind=str(given.get("kind", "")),
        quant=str(given.get("quant", "none")),
        trained=next((str(given[name]) for name in ("layers", "motion", "prompt") if name in given), ""),
    )


class Recorder:
    """A plugin of pytest: keeps the checks that are wanted, writes down how each of them ends, and ends when it is told to."""

    def __init__(self, wanted: Collection[str] | None = None, out: Path | None = None) -> None:
        self.wanted, self.out = wanted, out
        self.checks: list[Check] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self.wanted is None or item.name in self.wanted]
        self.checks = [check_of(item) for item in items]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
        report = yield
        if call.excinfo is not None and call.excinfo.type is Interrupted:
            item.session.shouldstop = "interrupted"  # the check itself has said nothing
        elif self.out is not None and (report.when == "call" or not report.passed):
            line = asdict(check_of(item)) | {"result": "holds", "said": "", "seconds": round(report.duration, 2)}
            refused = [value for key, value in item.user_properties if key == "refused"]
            if report.failed:
                line |= {"result": "fails", "said": first_line(report)}
            elif report.skipped:
                line |= {"result": "skipped", "said": str(call.excinfo.value)}
            elif refused:
                line |= {"result": "refused", "said": str(refused[0])}
            with self.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return report


def first_line(report: pytest.TestReport) -> str:
    """What a failure says, in a line: the assertion with its figures, or the error."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return " ".join(text.split())[:300]


def run_tests(recorder: Recorder, *more: str) -> Recorder:
    """pytest over the laws in this process, in silence."""
    arguments = ["-q", "-m", "slow or not slow", "-p", "no:cacheprovider", "-p", "no:xdist", *more, *map(str, LAWS)]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = pytest.main(arguments, plugins=[recorder])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"pytest ended with {code!r}\n{said.getvalue()[-3000:]}")
    return recorder


def collect() -> list[Check]:
    """Every check of the modules, in their order."""
    checks = run_tests(Recorder(), "--collect-only").checks
    twice = [name for name, count in Counter(check.name for check in checks).items() if count > 1]
    if twice:
        raise SystemExit(f"a name is what a check is known by, and some are there twice: {', '.join(twice[:3])}")
    return checks


def run(names: frozenset[str], out: Path) -> float:
    """Run the named checks; returns the seconds."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run_tests(Recorder(names, out), "--basetemp", f"{folder}/laws")
    return time.perf_counter() - begun


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> the last line of each check; a line that was cut by a kill is none."""
    found = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            line = json.loads(text)
            found[line["name"]] = line
    return found


def unknown(checks: Iterable[Check], done: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Family -> its checks that have not been run, or have failed."""
    left: dict[str, list[str]] = {}
    for check in checks:
        if done.get(check.name, {"result": "fails"})["result"] == "fails":
            left.setdefault(check.kind, []).append(check.name)
    return left


def run_all(args: argparse.Namespace, out: Path) -> list[Check]:
    """Run what is wanted and not known yet, one family a task, the slowest first; returns the checks that are wanted."""
    pool = ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        checks = [check for check in pool.submit(collect).result() if wanted(check, args)]
        left = sorted(unknown(checks, read(out)).items(), key=lambda pair: (bool(pair[0]), -len(pair[1])))
        tasks = {pool.submit(run, frozenset(names), out): (kind, len(names)) for kind, names in left}
        for number, task in enumerate(as_completed(tasks), 1):
            kind, size = tasks[task]
            said = f"{number}/{len(tasks)} {kind or 'others'}: {size} checks, {task.result():.0f} s"
            print(said, file=sys.stderr, flush=True)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    pool.shutdown()
    return checks


def wanted(check: Check, args: argparse.Namespace) -> bool:
    """Whether a check is within what was asked for; those of no cell only if everything was."""
    pairs = ((check.kind, args.kinds), (check.quant, args.quants), (check.trained, args.trained))
    return all(asked is None or value in asked for value, asked in pairs)


class Notes:
    """What stands below the table: each text once, under a mark of its own."""

    def __init__(self, marks: Iterator[str]) -> None:
        self.marks, self.by_text = marks, dict[str, str]()

    def mark(self, text: str) -> str:
        if text not in self.by_text:
            self.by_text[text] = next(self.marks)
        return self.by_text[text]


def show(checks: list[Check], lines: dict[str, dict[str, Any]]) -> int:
    """Print the table and what belongs to it; returns how many checks fail."""
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for check in checks:
        line = lines.get(check.name, asdict(check) | {"result": "unfinished", "said": ""})
        cells.setdefault((check.kind, check.quant, check.trained), []).append(line)
    alone = [line for (kind, _, trained), found in cells.items() if not (kind and trained) for line in found]
    table = {place: found for place, found in cells.items() if place[0] and place[2]}
    refusals, failures = Notes(iter(LETTERS)), Notes(map(str, itertools.count(1)))
    said = {place: verdict(found, refusals, failures) for place, found in table.items()}
    print_table(said)
    for text, mark in refusals.by_text.items():
        print(f"refused {mark}: {text}")
    for line in alone:
        if line["result"] == "fails":
            failures.mark(failure(line))
    for text, mark in failures.by_text.items():
        print(f"fails {mark}: {text}")
    print_laws(table, alone)
    words = [word.split()[0] for word in said.values()]
    tally = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    results = [line["result"] for found in cells.values() for line in found]
    print(f"\n{len(said)} cells: {tally}; {len(results)} checks, {results.count('fails')} of them fail")
    return results.count("fails")


def verdict(found: Iterable[dict[str, Any]], refusals: Notes, failures: Notes) -> str:
    """The word of a cell: the worst of its checks."""
    by_result: dict[str, list[dict[str, Any]]] = {}
    for line in found:
        by_result.setdefault(line["result"], []).append(line)
    if "fails" in by_result:
        return "fails " + ",".join(failures.mark(failure(line)) for line in by_result["fails"])
    if "refused" in by_result:
        return "refused " + ",".join(dict.fromkeys(refusals.mark(line["said"]) for line in by_result["refused"]))
    return next((word for word in ("unfinished", "skipped") if word in by_result), "holds")


def failure(line: dict[str, Any]) -> str:
    return f"{line['name']}: {line['said']}"


def print_table(said: dict[tuple[str, str, str], str]) -> None:
    """A line a family and quantisation, a column a choice of what trains."""
    kinds, quants, columns = (list(dict.fromkeys(place[i] for place in said)) for i in range(3))
    rows = [("family", "quant", *columns)]
    for kind, quant in itertools.product(kinds, quants):
        if any(place[:2] == (kind, quant) for place in said):
            rows.append((kind, quant, *(said.get((kind, quant, trained), "-") for trained in columns)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    print()


def print_laws(table: dict[tuple[str, str, str], list[dict[str, Any]]], alone: list[dict[str, Any]]) -> None:
    """Which laws were asked of each choice, how often in all."""
    asked: dict[str, list[str]] = {}
    for (_, _, trained), found in table.items():
        asked.setdefault(trained, []).extend(line["law"] for line in found if line["law"])
    asked["others"] = [line["law"] for line in alone]
    print()
    for trained, laws in asked.items():
        if laws:
            print(f"{trained}: " + ", ".join(f"law {law} x {laws.count(law)}" for law in sorted(set(laws))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+")
    parser.add_argument("--quants", nargs="+")
    parser.add_argument("--trained", nargs="+")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = (args.out or Path(folder) / "checks.jsonl").resolve()
        failed = show(run_all(args, out), read(out))
    print(f"{time.perf_counter() - begun:.0f} s on {args.workers} workers")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
