"""The numbers of a safetensors file's tensors, read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctxtune.backend.tensors import TensorInfo

FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
}  # fmt: skip
"""type -> how numpy reads it; bfloat16 as the upper half of a float32"""


def read_floats(view: memoryview, info: TensorInfo) -> NDArray[np.float64]:
    """A copy of a tensor of one of FLOATS, in its shape."""
    stored: NDArray[Any] = np.frombuffer(view[info.begin : info.end], dtype=FLOATS[info.dtype])
    if info.dtype == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float64).reshape(info.shape)
