"""A model whose parts were found by structure says through a trunk what it says by itself, or it is refused.

Three texts of random tokens are read one by one by the model's own plain forward, then together, padded, through trunks
that start at the first block, in the middle and behind the last one. Compared are logits: with them a scale or a cap
behind the head, a norm without numbers and states that pass the blocks by are seen, whatever the structure promised.

And a causal model must be one: what stands behind a token changes nothing there, else answers would be read before they
are written. Whether it can go on from keys and values that were kept is a question of its own: without that it can be
trained and scored, but writes nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ctxtune.backend.anatomy import unsupported
from ctxtune.backend.feed import is_exact
from ctxtune.backend.library import one_line
from ctxtune.backend.past import Past
from ctxtune.backend.trunk import Trunk

if TYPE_CHECKING:
    from torch import Tensor

    from ctxtune.backend.load import Base

_LENGTHS = (12, 7, 4)
_ROWS = ((0, 2), (0, 3), (0, 11), (1, 0), (1, 6), (2, 1), (2, 3))
"""(text, token) of the logits that are compared"""
_UNSEEN = 1e-5
"""of the largest logit: the same products in the same order, but for what attention leaves out"""


def check_structure(base: Base) -> float:
    """The largest difference between logits of the trunk and of the model's own forward, by the largest logit.

    Raises:
        ModelError: it is too large, or the model cannot be run in parts.
    """
    family = base.anatomy.family
    with torch.no_grad():
        try:
            texts = _texts(base)
            alone = [_plain(base, text) for text in texts]
            seen = _seen_ahead(base, texts[0], alone[0]) if base.anatomy.kind == "causal" else 0.0
            difference = _difference(base, texts, alone)
        except MemoryError:
            raise
        except Exception as error:  # another library's code, called in a way that nobody has tried before
            raise unsupported(family, f"found by structure, it cannot be run in parts: {one_line(error)}") from error
    if not seen <= _UNSEEN:
        raise unsupported(family, f"what stands behind a token changes its logits, by {seen:.1e} of the largest")
    if not is_exact(difference, base.device.dtype):
        raise unsupported(
            family, f"found by structure, it says in parts what differs from the whole by {difference:.1e}"
        )
    return difference


def check_going_on(base: Base) -> float:
    """The largest difference between logits of two texts read in three steps and of the same texts read whole, as above.

    Infinite where the model's cache is of another kind.
    """
    texts = _texts(base)[:2]
    past, said = Past(base), []
    with torch.no_grad():
        try:
            for begin, end in ((0, -2), (-2, -1), (-1, None)):
                said.append(past.read([text[begin:end].tolist() for text in texts]))
        except MemoryError:
            raise
        except Exception:  # another library's code: anything may come of a cache that it does not know
            return math.inf
        expected = torch.stack([_plain(base, text)[-len(said) :] for text in texts], dim=1)
    return _share(torch.stack(said) - expected, expected)


def _texts(base: Base) -> list[Tensor]:
    """Token ids (T) of three texts, none of them a pad."""
    generator = torch.Generator().manual_seed(0)
    pad = getattr(base.tokenizer, "pad_token_id", None)
    known = torch.tensor([token for token in range(min(base.vocabulary, 5000)) if token != pad])
    draws = [known[torch.randint(len(known), (length,), generator=generator)] for length in _LENGTHS]
    return [ids.to(base.device.name) for ids in draws]


def _plain(base: Base, ids: Tensor) -> Tensor:
    """The model's own logits of one text (T): (T, V)."""
    logits: Tensor = base.model(input_ids=ids[None], attention_mask=torch.ones_like(ids[None])).logits[0]
    return logits


def _seen_ahead(base: Base, ids: Tensor, alone: Tensor) -> float:
    """How far the logits of a text move when its last token is another one."""
    other = ids.clone()
    other[-1] = ids[0] if ids[0] != ids[-1] else ids[ids != ids[-1]][0]
    return _share((_plain(base, other) - alone)[:-1], alone)


def _share(difference: Tensor, whole: Tensor) -> float:
    return float(difference.abs().max() / whole.abs().max().clamp(min=1e-6))


def _difference(base: Base, texts: list[Tensor], alone: list[Tensor]) -> float:
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    mask = (torch.arange(ids.shape[1]) < torch.tensor(_LENGTHS)[:, None]).long().to(ids.device)
    b, t = torch.tensor(_ROWS, device=ids.device).unbind(1)
    expected = torch.stack([alone[text][token] for text, token in _ROWS])
    needed = None if base.anatomy.kind == "causal" else mask
    depth = len(base.anatomy.block_list(base.model))
    found = []
    for start in sorted({0, depth // 2, depth}):
        with Trunk(base, start) as trunk:
            states = trunk.enter(ids, needed) if start else None
            found.append(trunk.logits(trunk.rows(ids, needed, b, t, states)) - expected)
    return _share(torch.stack(found), expected)
