"""Where a model family keeps its parts: one row a family, read by everything that works on layers.

Paths are module names as `model.get_submodule` takes them; those inside a block are relative to the block. Norms are
norms wherever they stand: those of queries and keys are not counted among the attention's modules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import nn

Kind = Literal["causal", "masked", "classifier"]


@dataclass(frozen=True)
class Anatomy:
    """The parts of one family. `norm` is None where no norm stands between the last block and the head.

    `outward` is what the states go through between the norm and the head; `classifier` is what an encoder without its head
    gets instead, from its first token's state to the logits of classes; `tuples` says that blocks hand their states on in a
    tuple; `apart` says what keeps several examples in one row of tokens apart: positions that start anew, from which the
    model makes the masks of its layers itself, a mask, or nothing that is known; `counts_pads` is whether positions begin
    behind the pad's id, which has that position wherever it stands; `refusal` says what does not work yet, and what to use
    instead. A row that is not in the table is `derived` from the structure of the model (structure.py).
    """

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
    outward: tuple[str, ...] = ()
    tuples: bool = False
    derived: bool = False
    classifier: tuple[str, ...] = ()
    apart: Literal["positions", "mask"] | None = None
    counts_pads: bool = False
    refusal: tuple[str, str] | None = None

    def block_list(self, model: nn.Module) -> nn.ModuleList:
        """The model's own list of blocks (not a copy)."""
        return cast("nn.ModuleList", model.get_submodule(self.blocks))

    def in_words(self) -> str:
        """How the parts of a family that is not in the table were found."""
        parts = ", ".join(filter(None, (*self.embeddings, self.blocks, self.norm, *self.outward, self.head)))
        return f"family {self.family!r} is not in the table, its parts were found by structure: {parts}"

    @property
    def verb(self) -> str:
        """What a model of this kind does, in words."""
        return {"causal": "continues texts", "masked": "fills gaps", "classifier": "tells choices apart"}[self.kind]

    def is_headless(self, tensors: Collection[str]) -> bool:
        """Whether files with these tensors hold an encoder without the head that fills a mask."""
        return bool(self.classifier) and not any(name.startswith(f"{self.head}.") for name in tensors)

    def classifying(self) -> Anatomy:
        """The row of such an encoder: a classifier on its first token takes the place of the head."""
        *outward, head = self.classifier
        return replace(self, kind="classifier", head=head, outward=tuple(outward))

    def in_head(self, name: str) -> bool:
        """Whether a parameter belongs to the head, or to what the states go through on their way to it."""
        return any(name.startswith(f"{part}.") for part in (self.head, *self.outward))

    def fitted(self, model: nn.Module) -> Anatomy:
        """The row for this very model: what only some models of the family have is left out where it is not there."""
        there = {name for name, _ in model.named_modules(remove_duplicate=False)}
        return replace(
            self,
            embeddings=tuple(name for name in self.embeddings if name in there),
            norm=self.norm if self.norm in there else None,
            outward=tuple(name for name in self.outward if name in there),
        )


_LLAMA = Anatomy(
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
    apart="positions",
)
# Queries and keys are normed, head by head.
_QWEN3 = replace(
    _LLAMA,
    family="qwen3",
    attn=tuple(f"self_attn.{name}_proj" for name in "qkvo"),
    norms=(*_LLAMA.norms, "self_attn.q_norm", "self_attn.k_norm"),
)
_BERT = Anatomy(
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
    classifier=("bert.pooler", "classifier"),
    apart="mask",
)

FAMILIES = {
    row.family: row
    for row in (
        _LLAMA,
        replace(_LLAMA, family="mistral"),
        replace(_LLAMA, family="qwen2"),
        replace(_LLAMA, family="phi3"),
        _QWEN3,
        replace(
            _QWEN3,
            family="gemma3_text",
            norms=(*_QWEN3.norms, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
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
            apart="positions",
        ),
        Anatomy(
            family="gpt_neox",
            kind="causal",
            backbone="gpt_neox",
            embeddings=("gpt_neox.embed_in",),
            blocks="gpt_neox.layers",
            norm="gpt_neox.final_layer_norm",
            head="lm_head",
            attn=("attention",),
            mlp=("mlp",),
            norms=("input_layernorm", "post_attention_layernorm"),
            apart="positions",
        ),
        # The final norm is not there where blocks norm behind themselves; the projections only where words are narrower.
        Anatomy(
            family="opt",
            kind="causal",
            backbone="model.decoder",
            embeddings=("model.decoder.embed_tokens", "model.decoder.embed_positions", "model.decoder.project_in"),
            blocks="model.decoder.layers",
            norm="model.decoder.final_layer_norm",
            head="lm_head",
            attn=("self_attn",),
            mlp=("fc1", "fc2"),
            norms=("self_attn_layer_norm", "final_layer_norm"),
            outward=("model.decoder.project_out",),
            apart="mask",
        ),
        _BERT,
        replace(
            _BERT,
            family="roberta",
            backbone="roberta",
            embeddings=("roberta.embeddings",),
            blocks="roberta.encoder.layer",
            head="lm_head",
            classifier=("classifier",),
            counts_pads=True,
        ),
        Anatomy(
            family="xlnet",
            kind="causal",
            backbone="transformer",
            embeddings=("transformer.word_embedding",),
            blocks="transformer.layer",
            norm=None,
            head="lm_loss",
            attn=("rel_attn",),
            mlp=("ff.layer_1", "ff.layer_2"),
            norms=("rel_attn.layer_norm", "ff.layer_norm"),
            refusal=(
                "it predicts a token from any order of the others, and neither answers nor cloze are written that way yet",
                "`ctxtune model show` works; to adapt, take a causal model, or a masked one such as roberta or bert",
            ),
        ),
        Anatomy(
            family="t5",
            kind="causal",  # its decoder
            backbone="decoder",
            embeddings=("shared",),
            blocks="decoder.block",
            norm="decoder.final_layer_norm",
            head="lm_head",
            attn=("layer.0.SelfAttention", "layer.1.EncDecAttention"),
            mlp=("layer.2.DenseReluDense",),
            norms=("layer.0.layer_norm", "layer.1.layer_norm", "layer.2.layer_norm"),
            refusal=(
                "an encoder with a decoder reads prompt and answer apart, which no command does yet",
                "`ctxtune model show` works; to adapt, take a causal model such as llama, qwen3 or gpt2",
            ),
        ),
    )
}


def anatomy_of(family: str) -> Anatomy:
    """The row of a family named as `model_type` in config.json.

    Raises:
        ModelError: the family is not in the table, or stands there as one that does not work yet.
    """
    row = FAMILIES.get(family)
    if row is None:
        raise unsupported(family, "it is not in the table")
    if row.refusal is not None:
        raise ModelError(f"model family {family!r} is not supported: {row.refusal[0]}", row.refusal[1])
    return row


def unsupported(family: str, reason: str) -> ModelError:
    """The error of a family that cannot be used, with those that can."""
    return ModelError(
        f"model family {family!r} is not supported: {reason}", f"families that work: {', '.join(working())}"
    )


def working() -> list[str]:
    """The names of the families that work."""
    return sorted(row.family for row in FAMILIES.values() if row.refusal is None)
