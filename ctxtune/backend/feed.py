"""Examples in, logits of their answer rows out: from kept states where the part below the cut is frozen.

Shapes: B batch, T tokens, D width, N answer rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ctxtune.backend.apart import Mask, keep_apart
from ctxtune.backend.cache import States, keep_states, store_key
from ctxtune.backend.contexts import Contexts, keep_contexts
from ctxtune.backend.grouped import grouped
from ctxtune.backend.merged import Unmerged, attending_to, may_merge
from ctxtune.backend.prefix import going_on, rows_hash
from ctxtune.data.batch import micro_batches, padded
from ctxtune.data.branch import lines
from ctxtune.data.pack import alone, in_one_row, packed
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from ctxtune.backend.prefix import Prefix
    from ctxtune.backend.trunk import Trunk
    from ctxtune.data.batch import Padded
    from ctxtune.data.encode import Encoded
    from ctxtune.data.pack import Place

# Tokens of one forward pass: large enough for the matrix products, small enough for memory.
_TOKENS = 2048
# Where every token is an answer row, the logits are what fills the memory: rows x vocabulary.
ROWS = 128
# Tokens side by side in one row behind a prefix: each looks at all of them, so that a longer row costs more than it saves.
ROW = 256
# Far above the float32 noise of a deep model (1e-6 was seen), far below any real mistake.
_TOLERANCE = 1e-3


class Feed:
    """A list of examples that can be run through a trunk, whole or in parts.

    With `pack` the short ones of a part share rows of tokens. What is kept or scored is sorted by length as a whole and has
    less to save, 1.01 to 1.06 tokens for each that counts: states are kept of each example in a row of its own, so that runs
    share them, packed or not. Behind a `prefix`, which the examples go on from, all of a pass stand in one row, or, where the
    model's attention can be merged (merged.py) or gradients are wanted, each in its own. One that is learned is made anew,
    by `learned`, for each pass. Of examples with `suffix` virtual tokens in them what stands before these is kept.
    """

    def __init__(
        self, trunk: Trunk, examples: Sequence[Encoded], pack: bool = False, prefix: Prefix | None = None,
        learned: Callable[[], Prefix] | None = None, suffix: int = 0,
    ) -> None:  # fmt: skip
        self.trunk = trunk
        self.examples = examples
        self.suffix = suffix
        self.contexts: Contexts | None = None
        self.pack = pack and trunk.base.anatomy.apart is not None
        self.learned = learned
        self.prefix = prefix
        self.lengths = [len(example.ids) for example in examples]
        self.states: States | None = None
        self.device = str(next(trunk.base.model.parameters()).device)
        pad = getattr(trunk.base.tokenizer, "pad_token_id", None)
        self.pad = int(pad) if pad is not None else 0
        known = trunk.base.vocabulary
        most = max((token for example in examples for token in (*example.ids, *example.labels)), default=0)
        if most >= known:
            raise ModelError(
                f"the tokenizer writes token {most}, the model knows {known} tokens",
                "the folder's tokenizer belongs to another model",
            )

    def keep(self, where: str, fingerprint: str) -> States | None:
        """Run everything below the cut once and keep what it said.

        None where nothing lies below the cut, `where` is `off`, or neither disk nor memory has room.
        """
        trunk = self.trunk
        if self.suffix:
            name = partial(store_key, model=fingerprint, what="contexts", **trunk.base.computes())
            self.contexts = keep_contexts(
                trunk, self.examples, self.suffix, where, lambda texts: name(tokens=examples_hash(texts))
            )
            return self.contexts.states if self.contexts is not None else None
        if trunk.start == 0 or where == "off":
            return None
        behind = {} if self.prefix is None else {"behind": rows_hash(self.prefix.layers[: trunk.start])}
        key = store_key(
            model=fingerprint, layer=trunk.start, tokens=self.tokens_hash(), **behind, **trunk.base.computes()
        )
        width = trunk.base.width
        self.states = keep_states(key, self.lengths, width, where, self._fill)
        return self.states

    def keep_nothing(self) -> None:
        """Run every layer over every token from here on."""
        self.trunk.plain, self.states, self.contexts = True, None, None

    def tokens_hash(self) -> str:
        """What stands for the tokens of all examples, in their order."""
        return examples_hash(self.examples)

    def _fill(self, data: Tensor, offsets: Sequence[int]) -> None:
        for i, hidden in self.entering():
            data[offsets[i] : offsets[i + 1]] = hidden

    def entering(self) -> Iterator[tuple[int, Tensor]]:
        """Each example with what enters the trunk's first block of it (T, D); nothing above is run."""
        order = sorted(range(len(self.examples)), key=lambda i: (-self.lengths[i], i))
        for part in micro_batches(order, self.lengths, rows=None, max_tokens=self.trunk.base.device.stride):
            whole = self._padded(part)
            hidden = self.trunk.enter(*self._read(whole), self.prefix).cpu()
            for b, i in enumerate(part):
                yield i, hidden[b, : self.lengths[i]]

    def parts(self, indices: Sequence[int], rows: int | None = None) -> list[list[int]]:
        """Cut a batch into what one pass takes, forward alone where no gradients are kept; or into parts of `rows` examples."""
        most, lengths = _TOKENS, self.lengths
        if torch.is_grad_enabled():  # the logits of all answer rows are kept for the backward pass
            answer_rows = sum(len(self.examples[i].rows) for i in indices)
            if self.prefix is not None:  # each row has its copy of the keys and values
                lengths = [length + len(self.prefix.tokens) for length in lengths]
            tokens = sum(lengths[i] for i in indices)
            most = max(1, min(most, ROWS * tokens // max(1, answer_rows)))
        return micro_batches(indices, lengths, rows=rows, max_tokens=most)

    def hidden(self, part: Sequence[int]) -> Tensor:
        """A forward pass over a few examples: the final states of their answer rows (N, D), before the head."""
        if self.learned is not None:
            self.prefix = self.learned()
        if torch.is_grad_enabled():
            return self._pass(part)
        return torch.cat([self._pass(some) for some in self._strides(part)])

    def _strides(self, part: Sequence[int]) -> Iterator[Sequence[int]]:
        """The part in runs of examples, in its order, each of about a stride of tokens, or, side by side, a shorter one."""
        most = ROW if self._side_by_side else self.trunk.base.device.stride
        begin, longest, total = 0, 0, 0
        for end, i in enumerate(part):
            longest, total = max(longest, self.lengths[i]), total + self.lengths[i]
            if end > begin and (total if self._side_by_side else longest * (end + 1 - begin)) > most:
                yield part[begin:end]
                begin, longest, total = end, self.lengths[i], self.lengths[i]
        yield part[begin:]

    @cached_property
    def _side_by_side(self) -> bool:
        """Whether examples behind a prefix have to share a row: attention to it cannot be merged here, or not exactly."""
        if self.prefix is None or not may_merge(self.trunk.base, self.prefix, max(self.lengths)):
            return self.prefix is not None
        if self.prefix.merges is None:  # once for all questions behind it, however few are asked at a time
            self.prefix.merges = self._merges()
        return not self.prefix.merges

    def _merges(self) -> bool:
        """Whether the two shortest examples say the same either way."""
        few = sorted(range(len(self.examples)), key=lambda i: self.lengths[i])[:2]
        try:
            off = difference(self._rows(few, False), self._rows(few, True))
        except Unmerged:
            return False
        return is_exact(off, self.trunk.base.device.dtype)

    def _pass(self, part: Sequence[int]) -> Tensor:
        return self._rows(part, not torch.is_grad_enabled() and self._side_by_side)

    def _rows(self, part: Sequence[int], side_by_side: bool) -> Tensor:
        """The final states of a part's answer rows (N, D)."""
        if self.contexts is not None:
            return self._tails(part, self.contexts)
        merged = self.prefix is not None and not side_by_side and not torch.is_grad_enabled()
        whole = self._padded(part, in_one_row if side_by_side else packed if self.pack else alone)
        ids, mask, positions = self._read(whole, merged)
        states = self.states.batch(part, whole.places, self.device) if self.states is not None else None
        if states is not None and self.trunk.base.device.narrow:  # kept as float32, which holds them exactly
            states = states.to(self.trunk.base.device.dtype)
        b, t = self._moved(whole.row, whole.position)
        if merged:
            with attending_to(cast("Prefix", self.prefix)):
                return self.trunk.rows(ids, mask, b, t, states, positions)
        with grouped():
            return self.trunk.rows(ids, mask, b, t, states, positions, self.prefix)

    def _tails(self, part: Sequence[int], contexts: Contexts) -> Tensor:
        """The same, where all that stands before the virtual tokens was read."""
        whole = padded([contexts.tails[i] for i in part], self.pad)
        ids, order, end, b, t = self._moved(whole.ids, whole.order, whole.end, whole.row, whole.position)
        read = [contexts.lengths[i] for i in part]
        mask, positions = keep_apart(self.trunk.base, ids, order, end, whole.branched, read)
        with grouped():
            return self.trunk.rows(ids, mask, b, t, None, positions, contexts.before(part))

    def _read(self, whole: Padded, merged: bool = False) -> tuple[Tensor, Mask, Tensor | None]:
        """What a model is told of a part: tokens (B, T), mask, and positions (B, T) where it would get them wrong."""
        ids, mask, order, end = self._moved(whole.ids, whole.mask, whole.order, whole.end)
        before = len(self.prefix.tokens) if self.prefix is not None else 0
        if merged:  # the mask is that of the examples' own tokens
            mask, positions = keep_apart(self.trunk.base, ids, order, end, branched=True)
            return ids, mask, positions + before
        if whole.shared or self.prefix is not None:
            return ids, *keep_apart(self.trunk.base, ids, order, end, whole.branched, before)
        # Padded on the right, no token of a causal model sees a pad: without a mask attention takes its fastest path.
        return ids, None if self.trunk.causal else mask, None

    def labels(self, part: Sequence[int]) -> Tensor:
        """The tokens at the answer rows of a part, (N,)."""
        return torch.tensor([label for i in part for label in self.examples[i].labels], device=self.device)

    def logits_in_chunks(self, part: Sequence[int]) -> Iterator[tuple[Tensor, slice]]:
        """The logits of a part's answer rows, float32 at least, some hundred rows (C, V) at a time, and which rows they are."""
        hidden = self.hidden(part)
        for first in range(0, len(hidden), ROWS):
            chunk = hidden[first : first + ROWS]
            logits = self.trunk.logits(chunk)
            yield logits.to(torch.promote_types(logits.dtype, torch.float32)), slice(first, first + len(chunk))

    def tensors(self, part: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens and mask (B, T) of a part, padded at the right; and which row and place each answer row has, (N,) each."""
        whole = self._padded(part)
        ids, mask, b, t = self._moved(whole.ids, whole.mask, whole.row, whole.position)
        return ids, mask, b, t

    def _padded(self, part: Sequence[int], placed: Callable[[Sequence[int]], list[Place]] = alone) -> Padded:
        return padded([self.examples[i] for i in part], self.pad, placed)

    def _moved(self, *arrays: NDArray[np.int64]) -> list[Tensor]:
        return [torch.from_numpy(array).to(self.device) for array in arrays]


def examples_hash(examples: Sequence[Encoded], asked: bool = False) -> str:
    """What stands for the tokens of examples, in their order; and, if `asked`, for what is asked of them."""
    digest = hashlib.sha256()
    for example in examples:
        told = (len(example.ids), *example.ids, *example.parents)
        told += (len(example.rows), *example.rows, *example.labels) if asked else ()
        digest.update(np.asarray(told, dtype=np.int64).tobytes())
    return digest.hexdigest()


def check_kept(feed: Feed) -> float:
    """The largest difference between final states from kept states and from the model's own plain forward.

    Looked at are the longest example, the shortest two and two from the middle, together in one batch, padded or packed, of
    trees two branches.
    Scale-free: the difference is divided by the largest number.
    """
    order = sorted(range(len(feed.examples)), key=lambda i: feed.lengths[i])
    part = sorted({*order[:2], order[len(order) // 3], order[2 * len(order) // 3], order[-1]})
    with torch.no_grad():
        alone, rows = lines([feed.examples[i] for i in part])
        kept = feed.hidden(part)[rows]
        plain = plain_hidden(Feed(feed.trunk, alone, prefix=feed.prefix), range(len(alone)))
    return difference(kept, plain)


def difference(found: Tensor, true: Tensor) -> float:
    """The largest difference between states, as a share of the largest number."""
    return float((found - true).abs().max() / true.abs().max().clamp(min=1e-6))


def unpackable(feed: Feed) -> str | None:
    """Why examples may not share rows, in words; None where that is the same as giving each its own."""
    base = feed.trunk.base
    if feed.prefix is not None or feed.suffix:
        return "virtual tokens stand at each example"
    if base.anatomy.apart is None:
        return f"what keeps examples apart is not known of family {base.anatomy.family!r}"
    off = check_kept(feed)
    return None if is_exact(off, base.device.dtype) else f"packed rows differ from the model by {off:.1e}"


def plain_hidden(feed: Feed, part: Sequence[int]) -> Tensor:
    """The answer rows' final states (N, D) by the model's own forward, nothing left out. The trunk is closed meanwhile."""
    ids, mask, b, t = feed.tensors(part)
    options: dict[str, Any] = {"attention_mask": mask}
    if feed.prefix is not None:
        options = going_on(feed.trunk, feed.prefix, mask)
    with feed.trunk.closed():
        hidden: Tensor = feed.trunk.backbone(input_ids=ids, **options).last_hidden_state
    return hidden[b, t]


def is_exact(off: float, dtype: torch.dtype = torch.float32) -> bool:
    """Whether kept states may be used: splitting sums differently moves states of the type by less than this."""
    return off <= max(_TOLERANCE, 4 * torch.finfo(dtype).eps)
