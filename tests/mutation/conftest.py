"""The command line as tests/cli calls it, and a finished run to spoil."""

from __future__ import annotations

from ..cli.conftest import adapted, said, shown, task

__all__ = ["adapted", "said", "shown", "task"]
