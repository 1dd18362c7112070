"""metrics.jsonl: one JSON object a line, appended while a run goes on, and cut back to the checkpoint when it resumes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ctxtune.backend.atomic import storing, write_text
from ctxtune.data.finite import plain

if TYPE_CHECKING:
    from pathlib import Path


class RunLog:
    """Appends records to a file, if this process writes; a record belongs to the step after which it was written."""

    def __init__(self, path: Path, resume_at: int | None = None, writes: bool = True) -> None:
        self.path = path
        if not writes:
            return
        kept = [] if resume_at is None else [r for r in read_log(path) if r.get("step", 0) <= resume_at]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))

    def add(self, record: dict[str, Any]) -> None:
        """Append one record."""
        with storing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(record)) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log; a last line that a killed run left half-written is not one."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break
        records.append(record)
    return records
