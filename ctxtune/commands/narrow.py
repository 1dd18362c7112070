"""`lr: transfer`: a narrow model tries a few rates, and the best of them is that of the wide one.

Since the shares of the rate (methods/pretrain.py) leave what one step does the same at every width, so does the rate that does
best (Yang et al. 2021, "Tensor Programs V"). The narrow model has the wide one's layers, heads of its size, tokens, rows and
order of rows; it is made anew for each rate, learns for a few steps under a whole schedule, and is judged on what is held out.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ctxtune.commands.pupil import GLANCE, Pupil
from ctxtune.methods.pretrain import RATES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctxtune.commands.corpus import Corpus
    from ctxtune.commands.pupil import Plan
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.pretrain import Pretrain
    from ctxtune.recipe.schema import Recipe

WIDTH = 64
STEPS = 200
TIMES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""the rate that is known to do for small models, so many times"""


@dataclass(frozen=True)
class Trials:
    """What is to be tried: `settings` of the narrow model, and rates, upwards, of so many steps each."""

    settings: Pretrain
    rates: Sequence[float]
    steps: int

    @classmethod
    def of(cls, recipe: Recipe, settings: Pretrain, plan: Plan) -> Trials:
        """Those of a recipe."""
        known = RATES[recipe.train.optimizer]
        return cls(narrow(settings), [known * times for times in TIMES], min(STEPS, plan.steps))

    def facts(self) -> dict[str, Any]:
        """What a dry run tells."""
        return {"width": self.settings.states, "steps": self.steps, "rates": list(self.rates)}


def narrow(settings: Pretrain) -> Pretrain:
    """The same model with states of about WIDTH numbers: fewer heads, each as large as they were."""
    head = settings.states // settings.attention_heads
    width = min(settings.states, max(1, WIDTH // head) * head)
    inner = max(8, settings.inner * width // settings.states // 8 * 8) if width < settings.states else settings.inner
    shape = {"width": width, "heads": width // head, "feed_forward": inner}
    if settings.previous_heads is not None:
        shape["previous_heads"] = min(settings.previous_heads, shape["heads"])
    return settings.model_copy(update={**shape, "compile": "off"})


def transferred(
    resolved: Resolved, settings: Pretrain, corpus: Corpus, plan: Plan, say: Callable[[str], None]
) -> tuple[Resolved, dict[str, Any]]:
    """The recipe with its rate found, and the table that it was chosen from: [rate, held-out loss], None of what blew up."""
    begun, trials = time.perf_counter(), Trials.of(resolved.recipe, settings, plan)
    say(
        f"lr transfer: {len(trials.rates)} rates of {trials.steps} steps each, by a model {trials.settings.states} wide"
    )
    tried = []
    for lr in trials.rates:
        loss = _loss(resolved.recipe, trials, lr, corpus, plan)
        say(f"rate {lr:.2g}: held-out loss {loss:.4f}")
        tried.append((loss if math.isfinite(loss) else math.inf, lr))
    best = min(tried)[1]
    ends = {trials.rates[0]: "lowest", trials.rates[-1]: "highest"}
    if end := ends.get(best):
        say(f"the best is the {end} tried: one beyond it may be better; --lr names one")
    say(f"rate {best:.2g} is carried over to the model {settings.states} wide")
    recipe = resolved.recipe.model_copy(update={"train": resolved.recipe.train.model_copy(update={"lr": best})})
    table = {
        "width": trials.settings.states, "steps": trials.steps, "lr": best, "end": end,
        "tried": [[lr, loss if math.isfinite(loss) else None] for loss, lr in tried],
        "seconds": round(time.perf_counter() - begun, 2),
    }  # fmt: skip
    return replace(resolved, recipe=recipe, origin={**resolved.origin, "train.lr": "auto"}), table


def _loss(recipe: Recipe, trials: Trials, lr: float, corpus: Corpus, plan: Plan) -> float:
    """What is lost of what is held out, nats a token, when the steps at a rate are over."""
    from ctxtune.engine.optimizer import make_optimizer
    from ctxtune.engine.rate import take_steps
    from ctxtune.engine.schedule import factor

    options = recipe.train.model_copy(update={"lr": lr})
    there = recipe.model_copy(update={"train": options})
    pupil = Pupil.born(there, trials.settings, corpus, replace(plan, steps=trials.steps))
    course, steps = pupil.course, range(trials.steps)
    places = [divmod(step, plan.per_epoch) for step in steps]
    with pupil.quick():
        take_steps(
            pupil.params, make_optimizer(pupil.params, options, course.matrices, course.alike), pupil.learned,
            (course.batches(epoch)[place] for epoch, place in places),
            [course.shares(step, epoch) for step, (epoch, _) in zip(steps, places, strict=True)],
            [lr * factor(step, len(steps), options.schedule, options.warmup) for step in steps], options,
        )  # fmt: skip
        return pupil.score(GLANCE)["loss"]
