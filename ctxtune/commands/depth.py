"""The story of `layers: auto`: sample -> run every depth once -> probe -> try cuts -> take one.

What speaks for a depth is explained in methods/depth.py. All candidates start from one forward pass over the same rows.
"""

from __future__ import annotations

import math
import random
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ctxtune.errors import RecipeError
from ctxtune.recipe.mask import Mask
from ctxtune.recipe.pretrain import Pretrain
from ctxtune.recipe.schema import Fewshot, Freeze

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from ctxtune.backend.depths import Depths
    from ctxtune.backend.load import Base
    from ctxtune.data.encode import Encoded
    from ctxtune.engine.rate import RateTest
    from ctxtune.methods.motion import Span
    from ctxtune.methods.registry import Method
    from ctxtune.objectives.labels import Labels
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Prompt, Recipe

_ROWS = 512
_WINDOWS = 64  # of running text, which are long
_GRADIENT_ROWS = 64
_LEAST_STEPS = 8  # of a trial


def undecided(recipe: Recipe) -> bool:
    """Whether a run has to choose its layers first.

    Raises:
        RecipeError: the frozen layers are to be quantised, and nobody knows yet which these are.
    """
    method = recipe.method
    if not isinstance(method, Freeze) or method.layers != "auto":
        return False
    if recipe.quant != "none":
        raise RecipeError(
            f"method.layers auto is chosen on a model in full: quant is {recipe.quant}",
            "choose with quant none, then name the layers: --layers last:N",
        )
    return True


def widest(recipe: Recipe, num_layers: int) -> Freeze | Mask | Prompt:
    """The method's settings; with the most layers that may be chosen where the recipe leaves them open."""
    from ctxtune.methods.depth import candidates

    settings = recipe.method
    assert not isinstance(settings, Fewshot | Pretrain)  # one trains nothing, the other a model of its own
    if not isinstance(settings, Freeze) or not undecided(recipe):
        return settings
    return _with(settings, candidates(num_layers, settings.sample or 1)[-1])


def moving(recipe: Recipe, model: Path) -> Collection[str]:
    """The parameters that will train, or may be chosen to, told from the model's skeleton: their modules stay float32.

    Empty where everything is float32 anyway, and where virtual tokens are learned.
    """
    from ctxtune.backend.device import choose_device
    from ctxtune.backend.skeleton import skeleton
    from ctxtune.commands.prepare import classes
    from ctxtune.methods.choosing import outside_blocks
    from ctxtune.methods.registry import open_method

    undecided(recipe)  # refuses what cannot be chosen on a quantised model, before one is built
    narrow = choose_device(recipe.device, recipe.dtype).narrow
    if recipe.quant == "none" and not narrow:
        return ()
    bits = isinstance(recipe.method, Mask) and recipe.method.learn == "bits"
    if (
        isinstance(recipe.method, Mask) and not bits
    ):  # changes stand beside quantised layers; words and head must be float
        return () if narrow else outside_blocks(recipe.method, *skeleton(model, classes(recipe.data)))
    if not isinstance(recipe.method, Freeze) and not bits:
        return ()
    made, anatomy = skeleton(model, classes(recipe.data))
    return open_method(widest(recipe, len(anatomy.block_list(made))), made, anatomy).params


def settle(
    resolved: Resolved, base: Base, examples: Sequence[Encoded], course: Span, note: Callable[[str], None]
) -> tuple[Resolved, dict[str, Any]]:
    """The recipe with its layers chosen, its rate too if that was open, and the table they were chosen from."""
    from ctxtune.engine.rate import LEAST_ROWS

    settings = resolved.recipe.method
    assert isinstance(settings, Freeze)
    rows = _sample(resolved.recipe, settings, base, examples)
    search = _Search(resolved.recipe, settings, base, rows, course)
    table = search.table(note) if len(search.rows) >= LEAST_ROWS else search.untried(note)
    recipe, found = resolved.recipe, {"method.layers": table["layers"], "train.lr": table["lr"]}
    chosen = recipe.model_copy(
        update={
            "method": recipe.method.model_copy(update={"layers": found["method.layers"]}),
            "train": recipe.train.model_copy(update={"lr": found["train.lr"]}),
        }
    )
    open_keys = ["method.layers", *(["train.lr"] if recipe.train.lr == "auto" else [])]
    return replace(resolved, recipe=chosen, origin={**resolved.origin, **dict.fromkeys(open_keys, "auto")}), table


def _with(settings: Freeze, k: int) -> Freeze:
    return settings.model_copy(update={"layers": f"last:{k}"})


def _sample(recipe: Recipe, settings: Freeze, base: Base, examples: Sequence[Encoded]) -> list[Encoded]:
    """The rows that are looked at: at most 512 (64 windows of running text), and as many as can be kept at every cut."""
    from ctxtune.backend.depths import fitting
    from ctxtune.methods.depth import candidates

    order = list(range(len(examples)))
    random.Random(f"depth {recipe.train.seed}").shuffle(order)
    rows = [examples[i] for i in order[: _ROWS if recipe.data.text is None else _WINDOWS]]
    num_layers = len(base.anatomy.block_list(base.model))
    cuts = len(candidates(num_layers, settings.sample or 1))
    return rows[: fitting([len(row.ids) for row in rows], base.width, cuts)]


@dataclass
class _Search:
    """One choice of layers."""

    recipe: Recipe
    settings: Freeze
    base: Base
    rows: list[Encoded]
    course: Span
    num_layers: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_layers = len(self.base.anatomy.block_list(self.base.model))

    def table(self, note: Callable[[str], None]) -> dict[str, Any]:
        """Every candidate with what speaks for it, and the one that was taken."""
        from ctxtune.methods.depth import candidates, cost, first_sufficient, not_worse

        ks = candidates(self.num_layers, self.settings.sample or 1)
        note(f"layers auto: looking at every depth of {len(self.rows)} rows")
        depths = self._depths(ks)
        probes = self._probes(depths)
        if not probes and self.recipe.data.text is None:
            note("layers auto: all answers begin alike, and no reader can tell them apart: the losses alone decide")
        gradients = self._gradients(ks[-1], depths)
        passes = self.course.steps / self.course.per_epoch
        table: list[dict[str, Any]] = []
        for k in ks:
            probe = probes[self.num_layers - k] if probes else None
            table.append({
                "layers": f"last:{k}", "probe": probe and probe.accuracy, "probe_stderr": probe and probe.stderr,
                "gradient": sum(gradients[-k:]) / sum(gradients) if any(gradients) else None,
                "cost": cost(k, self.num_layers, passes) / cost(ks[-1], self.num_layers, passes),
                "lr": None, "loss": None, "worse": None, "worse_stderr": None, "tried": [],
            })  # fmt: skip
        tests = self._tests(ks, depths)
        gaps = _gaps(tests)
        best = not_worse(gaps)
        for k, test in tests.items():
            table[ks.index(k)].update(_facts(test, *gaps[k]))
        for row in table:
            note(_line(row))
        note(f"last:{best} chosen, the deepest within one standard error of the lowest loss, rate {tests[best].lr:.0e}")
        sufficient = first_sufficient(probes) if probes else None
        if sufficient is not None:
            read = f"({100 * probes[sufficient].accuracy:.1f} %)"
            note(f"what enters block {sufficient} of {self.num_layers} is enough for a linear reader {read}")
        return {
            "layers": f"last:{best}", "lr": tests[best].lr, "rows": len(self.rows), "sufficient_depth": sufficient,
            "probes": [probe.accuracy for probe in probes], "candidates": table,
        }  # fmt: skip

    def untried(self, note: Callable[[str], None]) -> dict[str, Any]:
        """The deepest candidate, as where no two can be told apart: the rows are too few to hold any out."""
        from ctxtune.engine.rate import LEAST_ROWS, UNTRIED
        from ctxtune.methods.depth import candidates

        layers = f"last:{candidates(self.num_layers, self.settings.sample or 1)[-1]}"
        lr = UNTRIED if self.recipe.train.lr == "auto" else self.recipe.train.lr
        few = f"too few rows to choose from ({len(self.rows)}, and {LEAST_ROWS} are the least)"
        note(f"layers auto: {few}: {layers} is taken, the deepest that would be tried, at rate {lr:.0e}")
        return {
            "layers": layers, "lr": lr, "rows": len(self.rows), "sufficient_depth": None, "probes": [], "candidates": [],
        }  # fmt: skip

    def _depths(self, ks: Sequence[int]) -> Depths:
        from ctxtune.backend.depths import run_depths
        from ctxtune.backend.feed import Feed
        from ctxtune.backend.trunk import Trunk

        with Trunk(self.base, 0) as trunk:
            return run_depths(Feed(trunk, self.rows), [self.num_layers - k for k in ks])

    def _probes(self, depths: Depths) -> list[Any]:
        """Classes are the choices, or the first token of free answers; none where there is only one, and of running text."""
        from ctxtune.methods.depth import probe_depths

        if self.recipe.data.text is not None:
            return []
        choices = self.recipe.data.choices is not None
        classes = [row.labels if choices else row.labels[0] for row in self.rows]
        return probe_depths(depths.answers, classes) if len(set(classes)) > 1 else []

    @contextmanager
    def _opened(self, k: int, depths: Depths) -> Iterator[tuple[Method, Labels]]:
        """The last k layers free to move, and the loss on the rows from what their cut has said; frozen again afterwards."""
        from ctxtune.backend.depths import start_from
        from ctxtune.backend.feed import Feed
        from ctxtune.backend.trunk import Trunk
        from ctxtune.methods.registry import open_method
        from ctxtune.objectives.labels import Labels

        method = open_method(_with(self.settings, k), self.base.model, self.base.anatomy, self.course)
        with Trunk(self.base, self.num_layers - k) as trunk:
            feed = Feed(trunk, self.rows)
            start_from(feed, depths)
            yield method, Labels(feed)
        for param in method.params.values():
            param.grad = None
            param.requires_grad_(False)

    def _gradients(self, k: int, depths: Depths) -> list[float]:
        """|g_l|^2 of each of the last k layers, on a few rows; all 0 below a classifier that is still at zero."""
        squares = [0.0] * k
        blocks = self.base.anatomy.block_list(self.base.model)[-k:]
        with self._opened(k, depths) as (_, labels):
            few = range(min(_GRADIENT_ROWS, len(self.rows)))
            for part in labels.parts(few, None):
                (labels.loss(part) / labels.tokens(few)).backward()  # type: ignore[no-untyped-call]
            for place, block in enumerate(blocks):
                squares[place] = sum(float(p.grad.square().sum()) for p in block.parameters() if p.grad is not None)
        return squares

    def _tests(self, ks: Sequence[int], depths: Depths) -> dict[int, RateTest]:
        """Short runs: the fewest layers, for a rate, then the most, and fewer until some lose by no more than chance."""
        from ctxtune.engine.rate import LADDER
        from ctxtune.methods.depth import not_worse, rungs_below

        by_hand = (self.recipe.train.lr,) if isinstance(self.recipe.train.lr, float) else ()
        tests = {ks[0]: self._test(ks[0], depths, by_hand or LADDER, ())}
        at = 0 if by_hand else LADDER.index(min(tests[ks[0]].tried, key=lambda pair: pair[1])[0])
        for k in reversed(ks[1:]):
            first = max(0, at - rungs_below(k))
            tests[k] = self._test(
                k, depths, by_hand or LADDER[first : first + 1], () if by_hand else LADDER[:first][::-1]
            )
            if not_worse(_gaps(tests)) >= k:
                break
        return tests

    def _test(self, k: int, depths: Depths, rates: Sequence[float], below: Sequence[float]) -> RateTest:
        """Short runs of the last k layers at some rates, and at those below while the lowest of all is the best."""
        from ctxtune.engine.rate import Trials, find_rate

        options, held = self.recipe.train, max(1, len(self.rows) // 4)
        steps = max(_LEAST_STEPS, math.ceil((len(self.rows) - held) / options.batch / 1.5))
        passes = self.course.steps / self.course.per_epoch
        as_long = max(1, round(passes * math.ceil(len(self.rows) / options.batch)))
        with self._opened(k, depths) as (method, labels):
            return find_rate(
                method.params, labels, labels.feed.lengths, as_long, method.shares, options,
                trials=Trials(rates, steps, held, below),
            )  # fmt: skip


def _gaps(tests: Mapping[int, RateTest]) -> dict[int, tuple[float, float]]:
    """How much higher each loss is than the lowest, and the standard error of that."""
    from ctxtune.engine.rate import paired_gap

    lowest = min(tests.values(), key=lambda test: test.loss)
    return {k: paired_gap(test.losses, lowest.losses) for k, test in tests.items()}


def _facts(test: RateTest, worse: float, stderr: float) -> dict[str, Any]:
    return {
        "lr": test.lr, "loss": test.loss, "worse": worse, "worse_stderr": stderr,
        "tried": [list(pair) for pair in test.tried],
    }  # fmt: skip


def _percent(share: float | None) -> str:
    return "none yet" if share is None else f"{100 * share:.0f} %"


def _line(row: Mapping[str, Any]) -> str:
    """A candidate in words."""
    said = f"gradient {_percent(row['gradient'])}, cost {100 * row['cost']:.0f} %"
    if row["probe"] is not None:
        said = f"probe at its cut {100 * row['probe']:.1f} +- {100 * row['probe_stderr']:.1f} %, {said}"
    said = f"{row['layers']}: {said}"
    if row["loss"] is None:
        return f"{said}, not tried"
    return f"{said}, held-out loss {row['loss']:.4f} at rate {row['lr']:.0e}"
