"""Rows to score that were learned from: what a model does with them says little of what it does with others.

Rows are compared by what a model is asked, rendered, whatever their answers say: a row with another label is leaked too.
Where nothing is asked, as of running text, by the text itself.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ctxtune.data.chat import ChatSpec
from ctxtune.data.windows import TextSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.data.encode import EncodeSpec
    from ctxtune.data.read import Row


def leaked_rows(train: Sequence[Row], scored: Sequence[Row], spec: EncodeSpec | ChatSpec | TextSpec) -> int:
    """How many of the rows to score are asked what a training row asks. No tokenizer is needed."""
    seen = {_asked(row, spec) for row in train}
    return sum(_asked(row, spec) in seen for row in scored)


def in_words(leaked: int, rows: int) -> str:
    """What is said of them."""
    return f"{leaked} of {rows} rows to score stand among the training rows: leakage"


def _asked(row: Row, spec: EncodeSpec | ChatSpec | TextSpec) -> str:
    """A prompt, what stands in a conversation before the first reply that is learned, or a text."""
    if isinstance(spec, ChatSpec):
        talk = spec.render(row)
        end = talk.replies[0 if spec.learn == "all" else -1] if talk.replies else None
        return json.dumps([talk.messages[:end], talk.tools], sort_keys=True, default=str)
    if isinstance(spec, TextSpec):
        return spec.render(row)
    one = spec.render(row)
    return one.prompt.strip() or one.answer or ""
