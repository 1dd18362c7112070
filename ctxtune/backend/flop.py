"""How much a model computes for a token, and how fast the machine multiplies: the two ends of what a run could reach.

    flop a token = 6 (numbers of the matrices, the head among them) + 6 L T D

forwards and backwards; of T tokens in a row a token looks at half, in L layers of D numbers (Chowdhery et al. 2022, PaLM,
appendix B, counts all of them).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.device import Device

_SIDE, _SECONDS = 1024, 0.2


def flop_a_token(model: nn.Module, anatomy: Anatomy, tokens: int) -> int:
    """Of a step, in rows of so many tokens."""
    blocks = anatomy.block_list(model)
    head: Any = model.get_submodule(anatomy.head)
    matrices = sum(param.numel() for param in blocks.parameters() if param.ndim == 2) + head.weight.numel()
    return int(6 * matrices + 6 * len(blocks) * tokens * head.weight.shape[1])


def product_rate(device: Device) -> float:
    """FLOP a second of a product of large matrices, the best of a few; in the type that the device computes in."""
    matrix = torch.ones(_SIDE, _SIDE, device=device.name, dtype=device.dtype)
    best, until = 0.0, time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        begun = time.perf_counter()
        product = matrix @ matrix
        float(product[0, 0])  # waits for it
        best = max(best, 2 * _SIDE**3 / (time.perf_counter() - begun))
    return best
