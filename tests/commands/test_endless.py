"""A stream has no end: after any number of questions a process holds what it held before, and no more."""

from __future__ import annotations

import gc
import json
import os
import random
import re
import subprocess
import threading
import tracemalloc
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.commands.stream import fewshot_stream
from ctxtune.recipe.load import load

from . import test_stream
from .test_fewshot import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator

given = test_stream.given
ROOT = Path(__file__).resolve().parents[2]
WRITTEN = {"data.choices": None, "generate.max_tokens": 4}
SAMPLED = {**WRITTEN, "generate.temperature": 1.0}
NEAR = {"method.select": "knn"}
MORE = 96  # questions


def questions() -> Iterator[bytes]:
    """Endlessly many, of one to twelve words, no two alike; one in fifty is broken."""
    draw = random.Random(0)
    for number in count():
        text = " ".join([str(number), *draw.choices(WORDS, k=draw.randint(0, 11))])
        yield b"{" if number % 50 == 7 else json.dumps({"text": text}).encode()


def batches(size: int) -> Iterator[list[tuple[int, bytes | None]]]:
    numbered = enumerate(questions(), 1)
    while True:
        yield list(islice(numbered, size))


@pytest.mark.parametrize("more", [
    {}, SAMPLED, pytest.param(WRITTEN, marks=pytest.mark.slow), pytest.param(NEAR, marks=pytest.mark.slow),
], ids=["fixed", "sampled", "written", "knn"])  # fmt: skip
def test_nothing_is_kept_of_what_was_answered(
    more: dict[str, object], given: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own memory, and the number of tensors, while some more questions are answered: 200 bytes of each would show."""
    from ctxtune.backend import sample

    monkeypatch.setattr(sample, "REMEMBERED", 32)
    answers = fewshot_stream(load(None, {**given, **more}, []), batches(16), "mark", [].append)
    next(islice(answers, MORE - 1, None))
    tracemalloc.start()
    try:
        next(islice(answers, MORE - 1, None))  # what the tracing itself makes is there now
        before = held()
        assert next(islice(answers, MORE - 1, None))["line"] == 3 * MORE
        after = held()
    finally:
        tracemalloc.stop()
    assert after[0] - before[0] < MORE * 200
    assert after[1] == before[1]


def held() -> tuple[int, int]:
    """Bytes of Python's objects, and tensors among them."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0], sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the resident memory of a process in /proc")
@pytest.mark.parametrize(
    ("more", "first", "last"), [({}, 2_000, 20_000), (NEAR, 2_000, 6_000), (SAMPLED, 1_000, 5_000)],
    ids=["fixed", "knn", "sampled"],
)  # fmt: skip
def test_a_process_stays_as_large_as_it_is(
    more: dict[str, object], first: int, last: int, given: dict[str, object], tmp_path: Path
) -> None:
    command = [*test_stream.piped({**given, **more}), "--on-error", "mark"]
    with (tmp_path / "notes").open("wb") as notes:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=notes,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        thread = threading.Thread(target=feed, args=(process.stdin, last))
        thread.start()
        sizes: list[float] = []
        assert process.stdout is not None
        with process.stdout as answers:
            for number, line in enumerate(answers, 1):
                if number % 50 == 0:
                    assert json.loads(line)["line"] == number
                    sizes.append(resident(process.pid))
        thread.join()
        assert process.wait(timeout=60) == 0
    assert len(sizes) == last // 50
    early, late = sizes[first // 100 : first // 50], sizes[-first // 100 :]
    print(f"resident after {first:,}: {max(early):.1f} MiB, after {last:,}: {max(late):.1f} MiB")
    assert max(late) < max(early) + 6


def feed(stdin: Any, last: int) -> None:
    with stdin:
        for question in islice(questions(), last):
            stdin.write(question + b"\n")


def resident(process: int) -> float:
    """MiB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) / 1024
