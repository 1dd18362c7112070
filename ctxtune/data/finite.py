"""Numbers as JSON can hold them."""

from __future__ import annotations

import math
from typing import Any


def plain(value: Any) -> Any:
    """The same value with null for every number that is not finite: JSON has no word for those."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def finite(numbers: dict[str, float]) -> dict[str, float]:
    """Those that are finite."""
    return {key: value for key, value in numbers.items() if math.isfinite(value)}
