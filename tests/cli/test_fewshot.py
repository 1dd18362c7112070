"""What `fewshot` prints, and what it refuses before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .conftest import pick

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Said


@pytest.fixture
def given(task: list[str]) -> list[str]:
    return [*pick(task, "--model", "--train", "--eval", "--prompt", "--answer", "--choices", "--device"), "--shots", "1"]


def test_the_table_says_what_it_took_for_granted(said: Callable[..., Said], given: list[str]) -> None:
    plain = said("fewshot", *given).out
    assert "taken for granted" not in plain
    skewed = said("fewshot", *given, "--calibrate", "pmi", "--prior", "3,1", "--seeds", "2", "--select", "random").out
    assert "0.75, 0.25" in skewed
    assert ", 2 draws" in skewed[skewed.index("Rows by their label") :]


def test_a_file_that_cannot_be_written_is_told_before_anything_is_loaded(
    said: Callable[..., Said], given: list[str], tmp_path: Path
) -> None:
    missing = tmp_path / "none" / "scores.jsonl"
    done = said("fewshot", *given, "--scores", missing)
    assert done.code == 2
    assert done.out == ""
    assert f"--scores {missing}: there is no folder" in done.err
