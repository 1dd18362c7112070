"""transformers as everything here uses it: offline, silent, its errors in one line, and without torch where no model is run."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def hush() -> None:
    """No progress bars and no advice from transformers: what a user should know, ctxtune says."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def without_torch() -> Iterator[None]:
    """Inside the block transformers makes do without torch, whose import takes longer than all that tokens need.

    transformers remembers what it found: what was imported of it is forgotten at the end, so that a model can still be run.
    Where either is loaded already there is nothing to gain.
    """
    if "torch" in sys.modules or "transformers" in sys.modules:
        yield
        return
    modules: dict[str, object] = sys.modules  # type: ignore[assignment]
    modules["torch"] = None
    try:
        yield
    finally:
        for name in [name for name in modules if name.partition(".")[0] in ("torch", "transformers")]:
            del modules[name]


def one_line(error: BaseException) -> str:
    """The first sentence of what a library says, without the advice that follows it; a heading takes the next line along."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
