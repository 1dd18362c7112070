"""Rows asked behind demonstrations: what all of them begin with is read once, and each goes on from there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ctxtune.commands.prepare import to_score
from ctxtune.commands.written import written_items
from ctxtune.data.branch import shared
from ctxtune.data.encode import ChoiceSet
from ctxtune.methods.fewshot import behind
from ctxtune.recipe.dump import dump
from ctxtune.recipe.schema import Fewshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ctxtune.backend.decode import Written
    from ctxtune.backend.load import Base
    from ctxtune.backend.prefix import Prefix
    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands.clock import Clock
    from ctxtune.data.encode import EncodeSpec
    from ctxtune.data.read import Row
    from ctxtune.evals.items import Item
    from ctxtune.methods.fewshot import Groups, Shots
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Recipe
    from ctxtune.recipe.written import Generation

_ALONE = 256  # rows that share nothing, in memory at once
LEAST = 16  # tokens from which a prefix is worth a pass of its own


@dataclass
class Asking:
    """How rows are asked. `accepted` are the answers that are right, by row, where they are written and not chosen.

    `inputs` are the hashes of what was read. `counts` adds up tokens: `whole` is what all texts hold, each in full; `read`
    what was run instead, the prefix included; `kept` what an earlier run had read. What is not kept goes on from the `last`
    prefix where both begin alike.
    """

    base: Base
    mark: str
    recipe: Recipe
    spec: EncodeSpec
    clock: Clock
    accepted: dict[str, list[str]] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    last: Prefix | None = None
    inputs: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Where what was read is kept."""
        return self.recipe.cache

    def recipe_text(self, resolved: Resolved, relative_to: Path) -> str:
        """The resolved recipe, with the hashes of what was read."""
        return dump(resolved, relative_to=relative_to, inputs={**self.inputs, "model": self.mark})

    def items(self, rows: list[Row], groups: Groups, beside: Sequence[Row] = ()) -> list[Item | None]:
        """What every row gave, in the order of the rows, None where it was dropped; then what those `beside` them gave.

        Those are asked behind most of the demonstrations, and are no rows of the result: they count in what was read alone.
        """
        from ctxtune.backend.trunk import Trunk

        found: dict[int, Item] = {}
        most = max(groups, key=len)  # all but one, where each row is one of them
        with Trunk(self.base) as trunk:
            for part in together(groups, most):
                asked, own = self.encoded(part, beside if part[0][0] == most else ())
                if not asked.requests:
                    continue
                if self.accepted is None:
                    found |= self._chosen(trunk, asked, own)
                else:
                    found |= self._written(trunk, asked, self.accepted)
        return [found.get(id(row)) for row in (*rows, *beside)]

    def encoded(self, part: Sequence[tuple[Shots, list[Row]]], beside: Sequence[Row]) -> tuple[ChoiceSet, int]:
        """Rows behind their demonstrations, then what is asked beside them; and how many of these are rows of the result."""
        asked = ChoiceSet()
        with self.clock.part("encode"):
            for shots, rows in part:
                asked = asked.followed_by(to_score(rows, behind(shots, self.spec)))
            self.counts.update(dropped=asked.dropped, truncated=asked.truncated)
            spec = behind(part[0][0], self.spec)
            return asked.followed_by(to_score(beside, replace(spec, on_long="drop"))), len(asked.requests)

    def _chosen(self, trunk: Trunk, asked: ChoiceSet, rows: int) -> dict[int, Item]:
        """Rows with choices: how likely each choice is; with none, how likely the answer."""
        from ctxtune.commands.judge import Judge
        from ctxtune.evals.choice import Requests, common_prefix

        prefix = self.prefix(trunk, common_prefix(asked.requests), rows)
        with self.clock.part("score"):
            requests = Requests(trunk, asked.requests, prefix)
            self.counts.update(read=sum(requests.feed.lengths), whole=asked.tokens)
            items = Judge(asked, requests, None, int(self.spec.choices is None)).items()
        return {id(row): item for row, item in zip(asked.row_of, items, strict=True)}

    def _written(self, trunk: Trunk, asked: ChoiceSet, accepted: dict[str, list[str]]) -> dict[int, Item]:
        """Rows whose answer the model writes, up to where the next demonstration would begin."""
        from ctxtune.backend.decode import generate_batch

        def write(prompts: Sequence[Sequence[int]]) -> list[Written]:
            least = min(map(len, prompts)) - 1  # the last token says what comes next
            tokens = shared([tuple(prompt) for prompt in prompts])[:least]
            with trunk.closed():
                prefix = self.prefix(trunk, tokens, len(prompts))
                with self.clock.part("write"):
                    written = generate_batch(
                        self.base, prompts, answers_end(self.recipe), behind=(trunk, prefix) if prefix else None
                    )
            whole = sum(len(prompt) + len(one.tokens) for prompt, one in zip(prompts, written, strict=True))
            self.counts.update(whole=whole, read=whole - len(prompts) * len(tokens) * (prefix is not None))
            return written

        items, counts = written_items(self.base, asked, self.recipe, accepted, write)
        self.counts["unfinished"] += int(counts["unfinished"])
        return {id(row): item for row, item in zip(asked.row_of, items, strict=True)}

    def prefix(self, trunk: Trunk, tokens: Sequence[int], rows: int) -> Prefix | None:
        """What all texts begin with, read once; None where that is too little, or this model cannot go on from it."""
        from ctxtune.backend.prefix import read_prefix

        if len(tokens) < LEAST or not trunk.goes_on:
            return None
        with self.clock.part("prefix"):
            # What one question asks for nobody asks again.
            where = self.where if rows > 1 else "off"
            before = self.last.shared_with(tokens) if self.last is not None and where == "off" else None
            self.last = prefix = read_prefix(trunk, tokens, where, self.mark, before)
        self.counts["prefix"] += len(tokens)
        fresh = len(tokens) - (len(before.tokens) if before is not None else 0)
        self.counts["kept" if prefix.place == "kept" else "read"] += fresh
        return prefix


def together(groups: Groups, most: Shots | None = None) -> Iterator[list[tuple[Shots, list[Row]]]]:
    """Demonstrations with the rows behind them; where each row has its own, some hundred at a time, for one pass over all.

    Those that have `most` stand alone.
    """
    alone: list[tuple[Shots, list[Row]]] = []
    for shots, rows in groups.items():
        if len(rows) > 1 or shots == most:
            yield [(shots, rows)]
        else:
            alone.append((shots, rows))
    yield from (alone[at : at + _ALONE] for at in range(0, len(alone), _ALONE))


def answers_end(recipe: Recipe) -> Generation:
    """How answers are written: up to where the next demonstration would begin, if nothing else ends them; in a chat the
    turn's own end does."""
    settings, separator, method = recipe.generate, recipe.data.separator, recipe.method
    turns = isinstance(method, Fewshot) and method.chat and method.replay is None
    if settings.stop or not separator or turns:
        return settings
    return settings.model_copy(update={"stop": [separator]})
