"""Where a model family keeps its parts: one row a family, read by everything that works on layers.

Paths are module names as `model.get_submodule` takes them; those inside a block are relative to the block. A family that
is not in the table is refused: guessing is the business of a later, checked step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["causal", "masked"]


@dataclass(frozen=True)
class Anatomy:
    """The parts of one family. `norm` is None where no norm stands between the last block and the head."""

    family: str
    kind: Kind
    backbone: str
    embeddings: tuple[str, ...]
    blocks: str
    norm: str | None
    head: str
    attn: tuple[str, ...]
    mlp: tuple[str, ...]
    norms: tuple[str, ...]

    def block_list(self, model: nn.Module) -> nn.ModuleList:
        """The model's own list of blocks (not a copy)."""
        return cast("nn.ModuleList", model.get_submodule(self.blocks))


FAMILIES = {
    row.family: row
    for row in (
        Anatomy(
            family="llama",
            kind="causal",
            backbone="model",
            embeddings=("model.embed_tokens",),
            blocks="model.layers",
            norm="model.norm",
            head="lm_head",
            attn=("self_attn",),
            mlp=("mlp",),
            norms=("input_layernorm", "post_attention_layernorm"),
        ),
        Anatomy(
            family="gpt2",
            kind="causal",
            backbone="transformer",
            embeddings=("transformer.wte", "transformer.wpe"),
            blocks="transformer.h",
            norm="transformer.ln_f",
            head="lm_head",
            attn=("attn",),
            mlp=("mlp",),
            norms=("ln_1", "ln_2"),
        ),
        Anatomy(
            family="bert",
            kind="masked",
            backbone="bert",
            embeddings=("bert.embeddings",),
            blocks="bert.encoder.layer",
            norm=None,
            head="cls",
            attn=("attention.self", "attention.output.dense"),
            mlp=("intermediate", "output.dense"),
            norms=("attention.output.LayerNorm", "output.LayerNorm"),
        ),
    )
}


def anatomy_of(family: str) -> Anatomy:
    """The row of a family named as `model_type` in config.json.

    Raises:
        ModelError: the family is not in the table.
    """
    try:
        return FAMILIES[family]
    except KeyError:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(f"model family {family!r} is not supported", f"families that work: {known}") from None
