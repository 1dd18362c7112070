"""The decoding loop: continue prompts token by token, many at once or one that is streamed.

Equal to transformers' greedy `generate`, which cannot go on from what was read before, drop a text from the batch when it
is done, draw for every text from its own generator, or hand out whole characters as they come. Of what the model's
folder says about generating only the tokens that end a text are used; everything else is asked for or off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from ctxtune.backend.branches import Branches
from ctxtune.backend.feed import is_exact
from ctxtune.backend.past import Past
from ctxtune.backend.ranks import now_sharing
from ctxtune.backend.sample import Sampler, Seeds
from ctxtune.data.batch import micro_batches
from ctxtune.data.speech import Speech
from ctxtune.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ctxtune.backend.load import Base
    from ctxtune.backend.prefix import Prefix
    from ctxtune.backend.trunk import Trunk
    from ctxtune.recipe.written import Generation

MOST_COLUMNS = 2048  # side by side behind a prefix: each token looks at all of them
MOST_TOKENS = 8192  # in one batch, prompts and answers together: what their keys and values take in memory

Reason = Literal["stop", "eos", "length", "context"]


@dataclass(frozen=True)
class Written:
    """What a model wrote: `text` without a stop string and without special tokens; every token, the last one included.

    `reason`: a stop string, the end-of-text token, as many tokens as were asked for, or as the model's context holds."""

    text: str
    tokens: tuple[int, ...]
    reason: Reason


def generate_batch(
    base: Base, prompts: Sequence[Sequence[int]], settings: Generation, seeds: Seeds | None = None,
    behind: tuple[Trunk, Prefix] | None = None,
) -> list[Written]:  # fmt: skip
    """Continue every prompt (its token ids); results in the order of the prompts, as if each were alone. Shared out to all
    processes where that is on (ranks.py).

    Prompts of like lengths run together, the longest first. A `Seeds` carries on the count of equal prompts from call to call.
    Where all of them begin with a prefix that was read, they go on from there, `behind` it.

    Raises:
        DataError: a prompt is empty or leaves no room in the context.
        ModelError: the base is no causal model, or a token is none of the model's.
    """
    require_causal(base)
    ends, draw_seed = end_tokens(base, settings), seeds or Seeds(settings.seed)
    rows = [Row(base, prompt, settings, ends, draw_seed(prompt)) for prompt in prompts]
    shared = len(behind[1].tokens) if behind is not None else 0
    lengths = [row.longest - shared for row in rows]
    most = MOST_TOKENS if behind is None else MOST_COLUMNS
    ranks = now_sharing()
    own = ranks.share(range(len(rows)))
    for piece in micro_batches(own, lengths, rows=None, max_tokens=most):
        past = Past(base) if behind is None else Branches(*behind)
        for _ in decode([rows[index] for index in piece], past, settings):
            pass
    return ranks.gathered([rows[index].written() for index in own])


def stream(
    base: Base, prompt: Sequence[int], settings: Generation, seeds: Seeds | None = None, past: Past | None = None
) -> Generator[str, None, Written]:
    """Continue one prompt; yields its text piece by piece, whole characters only, and returns the result.

    `past` holds what was read of an earlier text: the beginning that both share is not read again.

    Raises:
        DataError, ModelError: as in `generate_batch`.
    """
    require_causal(base)
    draw_seed = seeds or Seeds(settings.seed)
    row = Row(base, prompt, settings, end_tokens(base, settings), draw_seed(prompt))
    for _ in decode([row], past or Past(base), settings):
        if row.fresh:
            yield row.fresh
    return row.written()


def end_tokens(base: Base, settings: Generation) -> dict[int, Reason]:
    """The tokens that end a text: the folder's, the tokenizer's, and special tokens that were given as stop strings."""
    ends: dict[int, Reason] = {}
    for source in (base.model.generation_config, base.model.config, base.tokenizer):
        told = getattr(source, "eos_token_id", None)
        ends |= dict.fromkeys(told if isinstance(told, list | tuple) else [] if told is None else [told], "eos")
    special = {str(token): number for number, token in base.tokenizer.added_tokens_decoder.items() if token.special}
    return ends | {special[stop]: "stop" for stop in settings.stop if stop in special and special[stop] not in ends}


class Row:
    """One text that grows: the tokens so far, what they spell, and whether it has ended."""

    def __init__(
        self, base: Base, prompt: Sequence[int], settings: Generation, ends: dict[int, Reason], seed: int
    ) -> None:
        check_prompt(base, prompt)
        self.history = list(prompt)
        self.fresh = ""
        self.reason: Reason | None = None
        self.generator = torch.Generator().manual_seed(seed)
        self.longest = min(len(prompt) + settings.max_tokens, base.max_length)
        self._most: Reason = "length" if self.longest == len(prompt) + settings.max_tokens else "context"
        self._prompt = len(prompt)
        self._ends = ends
        self._speech = Speech(
            lambda tokens: base.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            settings.stop,
        )

    def take(self, token: int) -> None:
        """One more token; `fresh` is what it adds to the text."""
        self.history.append(token)
        self.reason = self._ends.get(token)
        self.fresh = "" if self.reason else self._speech.push(token)
        if self._speech.stopped:
            self.reason = "stop"
        elif self.reason is None and len(self.history) == self.longest:
            self.reason = self._most
        if self.reason:
            self.fresh += self._speech.close()
            # The rest of the text may complete a stop string that had been waiting for the end of a character.
            self.reason = "stop" if self._speech.stopped else self.reason

    def written(self) -> Written:
        """The result; a text that was broken off is as long as it got."""
        return Written(self._speech.text, tuple(self.history[self._prompt :]), self.reason or "length")


def decode(rows: Sequence[Row], past: Past | Branches, settings: Generation) -> Generator[None, None, None]:
    """Let every row grow to its end, by a token a turn; pauses after each. Rows that have ended leave the batch."""
    sampler, live = Sampler(settings), list(rows)
    unread = past.unread([row.history for row in live])
    while True:
        logits = past.read(unread)
        tokens = sampler(logits, [row.history for row in live], [row.generator for row in live])
        for row, token in zip(live, tokens, strict=True):
            row.take(token)
        yield
        kept = [at for at, row in enumerate(live) if row.reason is None]
        if not kept:
            return
        if len(kept) < len(live):
            past.select(kept)
            live = [live[at] for at in kept]
        unread = [row.history[-1:] for row in live]


def require_causal(base: Base) -> None:
    """Refuse a model that cannot continue a text.

    Raises:
        ModelError: it is an encoder, or cannot go on from what it has read.
    """
    family = base.anatomy.family
    if base.anatomy.kind != "causal":
        raise ModelError(f"a {family} model {base.anatomy.verb}, it does not continue a text", "choose a causal model")
    if base.going_on is not None and not is_exact(base.going_on):
        raise ModelError(
            f"a {family} model, found by structure, says something else when it goes on from keys and values that were kept "
            f"(difference {base.going_on:.1e} of the largest logit)",
            "it can be trained and scored by choices; to write, take a model of another family",
        )


def check_prompt(base: Base, prompt: Sequence[int], where: str = "the prompt") -> None:
    """Whether this model can continue these tokens; `where` is what an error calls them.

    Raises:
        DataError, ModelError: it cannot.
    """
    if max(prompt, default=-1) < 0:  # virtual tokens are no text
        raise DataError(f"{where} is empty")
    if max(prompt) >= base.vocabulary:
        raise ModelError(
            f"{where}: the tokenizer writes token {max(prompt)}, the model knows {base.vocabulary} tokens",
            "the folder's tokenizer belongs to another model",
        )
    if len(prompt) >= base.max_length:
        raise DataError(f"{where} has {len(prompt)} tokens, the model reads {base.max_length}")
