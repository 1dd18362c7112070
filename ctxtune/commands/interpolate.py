"""The story of an interpolation: the base, the tuned model and what lies between, W + alpha (W' - W), scored and measured.

Between the two a model often keeps most of what it learned and forgets much less (Wortsman et al. 2022, "WiSE-FT").
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ctxtune.commands import texts
from ctxtune.commands.evaluate import Below, load_for, open_given, resolve, scorer
from ctxtune.commands.heartbeat import heartbeat
from ctxtune.commands.kept import keep_checked
from ctxtune.data.finite import plain
from ctxtune.errors import AdapterError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.load import Base
    from ctxtune.evals.forgetting import BaseProbe

GRID = "grid"
_STEPS = 10  # of the grid
MOST = 101


def alphas_of(text: str) -> list[float]:
    """The shares that are asked for: numbers from 0 to 1 split at commas, or `grid`, every tenth.

    Raises:
        RecipeError: it is something else.
    """
    if text == GRID:
        return [i / _STEPS for i in range(_STEPS + 1)]
    hint = "write numbers from 0 to 1, such as 0,0.5,1, or grid"
    parts = text.split(",")
    if len(parts) > MOST:
        raise RecipeError(f"--alpha lists {len(parts):,} numbers, more than {MOST}", hint)
    return [share_of(part, hint) for part in parts]


def share_of(text: str, hint: str, least: float = 0.0) -> float:
    """A number from `least` to 1.

    Raises:
        RecipeError: it is none.
    """
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not least <= alpha <= 1:
        raise RecipeError(f"--alpha: {text.strip()!r} is no number from {least:g} to 1", hint)
    return alpha


def interpolate(
    source: str | None,
    flags: Mapping[str, object],
    sets: list[str],
    adapter: Path | None,
    alphas: Sequence[float],
    force: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Score each share of an adapter, and measure how far it is from the base; returns a table.

    Raises:
        CtxtuneError: as `evaluate`; the adapter changes no weight.
    """
    from ctxtune.backend.fingerprint import fingerprint

    opened = open_given(adapter)
    if opened is None:
        raise RecipeError("--alpha is the share of an adapter, and none is named", "--adapter ADAPTER")
    _check_weights(opened)
    recipe = resolve(source, flags, sets, opened, adapter).recipe
    if recipe.data.eval is None:
        raise RecipeError("data.eval is missing", "name the rows to score: --eval FILE")
    text = texts.probe_text(recipe.forget.probe)
    score = scorer(recipe, None, say)
    say(f"loading {recipe.model}")
    base = load_for(recipe, [opened], force, say)
    probe = _Probe(base, opened, text, recipe.cache, fingerprint(base.folder), say)
    table = []
    for alpha in alphas:
        scored = score(base, opened if alpha else None, alpha, probe.below)
        table.append({"alpha": alpha, "scores": plain(scored.scores), **probe.moved(alpha)})
    return {"model": recipe.model, "adapter": str(adapter), "eval": recipe.data.eval, "alphas": plain(table)}


def _check_weights(adapter: AdapterFile) -> None:
    from ctxtune.adapter.prefix import shown

    if shown(adapter) is not None:
        raise AdapterError(
            f"{adapter.path} stands at a text and changes no weight: there is nothing between it and the base",
            "leave --alpha out",
        )


class _Probe:
    """How far shares of an adapter are from the base, nothing below the lowest layer that it changes being run again."""

    def __init__(
        self, base: Base, adapter: AdapterFile, text: str | None, where: str, mark: str, say: Callable[[str], None]
    ) -> None:
        from ctxtune.backend.trunk import Trunk
        from ctxtune.commands.judge import probe_feed
        from ctxtune.evals.forgetting import read_base

        self.base, self.adapter = base, adapter
        self.text = text if base.anatomy.kind != "classifier" else None
        self.below: Below | None = None  # where no text checks that kept states are exact
        self.said: BaseProbe | None = None
        if self.text is None:
            return
        start = _lowest(base, adapter)
        with Trunk(base, start) as trunk, heartbeat(say, "reading the probe that forgetting is measured on"):
            feed = probe_feed(trunk, self.text)
            if keep_checked(feed, where, mark, say)[0] is not None:
                self.below = Below(start, where, mark)
            self.said = read_base(feed, keep_head=True)

    def moved(self, alpha: float) -> dict[str, float]:
        """KL from the base, and the loss on the probe, nats a token; nothing where it is not measured."""
        from ctxtune.adapter.attach import attached
        from ctxtune.backend.trunk import Trunk
        from ctxtune.commands.judge import probe_feed
        from ctxtune.evals.forgetting import drift

        if self.text is None or self.said is None:
            return {}
        below = self.below
        with attached(self.base.model, self.adapter, alpha), Trunk(self.base, below.start if below else 0) as trunk:
            feed = probe_feed(trunk, self.text)
            if below is not None:
                feed.keep(below.where, below.mark)
            found = drift(feed, self.said)
        return {"kl": found.kl, "probe_loss": found.loss}


def _lowest(base: Base, adapter: AdapterFile) -> int:
    """The lowest block that an adapter changes."""
    from ctxtune.adapter.change import parameters_of
    from ctxtune.methods.layers import depths

    params = dict(base.model.named_parameters(remove_duplicate=False))
    depth = depths(params, base.anatomy, len(base.anatomy.block_list(base.model)))
    # A parameter that is not there is an error when the adapter is attached.
    return min((depth[id(params[name])] for name in parameters_of(adapter) if name in params), default=0)
