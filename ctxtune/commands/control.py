"""Was the choice worth it? A random mask of the same size is trained after the chosen one, and the two are compared.

What does not depend on which numbers move is there already: tokens, kept states, what the base said, the rate. Both are
scored on the same rows, so that their difference is paired (evals/paired.py): a choice is better where the 95 % interval and
the sign test say so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ctxtune.commands.clock import Clock
from ctxtune.errors import RecipeError
from ctxtune.recipe.mask import Mask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.mask import Mask as Chosen
    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands.fitting import Fitted, Fitting
    from ctxtune.commands.judge import Judge
    from ctxtune.commands.run_folder import RunFolder
    from ctxtune.evals.paired import Difference
    from ctxtune.methods.mask import Opened
    from ctxtune.methods.registry import Method
    from ctxtune.recipe.schema import Recipe

RANDOM = "a random mask of the same size"
LEVEL = 0.05  # of the sign test


def is_asked(recipe: Recipe) -> bool:
    """Whether a recipe wants a random mask beside its own."""
    return isinstance(recipe.method, Mask) and recipe.method.control


def check_control(recipe: Recipe) -> None:
    """Refuse to compare what nothing is scored of.

    Raises:
        RecipeError: there are no rows to score.
    """
    if is_asked(recipe) and not recipe.data.scored:
        raise RecipeError("method.control compares scores, and data.eval is missing", "name rows to score: --eval FILE")


@dataclass(frozen=True)
class Control:
    """The random mask beside that of a run, and how many numbers move with it."""

    mask: Chosen
    settings: Mask
    seed: int
    trainable: int

    @classmethod
    def of(cls, recipe: Recipe, method: Method, model: nn.Module, anatomy: Anatomy) -> Control | None:
        """Drawn beside what `method` has chosen, where the recipe asks for it.

        Raises:
            RecipeError: no other than the chosen one can be drawn.
        """
        from ctxtune.backend.mask import numel
        from ctxtune.methods.control import alike

        if not is_asked(recipe):
            return None
        seed, opened = recipe.train.seed, cast("Opened", method)
        settings = cast("Mask", recipe.method)
        mask = alike(opened.chosen, settings, model, anatomy, seed)
        settings = settings.model_copy(update={"select": "random"})
        head = {name: part for name, part in opened.mask.items() if name not in opened.names}
        return cls(mask, settings, seed, numel(mask) + numel(head))

    def facts(
        self, method: Method, ours: Fitted, fitting: Fitting, run: RunFolder, trunk: Trunk, judge: Judge
    ) -> dict[str, Any]:
        """Train it as the chosen one was trained, and compare the two; the chosen one is on the model again then."""
        import torch

        from ctxtune.methods.mask import open_mask

        fitting.tell.note(f"the same once more with {RANDOM}, to compare with")
        chosen, base, own = cast("Opened", method), trunk.base, replace(judge, told=[], rows=[])
        with trunk.closed():
            chosen.delta.off()
            drawn = open_mask(self.mask, self.settings, base.model, base.anatomy)
        torch.manual_seed(self.seed)
        run.control.path.mkdir(mode=0o700, exist_ok=True)
        with fitting.clock.part("control"):
            fitting.minds.weigh(drawn, aside := Clock(), fitting.tell.note)
            theirs = replace(fitting, clock=aside).fit(run.control, drawn, own, rows=True)
        penalty = drawn.penalty.facts() if drawn.penalty is not None else None
        with trunk.closed():
            drawn.delta.off()
            chosen.delta.on()
        return {"trainable": self.trainable, "penalty": penalty, **compared(ours, theirs)}


def compared(ours: Fitted, theirs: Fitted) -> dict[str, Any]:
    """What a result tells of the random mask: its numbers, the differences on each row, the chosen one's minus its, and
    what they come to in words."""
    from ctxtune.evals.paired import compare

    differences = compare(ours.rows, theirs.rows, RANDOM)
    if "kl_base" in differences:
        differences["task_kl"] = differences.pop("kl_base")
    return {
        **theirs.facts(),
        **theirs.after,
        **theirs.guard,
        "differences": {name: asdict(one) for name, one in differences.items()},
        "verdict": verdict(differences, ours.after["forgetting"], theirs.after["forgetting"]),
    }


def verdict(differences: Mapping[str, Difference], ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    """Whether the chosen mask is better than the random one, by accuracy or else the loss of answers, and what it forgets.

    Few rows decide nothing by accuracy: what their loss says is said then, and nothing is called no better.
    """
    name = "acc" if "acc" in differences else "loss"
    one = differences[name]
    way = _decided(one)
    better = (
        "not shown to be better than" if not way else "better than" if (way > 0) == (name == "acc") else "worse than"
    )
    interval = f"{one.difference:+.4f}, 95 % interval {one.low:+.4f} to {one.high:+.4f}, p {one.p:.2g}"
    said = f"{better} {RANDOM}: {name} {one.other + one.difference:.4f} against {one.other:.4f} ({interval})"
    if name != "loss" and (loss := differences.get("loss")) is not None:
        way = _decided(loss)
        lower = "is lower" if way < 0 else "is higher" if way > 0 else "shows no difference"
        numbers = f"{loss.other + loss.difference:.4f} against {loss.other:.4f} (p {loss.p:.2g})"
        said += f"; the loss of its answers {lower}, {numbers}"
    if "kl" not in ours:
        return said
    more = "more" if ours["kl"] > theirs["kl"] else "less" if ours["kl"] < theirs["kl"] else "as much"
    return f"{said}; it forgets {more}, KL(base || tuned) {ours['kl']:.3g} against {theirs['kl']:.3g} nats a token"


def _decided(one: Difference) -> int:
    """1 or -1 where the sign test and the interval say that ours is higher or lower, else 0."""
    if one.p >= LEVEL or one.low <= 0 <= one.high:
        return 0
    return 1 if one.difference > 0 else -1
