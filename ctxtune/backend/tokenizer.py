"""The tokenizer of a model folder, as transformers reads it. No torch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ctxtune.backend.library import hush, one_line
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder (a fast one: offsets are needed for cloze)."""
    from transformers import AutoTokenizer

    try:
        hush()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # `tokenizers` raises plain Exceptions, its wrappers whatever a wrong value leads to
        raise ModelError(f"{folder}: the tokenizer cannot be read: {one_line(error)}") from error
    # What is too long is decided by `data.on_long`; the tokenizer's own warning would only stand beside it.
    tokenizer.model_max_length = sys.maxsize
    return tokenizer
