"""The choice of a mask in a run: rows that speak for it are read once, and what was chosen lies in the run's folder."""

from __future__ import annotations

from itertools import chain, count, islice
from typing import TYPE_CHECKING

from ctxtune.adapter.manifest import BaseModel, Manifest
from ctxtune.adapter.mask import write_mask
from ctxtune.adapter.read import check_base, check_bytes
from ctxtune.commands.heartbeat import heartbeat
from ctxtune.errors import RecipeError
from ctxtune.recipe.mask import RANKED, Mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.load import Base
    from ctxtune.commands.batches import Batches
    from ctxtune.commands.lesson import Lesson
    from ctxtune.commands.run_folder import RunFolder
    from ctxtune.engine.loop import Objective
    from ctxtune.methods.motion import Backward, Span
    from ctxtune.recipe.schema import Method, Recipe


def known(method: Method, anatomy: Anatomy) -> Method:
    """The settings of a method for a base, where it is known what is `auto`."""
    return method.of_base(anatomy.kind) if isinstance(method, Mask) else method


def backward_over(base: Base, learned: Lesson, batches: Batches, steps: int) -> Backward:
    """How a method looks at what rows of a run of so many steps say of the base before it is opened.

    `learned` are the examples that the batches come by.
    """

    def backward(step: int, number: int, rows: int | None) -> None:
        from ctxtune.backend.feed import Feed
        from ctxtune.backend.trunk import Trunk

        with Trunk(base) as trunk:
            objective = learned.objective(Feed(trunk, learned.examples.examples))
            backward_of(objective, batches, steps)(step, number, rows)

    return backward


def backward_of(objective: Objective, batches: Batches, steps: int) -> Backward:
    """The same while the run learns."""

    def backward(step: int, number: int, rows: int | None) -> None:
        for batch in islice(_cut(batches, step, steps, rows), number):
            for part in objective.parts(batch, None):
                (objective.loss(part) / objective.tokens(part)).backward()  # type: ignore[no-untyped-call]

    return backward


def tokens_to_choose(settings: Mask, batches: Batches, steps: int) -> int:
    """The tokens of the rows that are read, forwards and backwards, to choose a mask in a run of so many steps."""
    read = islice(_cut(batches, 0, steps, settings.score_rows), settings.score_batches)
    return sum(batches.lengths[batches.used[example]] for batch in read for example in batch)


def _cut(batches: Batches, step: int, steps: int, rows: int | None) -> Iterator[list[int]]:
    """The batches of a run from a step on, or their examples, so many at a time."""
    every = islice((batch for epoch in count() for batch in batches.epoch(epoch)), step, steps)
    if rows is None:
        yield from every
        return
    examples = chain.from_iterable(every)
    yield from iter(lambda: list(islice(examples, rows)), [])


def settled(
    run: RunFolder, recipe: Recipe, base: Base, course: Span, manifest: Callable[[], Manifest],
    say: Callable[[str], None],
) -> Method:  # fmt: skip
    """The method's settings; of a mask that something speaks for with the file that says which numbers these are.

    A run that goes on takes those it began with.

    Raises:
        RecipeError: nothing speaks for any.
        AdapterError: what the run's folder holds is damaged, or of another base.
    """
    from ctxtune.methods.choosing import select
    from ctxtune.methods.reused import open_mask

    if not isinstance(recipe.method, Mask):
        return recipe.method
    settings = recipe.method.of_base(base.anatomy.kind)
    if settings.control and settings.select == "random":
        raise RecipeError(
            "method.control is a random mask beside the chosen one, and select auto is random for this encoder",
            "leave it out, or another --select",
        )
    if settings.select not in RANKED:
        return settings
    if run.recipe.exists() and run.mask.exists():
        kept = open_mask(str(run.mask))
        check_base(kept, manifest().base.fingerprint)
        check_bytes(kept)
    else:
        with heartbeat(say, f"choosing the numbers of the mask by {settings.select}"):
            write_mask(run.mask, select(settings, base.model, base.anatomy, course), manifest())
    return settings.model_copy(update={"masks": [str(run.mask)]})


def mask_manifest(recipe: Recipe, text: str, base: Base, mark: str, inputs: Mapping[str, str]) -> Manifest:
    """What a mask alone says of itself; `text` is the recipe that chose it, `mark` the fingerprint of its base."""
    return Manifest(
        method=recipe.method.name,
        settings=known(recipe.method, base.anatomy).model_dump(exclude={"name"}),
        recipe=text,
        base=BaseModel(recipe.model, mark, base.anatomy.kind == "causal"),
        quant=recipe.quant,
        inputs={**inputs, "model": mark},
        seed=recipe.train.seed,
        trainable=0,
    )
