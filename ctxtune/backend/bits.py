"""How a linear layer is stored in few bits: in which kind, and in how many bytes. Nothing here loads torch.

    int8        a byte a number, a float32 scale a row
    nf4, fp4    half a byte a number, a 16-bit scale for each 32 numbers in a row, fitted (levels.py)

bitsandbytes' own 4 bits are blocks of 64 with a float32 scale: half of both takes the same room and is nearer to the weights.
A model in 4 bits keeps the projections to attention's values in int8, as llama.cpp's mixes keep them wider (Q4_K_M): they are
the fewest weights, and where several heads read one value each error is made several times.
"""

from __future__ import annotations

FOUR_BITS = ("nf4", "fp4")
BLOCK = 32
"""numbers that share a scale in 4 bits"""
VALUES = ("v_proj", "value", "attn_v")
"""the projection to attention's values, where a family, BERT's or a .gguf file keeps it apart"""


def stored_as(name: str, quant: str) -> str:
    """How the linear layer `name` of a model in `quant` is stored."""
    return "int8" if name.rpartition(".")[2] in VALUES else quant


def stored_bytes(numel: int, rows: int, kind: str) -> int:
    """What a weight of so many numbers in so many rows takes in memory, its scales included."""
    if kind == "int8":
        return numel + 4 * rows
    return -(-numel // 2) + 2 * -(-numel // BLOCK)


def layout(quant: str) -> str:
    """The whole rule, in words: what was computed under another one is not what this one computes."""
    return quant if quant in ("none", "int8") else f"{quant} in fitted blocks of {BLOCK}, {', '.join(VALUES)} in int8"
