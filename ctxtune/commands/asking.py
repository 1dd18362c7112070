"""Rows asked behind demonstrations: what all of them begin with is read once, and each goes on from there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ctxtune.commands.prepare import to_score
from ctxtune.commands.written import written_items
from ctxtune.data.branch import shared
from ctxtune.data.hash import sha256_fields
from ctxtune.methods.fewshot import behind
from ctxtune.recipe.dump import dump

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ctxtune.backend.decode import Written
    from ctxtune.backend.load import Base
    from ctxtune.backend.prefix import Prefix
    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands.clock import Clock
    from ctxtune.data.encode import EncodeSpec
    from ctxtune.data.read import Row
    from ctxtune.evals.items import Item
    from ctxtune.methods.fewshot import Groups
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Generation, Recipe

_LEAST = 16  # tokens from which a prefix is worth a pass of its own


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
            for shots, some in groups.items():
                spec = behind(shots, self.spec)
                if self.accepted is None:
                    found |= self._chosen(trunk, some, spec, beside if shots == most else ())
                else:
                    found |= self._written(trunk, some, spec, self.accepted)
        return [found.get(id(row)) for row in (*rows, *beside)]

    def _chosen(self, trunk: Trunk, rows: list[Row], spec: EncodeSpec, beside: Sequence[Row]) -> dict[int, Item]:
        """Rows with choices: how likely each choice is; with none, how likely the answer."""
        from ctxtune.commands.judge import Judge
        from ctxtune.evals.choice import Requests, common_prefix

        with self.clock.part("encode"):
            choices = to_score(rows, spec)
            self.counts.update(dropped=choices.dropped, truncated=choices.truncated)
            choices = choices.followed_by(to_score(beside, replace(spec, on_long="drop")))
        if not choices.requests:
            return {}
        prefix = self.prefix(trunk, common_prefix(choices.requests), len(rows))
        with self.clock.part("score"):
            requests = Requests(trunk, choices.requests, prefix)
            self.counts.update(read=sum(requests.feed.lengths), whole=choices.tokens)
            items = Judge(choices, requests, None, int(spec.choices is None)).items()
        return {id(row): item for row, item in zip(choices.row_of, items, strict=True)}

    def _written(
        self, trunk: Trunk, rows: list[Row], spec: EncodeSpec, accepted: dict[str, list[str]]
    ) -> dict[int, Item]:
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

        items, counts = written_items(self.base, rows, spec, self.recipe, accepted, write)
        self.counts.update({name: int(count) for name, count in counts.items()})
        places = {(item.row, item.line): item for item in items}
        return {id(row): item for row in rows if (item := places.get((sha256_fields(row.fields), row.line)))}

    def prefix(self, trunk: Trunk, tokens: Sequence[int], rows: int) -> Prefix | None:
        """What all texts begin with, read once; None where that is too little, or this model cannot go on from it."""
        from ctxtune.backend.prefix import read_prefix

        if len(tokens) < _LEAST or not trunk.goes_on:
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


def answers_end(recipe: Recipe) -> Generation:
    """How answers are written: up to where the next demonstration would begin, if nothing else ends them."""
    settings, separator = recipe.generate, recipe.data.separator
    return settings.model_copy(update={"stop": [separator]}) if separator and not settings.stop else settings
