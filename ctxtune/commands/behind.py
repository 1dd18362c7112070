"""Rows and prompts behind an adapter's demonstrations: they go on from the keys and values that it holds.

The whole text is made into tokens, and those that the adapter holds are not read again: exact or not at all. Where a text
begins with other tokens, because its demonstrations merge with it or because it was cut, it is read as a whole, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ctxtune.adapter.prefix import SUFFIX, shown
from ctxtune.commands.asking import answers_end
from ctxtune.commands.prepare import to_score
from ctxtune.commands.written import written_scores
from ctxtune.data.encode import EncodeSpec
from ctxtune.data.prompt import encode_prompt, encode_question
from ctxtune.data.windows import TextSpec
from ctxtune.errors import AdapterError, DataError, RecipeError
from ctxtune.methods.fewshot import shots_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctxtune.adapter.manifest import Shown
    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.decode import Written
    from ctxtune.backend.load import Base
    from ctxtune.backend.past import Past
    from ctxtune.backend.prefix import Prefix
    from ctxtune.backend.sample import Seeds
    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands.prepare import Source, Spec
    from ctxtune.data.encode import Encoded
    from ctxtune.evals.items import Item
    from ctxtune.recipe.schema import Recipe
    from ctxtune.recipe.written import Generation


@dataclass
class Context:
    """The demonstrations of an adapter, as its model has read them; `apart` counts the texts that did not go on from them.

    Of a suffix there is nothing to go on from: its virtual tokens stand behind what is asked.
    """

    shown: Shown
    trunk: Trunk
    prefix: Prefix | None
    apart: int = 0

    def chosen(self, rows: Source, spec: EncodeSpec) -> tuple[dict[str, float], list[Item]]:
        """Rows by the likelihood of their choices, or of their answers: scores and items."""
        from ctxtune.commands.judge import Judge
        from ctxtune.evals.choice import Requests

        choices, end = to_score(rows.rows, spec), int(spec.choices is None)
        if not choices.requests:
            raise DataError("all eval rows were too long and dropped", "raise data.max_length")
        near, far = choices.parted(self._go_on)
        self.apart += len(far.requests)
        found: dict[int, Item] = {}
        with self.trunk as trunk:
            for some, prefix in ((near, self.prefix), (far, None)):
                if some.requests:
                    items = Judge(some, Requests(trunk, some.requests, prefix), None, end).items()
                    found |= {id(row): item for row, item in zip(some.row_of, items, strict=True)}
        items = [self._calibrated(found[id(row)], spec) for row in choices.row_of]
        cut = {"dropped": choices.dropped, "truncated": choices.truncated}
        return {**Judge(choices, None, None, end).total(items), **cut}, items

    def read(self, rows: Source, spec: TextSpec) -> tuple[dict[str, float], list[Item]]:
        """Running text behind the virtual tokens: scores and items.

        Raises:
            RecipeError: there are none that stand before it, or too many.
        """
        from ctxtune.commands.judge import Judge, TextSize
        from ctxtune.evals.choice import Requests

        if self.prefix is None or not self.shown.virtual:
            raise RecipeError(
                "a running text does not stand behind what an adapter holds", "score rows: --prompt, --answer"
            )
        choices = to_score(rows.rows, spec.behind(self.shown.virtual))
        with self.trunk as trunk:
            judge = Judge(choices, Requests(trunk, choices.requests, self.prefix), None, text=TextSize.of(rows, spec))
            items = judge.items()
        return judge.total(items), items

    def write(
        self, prompts: Sequence[Sequence[int]], settings: Generation, seeds: Seeds | None = None
    ) -> list[Written]:
        """Continue prompts, given as the tokens of whole texts."""
        from ctxtune.backend.decode import generate_batch

        near = [place for place, ids in enumerate(prompts) if self._begins(ids)]
        far = sorted(set(range(len(prompts))).difference(near))
        self.apart += len(far)
        found: dict[int, Written] = {}
        read = (self.trunk, self.prefix) if self.prefix is not None else None
        for places, behind in ((near, read), (far, None)):
            written = generate_batch(self.trunk.base, [prompts[place] for place in places], settings, seeds, behind)
            found |= zip(places, written, strict=True)
        return [found[place] for place in range(len(prompts))]

    def before(self, spec: EncodeSpec) -> EncodeSpec:
        """How a question becomes tokens behind it."""
        if self.prefix is None:
            return replace(spec, suffix=self.shown.virtual)
        if self.shown.virtual:
            return replace(spec, before=self.shown.virtual, instruction=self.shown.instruction)
        return replace(spec, instruction=self.shown.front)

    def asked(self, prompt: str) -> list[int]:
        """A text that is to be continued, as the model reads it."""
        shown, tokenizer = self.shown, self.trunk.base.tokenizer
        if self.prefix is None:
            return [*encode_question(tokenizer, prompt), *shown.virtual] if prompt else []
        if shown.virtual:
            return [*shown.virtual, *encode_question(tokenizer, shown.instruction + prompt, framed=False)]
        return encode_question(tokenizer, shown.front + prompt)

    def past(self) -> Past:
        """What one text, which grows, goes on from."""
        from ctxtune.backend.past import Past

        return Past(self.trunk.base, self.prefix)

    def unlike(self, ids: Sequence[int]) -> str | None:
        """What there is to say of one text that is about to be continued."""
        if self._begins(ids):
            return None
        self.apart += 1
        return "the text does not begin with the tokens that the adapter holds, and is read as a whole"

    def remark(self) -> str | None:
        """What there is to say of the texts that did not go on from the demonstrations."""
        if not self.apart:
            return None
        return (
            f"texts that do not begin with the tokens that the adapter holds, and were read as a whole: {self.apart:,}"
        )

    def _begins(self, ids: Sequence[int]) -> bool:
        held = self.prefix.tokens if self.prefix is not None else ()
        return tuple(ids[: len(held)]) == held and len(ids) > len(held)

    def _go_on(self, requests: Sequence[Encoded]) -> bool:
        held = self.prefix.tokens if self.prefix is not None else ()
        return all(self._begins(one.ids) and one.rows[0] >= len(held) for one in requests)

    def _calibrated(self, item: Item, spec: EncodeSpec) -> Item:
        import numpy as np

        from ctxtune.commands.calibrated import rescored
        from ctxtune.evals.calibrate import log_shares

        if not self.shown.bias or self.mismatch(spec) is not None:
            return item
        assert isinstance(spec.choices, tuple)
        said = log_shares(np.array(item.said["ll"]))
        bias = np.array([self.shown.bias[choice] for choice in spec.choices])
        return rescored(item, {"none": said, self.shown.calibrate: said + bias}, self.shown.calibrate)

    def mismatch(self, spec: EncodeSpec) -> str | None:
        """Why there is no calibration, where the adapter holds one; None where there is."""
        choices = spec.choices if isinstance(spec.choices, tuple) else ()
        if not self.shown.bias or set(choices) == set(self.shown.bias):
            return None
        return f"the adapter's calibration is for the choices {', '.join(self.shown.bias)}: acc is without it"


def settings_behind(recipe: Recipe, adapter: AdapterFile | None) -> Generation:
    """How texts are written: behind demonstrations an answer ends where the next of them would begin.

    Raises:
        RecipeError: a chat is asked for.
    """
    told = shown(adapter) if adapter is not None else None
    if told is None:
        return recipe.generate
    if recipe.generate.chat:
        raise RecipeError("--chat: what the adapter holds stands before plain text, not before a chat", "--no-chat")
    if told.virtual:
        return recipe.generate
    return answers_end(recipe)


def open_context(base: Base, adapter: AdapterFile | None) -> Context | None:
    """The demonstrations that an adapter holds, for this model; None of one that changes the model, or where there is none.

    Raises:
        AdapterError, ModelError: it contradicts itself, or the model cannot go on from what it holds.
    """
    told = shown(adapter) if adapter is not None else None
    if adapter is None or told is None:
        return None
    from ctxtune.adapter.keys import held_prefix
    from ctxtune.backend.prefix import require_going_on
    from ctxtune.backend.trunk import Trunk

    trunk = Trunk(base)
    require_going_on(trunk)
    size = len(told.virtual) or len(encode_prompt(base.tokenizer, told.front))
    if size >= base.max_length:
        raise AdapterError(
            f"{adapter.path} holds {size:,} tokens that stand at a text, the model reads {base.max_length:,}",
            "the adapter was made for another base",
        )
    return Context(told, trunk, held_prefix(trunk, adapter) if adapter.container != SUFFIX else None)


def scored_behind(
    context: Context, rows: Source | None, spec: Spec, recipe: Recipe, accepted: dict[str, list[str]] | None,
    say: Callable[[str], None],
) -> tuple[dict[str, float], list[Item], str | None]:  # fmt: skip
    """Rows that are asked behind the demonstrations: scores, what each row gave, and what else the scores depend on.

    Raises:
        RecipeError: a running text or a chat, which nothing stands before.
    """
    if rows is not None and isinstance(spec, TextSpec):
        return *context.read(rows, spec), None
    if rows is None or not isinstance(spec, EncodeSpec):
        what = "a running text" if rows is None else "a chat"
        raise RecipeError(f"{what} does not stand behind what an adapter holds", "score rows: --prompt, --answer")
    spec = context.before(spec)
    same = sum(shot.text in context.shown.texts for shot in shots_of(rows.rows, spec, recipe.data.separator))
    if same:
        say(f"rows that are demonstrations of the adapter, and see their own answer: {same:,}")
    if accepted is not None:
        settings = recipe.generate if context.shown.virtual else answers_end(recipe)
        write = partial(context.write, settings=settings)
        found = written_scores(context.trunk.base, rows.rows, spec, recipe, accepted, write)
    else:
        found = *context.chosen(rows, spec), None
    for remark in (context.mismatch(spec), context.remark()):
        if remark is not None:
            say(remark)
    return found
