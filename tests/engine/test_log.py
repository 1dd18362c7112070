"""metrics.jsonl: appended, cut back to the checkpoint, and read although its last line is half."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ctxtune.engine.log import RunLog, read_log
from ctxtune.errors import StorageError


def steps(path: Path) -> list[int]:
    return [record["step"] for record in read_log(path)]


def test_records_come_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = RunLog(path)
    records: list[dict[str, Any]] = [
        {"step": 1, "loss": 0.1 + 0.2},
        {"step": 1, "eval_acc": 1.0, "text": "ä\n"},
        {"step": 2, "loss": 1e-30},
    ]
    for record in records:
        log.add(record)
    assert read_log(path) == records
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3


def test_a_new_run_starts_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    RunLog(path).add({"step": 1})
    RunLog(path)
    assert path.read_text(encoding="utf-8") == ""


def test_resuming_cuts_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = RunLog(path)
    for step in (1, 2, 2, 3, 4):
        log.add({"step": step})
    again = RunLog(path, resume_at=2)
    assert steps(path) == [1, 2, 2]
    again.add({"step": 3})
    assert steps(path) == [1, 2, 2, 3]


def test_a_half_written_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert steps(path) == [1, 2]
    RunLog(path, resume_at=9).add({"step": 3})
    assert steps(path) == [1, 2, 3]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\0')
    assert steps(path) == [1]


def test_no_log_is_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_log(path) == []
    RunLog(path, resume_at=5)
    assert steps(path) == []


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(tmp_path / "metrics.jsonl")
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if "a" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match="no room"):
        log.add({"step": 1})


def test_a_cut_that_fails_leaves_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    RunLog(path).add({"step": 1})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no room"):
        RunLog(path, resume_at=0)
    assert steps(path) == [1]
    assert [file.name for file in tmp_path.glob("*metrics*")] == ["metrics.jsonl"]
