"""The story of baking: read the adapter -> what the model says behind it -> new words -> write a checkpoint -> check it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.adapter.prefix import CONTAINER, SUFFIX, layout_of, shown
from ctxtune.commands.heartbeat import heartbeat
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.spoken import Spoken
    from ctxtune.backend.trunk import Trunk

MOST_SHARE = 1e-6
MOST_DIFFERENCE = 1e-5
_TEXT = "Review: a fine film"
_EVERY = 8  # rows of a text: from one to the next whose whole distribution is compared


@dataclass(frozen=True)
class Baked:
    """The folder, the number of new words, the largest share that all of them have on the probe, and the largest difference of
    a log-probability of an old word; the last two by plain transformers from the folder, in float32. Words of a suffix stand
    `behind` a text."""

    folder: Path
    words: int
    share: float
    difference: float
    behind: bool


def check_bakeable(adapter: AdapterFile) -> None:
    """Refuse what cannot become words.

    Raises:
        AdapterError: it holds no vectors.
    """
    if shown(adapter) is None:
        raise AdapterError(
            f"{adapter.path} changes the model itself", "`ctxtune adapter merge` writes it into its base"
        )
    if adapter.container == CONTAINER:
        raise AdapterError(
            f"{adapter.path} holds keys and values, and no word of a vocabulary has those of its own",
            "learn vectors: ctxtune prompt --kind input, residual, ptuning or suffix",
        )
    layout_of(adapter)


def bake(
    adapter: AdapterFile, base_folder: Path, out: Path, dtype: str | None, say: Callable[[str], None] | None
) -> Baked:
    """Write the base with the adapter's vectors as words of its own, and a model card.

    Raises:
        AdapterError: the adapter holds no vectors, or the new words would be said.
        StorageError: `out` holds something, or there is no room.
    """
    from ctxtune.adapter.card import words_card
    from ctxtune.adapter.folder import CARD, require_new
    from ctxtune.adapter.keys import held_rows
    from ctxtune.adapter.merge import TYPES, check_type
    from ctxtune.backend.atomic import new_folder, write_text
    from ctxtune.backend.bake import add_words, write_baked
    from ctxtune.backend.load import load_base
    from ctxtune.backend.spoken import Spoken
    from ctxtune.backend.tokenizer import load_tokenizer
    from ctxtune.backend.trunk import Trunk

    check_type(dtype)
    require_new(out)
    vectors, behind = held_rows(adapter).float(), adapter.container == SUFFIX
    with heartbeat(say, "reading the probe with the vectors of the adapter"):
        base, plain = load_base(base_folder, "cpu", dtype="float32"), load_tokenizer(base_folder)
        said = _said(Trunk(base), Spoken(base.model, lambda: vectors), len(vectors), behind)
    with new_folder(out) as tmp:
        with heartbeat(say, f"writing {out}"):
            ids = add_words(base, vectors, said.states)
            write_baked(base, ids, tmp, TYPES[dtype or "float32"], behind)
        with heartbeat(say, "reading the probe with the words that were written"):
            share, difference = _compared(tmp, ids, said, plain, behind)
        exact = difference <= MOST_DIFFERENCE or dtype not in (None, "float32")
        if not (share <= MOST_SHARE and exact):  # what is not a number is neither
            raise AdapterError(
                f"{adapter.path} is not baked: new words have a share of {share:.1e}, old ones differ by {difference:.1e}",
                "use it with --adapter",
            )
        assert adapter.manifest is not None  # vectors without one are not known
        write_text(tmp / CARD, words_card(adapter.manifest, len(ids), behind, share, difference, dtype or "float32"))
    return Baked(out, len(ids), share, difference, behind)


@dataclass(frozen=True)
class _Said:
    """What the model says of the probe: texts, their final states (N, D), and log-probabilities (R, V) of some rows of each."""

    texts: list[tuple[int, ...]]
    states: Tensor
    logs: list[Tensor]


def _said(trunk: Trunk, spoken: Spoken, count: int, behind: bool) -> _Said:
    """What plain forwards say of the built-in probe, with so many virtual tokens before each text or in its middle."""
    import torch

    from ctxtune.commands.judge import builtin_probe
    from ctxtune.data.tokens import virtual_tokens

    texts = [one.ids for one in builtin_probe(trunk, count).examples]
    states, known = [], []
    spoken.on()
    with torch.no_grad():
        for text in texts:
            ids, first = _whole(text, virtual_tokens(count), behind)
            states.append(trunk.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0, first:])
            known.append(torch.log_softmax(trunk.logits(states[-1][::_EVERY]).float(), -1))
    spoken.off()
    return _Said(texts, torch.cat(states), known)


def _whole(text: Sequence[int], words: Sequence[int], behind: bool) -> tuple[list[int], int]:
    """A text with words before it, or in its middle, as where an answer follows them; and the first row that is looked at."""
    if not behind:
        return [*words, *text], len(words)
    half = (len(text) + 1) // 2
    return [*text[:half], *words, *text[half:]], 0


def _compared(folder: Path, ids: Sequence[int], said: _Said, tokenizer: Any, behind: bool) -> tuple[float, float]:
    """By plain transformers, from what was written: the largest share of the new words, and how far old ones have moved.

    Raises:
        AdapterError: the tokenizer that was written does not put the words where they belong at a text.
    """
    import torch

    from ctxtune.backend.load import load_base
    from ctxtune.data.prompt import encode_prompt

    base = load_base(folder, "cpu", dtype="float32")
    asked, written = encode_prompt(tokenizer, _TEXT, framed=behind), base.tokenizer(_TEXT)["input_ids"]
    if written != ([*asked, *ids] if behind else [*ids, *asked]):
        raise AdapterError("the tokenizer does not write the words at a text", "use the adapter with --adapter")
    share = difference = torch.zeros(())
    old = torch.ones(said.logs[0].shape[1], dtype=torch.bool)
    old[[one for one in ids if one < len(old)]] = False
    for text, before in zip(said.texts, said.logs, strict=True):
        whole, first = _whole(text, ids, behind)
        with torch.no_grad():
            logits = base.model(input_ids=torch.tensor([whole])).logits[0, first:]
        now = torch.log_softmax(logits, -1)
        share = torch.maximum(share, now[:, list(ids)].exp().sum(-1).max())
        difference = torch.maximum(difference, (now[::_EVERY, : len(old)] - before)[:, old].abs().max())
    return float(share), float(difference)
