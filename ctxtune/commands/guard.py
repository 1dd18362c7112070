"""What holds a run back: the text that a forgetting budget is trained on, what the base says of it, and whether the budget was
kept; the same text tells what the base minds, where changes cost that (EWC)."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.commands.lesson import choosing
from ctxtune.errors import DataError, RecipeError
from ctxtune.recipe.mask import AUTO, Mask
from ctxtune.recipe.schema import Prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.feed import Feed
    from ctxtune.backend.trunk import Trunk
    from ctxtune.data.encode import Encoded, EncodedSet
    from ctxtune.engine.loop import State
    from ctxtune.evals.forgetting import BaseProbe
    from ctxtune.methods.registry import Method, Virtual
    from ctxtune.objectives.guard import Guard
    from ctxtune.recipe.schema import Method as Settings
    from ctxtune.recipe.schema import Recipe

LEAST_SHARE = 1 / 1024  # of the way: there KL is a millionth, about
SHARE = 0.125  # of a batch's tokens that a step of the guard reads beside it, about


@dataclass(frozen=True)
class Guarded:
    """What holds the budget in the loop; its text in rows as long as the probe's, and what the base said of these, for a KL
    that compares with that of the probe: of a short row every token has little before it, and more of it is forgotten. `start`
    is what is learned before the first step, where that is not 0."""

    guard: Guard
    whole: Feed
    base: BaseProbe
    tokens_a_step: int
    start: Mapping[str, Tensor]

    def step_back(self, method: Method, say: Callable[[str], None]) -> tuple[float, float]:
        """Where the last step lies above the budget on the text, take that share of the way from the start that lies within;
        returns the share, and the KL there. The share of the lowest KL, if none that was tried does: what a prompt starts from
        may lie above itself.

        KL grows about with the square of the way (its second-order term: Schulman et al. 2015, "Trust Region Policy
        Optimization", appendix C), so that few shares are tried. This is the interpolation of WiSE-FT (adapter/scale.py).
        """
        share, kl = 1.0, self.kl()
        if kl <= self.guard.budget:
            return share, kl
        ends, tried = {name: param.detach().clone() for name, param in method.params.items()}, [(kl, share)]
        while not kl <= self.guard.budget and share > LEAST_SHARE:
            share *= min(0.95, max(0.5, math.sqrt(self.guard.aim / kl))) if math.isfinite(kl) else 0.5
            self._place(method, ends, share)
            tried.append((kl := self.kl(), share))
        least, best = min((one for one in tried if not math.isnan(one[0])), default=tried[-1])
        if best != share:
            self._place(method, ends, best)
        if best < 1:
            say(
                f"forget.budget {self.guard.budget:g}: {best:.2g} of the way from the start is taken, all of it is too far"
            )
        return best, least

    def _place(self, method: Method, ends: Mapping[str, Tensor], share: float) -> None:
        import torch

        with torch.no_grad():
            for name, param in method.params.items():
                start = self.start.get(name)
                param.copy_(ends[name] * share if start is None else torch.lerp(start, ends[name], share))
        method.finish()

    def kl(self) -> float:
        """KL(base || tuned) on the text now, nats a token."""
        from ctxtune.evals.forgetting import drift

        return drift(self.whole, self.base).kl

    def facts(
        self, state: State, share: float, kl: float, after: Mapping[str, Any], say: Callable[[str], None]
    ) -> dict[str, Any]:
        """What a result tells of it: the weight of the KL at the end, the share of the way that was taken, and the KL there, on
        the text and on the probe; `say` is told if the latter is more than the budget."""
        guard, probe = self.guard, after["forgetting"]["kl"]
        if not probe <= guard.budget:
            say(
                f"forget.budget {guard.budget:g} was not kept: KL(base || tuned) is {probe:.4f} nats a token on the probe, "
                f"{kl:.4f} on the text that it was trained on; take more steps, or a smaller --lr"
            )
        facts = {
            "budget": guard.budget,
            "tokens_a_step": self.tokens_a_step,
            "weight": state.guard_weight,
            "share": share,
        }
        return {"guard": {**facts, "kl": kl, "probe_kl": probe, "kept": probe <= guard.budget}}


def ranked(scores: Mapping[str, float], guarded: Guarded | None) -> Mapping[str, float]:
    """The scores with what chooses the best step: the loss, and beside a guard first of all its KL."""
    beside = {"guard_kl": guarded.kl()} if guarded is not None else {}
    return {**choosing(scores), **beside}


def check_guarded(recipe: Recipe, anatomy: Anatomy) -> None:
    """Refuse a budget where there is nothing to hold.

    Raises:
        RecipeError: nothing of a running text can change, or be compared.
    """
    budget, method = recipe.forget.budget, recipe.method
    if anatomy.kind == "classifier" and (asked := _minds(method)):
        raise RecipeError(
            f"method.{asked}: an encoder without the head that fills a mask says nothing of a text that the base could mind",
            "--l2 in place of --ewc" if asked == "ewc" else "--select random",
        )
    if budget is None:
        return
    if anatomy.kind == "classifier":
        raise RecipeError(
            f"forget.budget {budget:g}: an encoder without the head that fills a mask predicts nothing to compare",
            "leave it out",
        )
    if isinstance(method, Prompt) and method.kind == "suffix":
        raise RecipeError(
            f"forget.budget {budget:g}: a suffix stands behind a question alone, what is said of other texts stays as it was",
            "leave it out, or another --kind",
        )


def _minds(method: Settings) -> str | None:
    """What asks for what the base minds of `forget.text`."""
    if not isinstance(method, Mask):
        return None
    if method.select == "contrast":
        return "select contrast"
    return "ewc" if method.ewc not in (AUTO, 0) else None


def minded_text(trunk: Trunk, recipe: Recipe, text: str, guarded: Guarded | None, mark: str) -> Feed:
    """That text as examples of a model: those of a budget, where there is one."""
    from ctxtune.backend.feed import Feed

    if guarded is not None:
        return guarded.whole
    _, whole = guard_rows(text, trunk.base.tokenizer, trunk.base.anatomy, trunk.base.max_length)
    feed = Feed(trunk, whole)
    feed.keep("off" if trunk.plain else recipe.cache, mark)
    return feed


def guard_rows(text: str, tokenizer: Any, anatomy: Anatomy, context: int) -> tuple[list[Encoded], list[Encoded]]:
    """The text as short examples that steps read, and as long ones that are measured, for a model that reads so many tokens.

    The short ones are shuffled: a run of a few steps sees something of all of it.

    Raises:
        DataError: there is nothing to predict.
    """
    from ctxtune.evals.forgetting import guard_examples, probe_examples

    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    asked = (ids, anatomy.kind, getattr(tokenizer, "mask_token_id", None), context)
    short, whole = guard_examples(*asked), probe_examples(*asked)
    if not short:
        raise DataError("forget.text: a text of one token leaves nothing to predict", "name a longer text")
    random.Random(0).shuffle(short)
    return short, whole


def rows_a_step(guard: Sequence[Encoded], learned: EncodedSet, batch: int) -> int:
    """How many of its rows a step reads: about a share of the tokens that a batch of what is learned has, one at least."""
    tokens = batch * learned.tokens / len(learned.examples)
    return max(1, min(len(guard), round(SHARE * tokens / _mean_tokens(guard))))


def tokens_a_step(guard: Sequence[Encoded], learned: EncodedSet, batch: int) -> int:
    """How many tokens these have."""
    return round(rows_a_step(guard, learned, batch) * _mean_tokens(guard))


def _mean_tokens(guard: Sequence[Encoded]) -> float:
    return sum(len(one.ids) for one in guard) / len(guard)


def open_guard(trunk: Trunk, method: Method, recipe: Recipe, text: str, learned: EncodedSet, mark: str) -> Guarded:
    """Read what the base says of the text, before anything moves; virtual tokens will stand before it."""
    from ctxtune.objectives.guard import Guard, read_buckets

    budget = recipe.forget.budget
    assert budget is not None
    base = trunk.base
    before = len(method.virtual.tokens) if method.virtual is not None else 0
    short, whole = guard_rows(text, base.tokenizer, base.anatomy, base.max_length - before)
    where = "off" if trunk.plain else recipe.cache
    pulled, measured = (_told(trunk, method.virtual, rows, where, mark) for rows in (short, whole))
    batch = recipe.train.batch
    guard = Guard(pulled[0], read_buckets(trunk, pulled[1].hidden), budget, rows_a_step(short, learned, batch))
    start = {name: param.detach().clone() for name, param in method.params.items() if param.any()}
    return Guarded(guard, *measured, tokens_a_step(short, learned, batch), start)


def _told(
    trunk: Trunk, virtual: Virtual | None, examples: Sequence[Encoded], where: str, mark: str
) -> tuple[Feed, BaseProbe]:
    """Examples behind the virtual tokens that are learned, where there are any, and what the base alone says of them."""
    from ctxtune.backend.feed import Feed
    from ctxtune.commands.begin import learned_feed
    from ctxtune.evals.forgetting import read_base

    feed = Feed(trunk, examples)
    if virtual is None:
        feed.keep(where, mark)
    said = read_base(feed)
    if virtual is not None:
        feed = learned_feed(trunk, virtual, examples)
        feed.keep(where, mark)
    return feed, said
