"""Prompt tuning: virtual tokens stand before or behind every text; they are learned, and the model stays as it is.

    prefix    keys and values of layers           P x 2 L H d numbers          (Li & Liang 2021)
    input     vectors before the embedded input   v = p                        (Lester et al. 2021)
    residual                                      v = p + U relu(W ln(p))      (Razdaibiedina et al. 2023), W: D -> 64
    ptuning                                       v = e + U relu(V relu(W p))  (Liu et al. 2021), W, V: D -> D
    suffix    vectors between what is asked and the answer, v = p

Nothing that stands before a suffix can see it: what the model makes of a question stays what it was (contexts.py).

Nothing begins at random: the virtual tokens start as what the model makes of real ones, U as 0, so that before the first step
they say what these would say. Vectors keep the norms that they start with, |v_i| = |e_i|: a rate that suits the numbers of one
model would blow those of another up. Keys take 0.3 of the rate of values: they decide where all heads look. U, V and W are
folded into the vectors when these are written; the checkpoint keeps them, so that a run can go on.

Where only the top layers of a prefix learn, those below keep the keys and values that they start as: PEFT's container has room
for all of them, and what enters the lowest learned layer is the same in every step, so that it is computed once.

Shapes: P virtual tokens, L layers, H heads of keys and values, d numbers of each, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from ctxtune.adapter.prefix import ROWS, Layout, encoder_config, prefix_config, vectors_config
from ctxtune.backend.attended import read_attended
from ctxtune.backend.prefix import (
    Prefix,
    as_rows,
    embedding_of,
    kept_prefix,
    not_going_on,
    read_prefix,
    read_vectors,
    require_going_on,
    sizes,
)
from ctxtune.backend.spoken import Spoken
from ctxtune.data.tokens import virtual_tokens
from ctxtune.errors import ModelError, RecipeError
from ctxtune.methods.motion import ENDLESS, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.prefix import Layers
    from ctxtune.backend.trunk import Trunk
    from ctxtune.recipe.schema import Prompt

LADDER = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_KEYS = 0.3
_BOTTLENECK = 64
_CONFIGS: dict[str, Callable[[Layout, str], dict[str, Any]]] = {  # of those that PEFT has
    "prefix": prefix_config, "input": vectors_config, "residual": vectors_config, "ptuning": encoder_config,
}  # fmt: skip


@dataclass
class Opened:
    """Virtual tokens of a model, learned from layer `start` on.

    `start_vectors` (P, D) are the embedded tokens that vectors begin as, None before that; `below` what the lower layers keep;
    `among` whether they began as those tokens at which questions look.
    """

    params: Mapping[str, nn.Parameter]
    layout: Layout
    kind: str
    start: int = 0
    ladder: Sequence[float] = LADDER
    regrow: None = None
    penalty: None = None
    start_vectors: Tensor | None = None
    below: Layers = field(default_factory=list)
    among: bool = False
    _known: tuple[list[Tensor], Prefix] | None = field(default=None, repr=False)
    _spoken: Spoken | None = field(default=None, repr=False)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Numbers that no tokenizer writes."""
        return virtual_tokens(self.layout.tokens)

    @property
    def suffix(self) -> int:
        """How many of them stand behind what is asked."""
        return self.layout.tokens if self.kind == "suffix" else 0

    @property
    def virtual(self) -> Opened:
        """The same."""
        return self

    def shares(self, step: int, epoch: int) -> dict[str, float]:
        """All of them move all the time."""
        return {name: _KEYS if name.startswith("keys") else 1.0 for name in self.params}

    def begin(self, trunk: Trunk, tokens: Sequence[int]) -> None:
        """Start as what the model makes of these tokens, one for each virtual one; with none, keys and values are 0.

        Raises:
            ModelError: keys and values of this model do not fit into PEFT's container.
        """
        self._open(trunk)
        if not tokens:
            return
        with torch.no_grad():
            if self.kind == "prefix":
                self._begin_layers(read_prefix(trunk, tokens, "off", "").layers)
            else:
                self._begin_vectors(embedding_of(trunk.base.model)(torch.tensor(tokens, device=trunk.base.device.name)))

    def begin_among(self, trunk: Trunk, tokens: Sequence[int], questions: Sequence[Sequence[int]]) -> None:
        """Start as those of more tokens at which questions look most; of a model that does not show this as the first of them.

        Raises:
            ModelError: as above.
        """
        self._open(trunk)
        layers = read_attended(trunk, tokens, questions, count := self.layout.tokens)
        if layers is None:
            self.begin(trunk, tokens[:count])
            return
        self.among = True
        with torch.no_grad():
            self._begin_layers(layers)

    def begin_as(self, trunk: Trunk, rows: Tensor) -> None:
        """Start as an earlier prompt, given as `tensors` holds it, a row for each virtual one.

        Raises:
            ModelError: as above.
        """
        self._open(trunk)
        with torch.no_grad():
            if self.kind == "prefix":
                self._begin_layers(kept_prefix(trunk, self.tokens, rows).layers)
            else:
                self._begin_vectors(rows)

    def _open(self, trunk: Trunk) -> None:
        require_going_on(trunk)
        self._known, self.among = None, False
        if self.suffix and self._spoken is None:
            self._spoken = Spoken(trunk.base.model, self.vectors)
            self._spoken.on()

    def _begin_vectors(self, vectors: Tensor) -> None:
        self.params["vectors"].copy_(vectors)
        self.start_vectors = self.params["vectors"].detach().clone()

    def _begin_layers(self, layers: Layers) -> None:
        self.below = layers[: self.start]
        for number, layer in enumerate(layers[self.start :], self.start):
            for name, part in zip(("keys", "values"), layer, strict=True):
                self._place(number, name, part)

    def _place(self, number: int, name: str, part: Tensor) -> None:
        param = self.params[f"{name}.{number}"]
        if part.shape != param.shape:
            found, told = (f"{one.shape[1]} x {one.shape[3]}" for one in (part, param))
            raise ModelError(
                f"layer {number} of the model keeps {found} numbers of a token, its configuration tells {told}",
                "--kind input",
            )
        param.copy_(part)

    def vectors(self) -> Tensor:
        """What stands in the place of embedded tokens (P, D)."""
        learned: Tensor = self.params["vectors"]
        begun = self.start_vectors
        if self.kind == "residual":
            normed = functional.layer_norm(learned, learned.shape[-1:])
            learned = learned + functional.relu(normed @ self.params["down"]) @ self.params["up"]
        if begun is None:
            return learned
        if self.kind == "ptuning":
            inner = functional.relu(functional.relu(learned @ self.params["down"]) @ self.params["middle"])
            learned = begun + inner @ self.params["up"]
        least = torch.finfo(learned.dtype).tiny  # a row of 0 stays one
        kept: Tensor = learned * (begun.norm(dim=1, keepdim=True) / learned.norm(dim=1, keepdim=True).clamp(min=least))
        return kept

    def prefix(self, trunk: Trunk) -> Prefix:
        """Keys and values as they are now; where no gradient is wanted, made once until something moves."""
        if torch.is_grad_enabled():
            return Prefix(self.tokens, self._layers(trunk), "learned")
        now = [param.detach() for param in self.params.values()]
        if self._known is None or not all(map(torch.equal, self._known[0], now)):
            self._known = [part.clone() for part in now], Prefix(self.tokens, self._layers(trunk), "learned")
        return self._known[1]

    def _layers(self, trunk: Trunk) -> Layers:
        dtype = trunk.base.device.dtype
        if self.kind != "prefix":
            return read_vectors(trunk, self.vectors().to(dtype))
        return [(keys.to(dtype), values.to(dtype)) for keys, values in self._pairs()]

    def _pairs(self) -> Layers:
        learned = range(self.start, self.layout.layers)
        return [*self.below, *((self.params[f"keys.{at}"], self.params[f"values.{at}"]) for at in learned)]

    def finish(self) -> bool:
        """Nothing: what made them is folded in when they are written."""
        return False

    def metadata(self) -> dict[str, str]:
        """The manifest says it all."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """PEFT's one tensor of either kind."""
        with torch.no_grad():
            return {ROWS: as_rows(self._pairs())[0] if self.kind == "prefix" else self.vectors().detach()}

    def config(self, base_name: str) -> dict[str, Any] | None:
        """PEFT's configuration; None of a suffix, which it does not have."""
        made = _CONFIGS.get(self.kind)
        return None if made is None else made(self.layout, base_name)


def open_method(settings: Prompt, model: nn.Module, anatomy: Anatomy, span: Span = ENDLESS) -> Opened:
    """Virtual tokens for a model, not begun yet.

    Raises:
        RecipeError: the model does not continue texts.
        ModelError: it is not known to go on from kept keys and values.
    """
    if anatomy.kind != "causal":
        raise RecipeError(
            f"method.name prompt: a {anatomy.family} model {anatomy.verb}, virtual tokens stand at texts that are continued",
            "take a causal model, or method.name freeze",
        )
    if anatomy.derived:
        raise not_going_on(anatomy)
    assert settings.tokens != "auto"  # settled by what they start from
    layers, heads, dim = sizes(model)
    embedding = embedding_of(model).weight
    wide = embedding.dtype if embedding.dtype is torch.float64 else torch.float32
    like, count, width = torch.empty(0, device=embedding.device, dtype=wide), settings.tokens, embedding.shape[1]
    if settings.kind == "prefix":
        start = layers - (settings.top or layers)
        if start < 0:
            raise RecipeError(f"method.top {settings.top}: the model has {layers} layers", f"--top {layers}, or fewer")
        shape = (1, heads, count, dim)
        names = [f"{name}.{at}" for at in range(start, layers) for name in ("keys", "values")]
        params = {name: nn.Parameter(like.new_zeros(shape)) for name in names}
        below = [(like.new_zeros(shape), like.new_zeros(shape))] * start  # until they begin
        return Opened(params, Layout(count, layers, heads, dim), settings.kind, start, below=below)
    params = {"vectors": nn.Parameter(like.new_zeros(count, width)), **_encoder(settings.kind, width, like, span.seed)}
    return Opened(params, Layout(count, layers, heads, width), settings.kind)


def _encoder(kind: str, width: int, like: Tensor, seed: int) -> dict[str, nn.Parameter]:
    """What re-parametrises vectors: the first matrices at random, as a linear layer begins, the last one 0."""
    if kind in ("input", "suffix"):
        return {}
    inner = _BOTTLENECK if kind == "residual" else width
    shapes = {"down": (width, inner), **({"middle": (width, width)} if kind == "ptuning" else {})}
    chance, found = torch.Generator().manual_seed(seed), {"up": nn.Parameter(like.new_zeros(inner, width))}
    for name, shape in shapes.items():
        drawn = (torch.rand(shape, generator=chance) * 2 - 1) / shape[0] ** 0.5
        found[name] = nn.Parameter(drawn.to(like.device, like.dtype))
    return found
