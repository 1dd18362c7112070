"""A thousand spoilt inputs: each ends in one line that names what is wrong, in bounded time and memory, or works.

pytest -m slow tests/mutation          all of them; every seventh runs by default
"""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, Any

import pytest

from .cases import Good, kind_of, make

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CASES = 1008
SECONDS = 2.0
MEMORY_KIB = 400_000
"""what no input of a few kilobytes may cost on top of what the process has taken before"""


@pytest.fixture(scope="module")
def good(model_folders: dict[str, Path], adapted: Path, shown: Path) -> Good:
    return Good(model_folders["llama-tied"], adapted, shown)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=[pytest.mark.slow] * (number % 7 != 0), id=f"{number}-{kind_of(number)}")
        for number in range(CASES)
    ],
)
def test_a_spoilt_input_is_named_or_works(
    number: int, good: Good, said: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    case = make(number, good, folder)
    monkeypatch.chdir(folder)
    before = {path.name for path in folder.iterdir()}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    answer = said(*case.args)
    seconds = time.process_time() - begun
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert seconds < SECONDS, f"{seconds:.1f} s"
    assert grown < MEMORY_KIB, f"{grown} KiB"
    assert answer.code in (0, 2, 3, 4), answer.err
    if answer.code == 0:
        return
    if "checks" not in answer.out and "FAILED" not in answer.out:  # `adapter verify` shows its table as well
        lines = answer.complaint(several=True)
        assert any(name in " ".join(lines) for name in case.named), lines
        assert len(lines[0]) < 1000
    assert {path.name for path in folder.iterdir()} <= before, "something half-made was left behind"
