"""What a run would cost, before it starts: from the rows, the tokenizer and the model's skeleton; no tensor is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.commands import depth, prepare
from ctxtune.commands.begin import settle
from ctxtune.commands.chosen_mask import known, tokens_to_choose
from ctxtune.commands.control import Control
from ctxtune.commands.earlier_masks import check_masks
from ctxtune.commands.guard import check_guarded, guard_rows, tokens_a_step
from ctxtune.commands.lesson import lesson, replayed
from ctxtune.commands.run_folder import check_place
from ctxtune.commands.sources import default_out, read_sources, span
from ctxtune.recipe.mask import BY_LOSS, Mask
from ctxtune.recipe.schema import Freeze

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.commands.batches import Batches
    from ctxtune.commands.lesson import Lesson
    from ctxtune.commands.prepare import Source, Spec
    from ctxtune.data.encode import EncodedSet
    from ctxtune.methods.registry import Method as Opened
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Method, Recipe


def dry_run(resolved: Resolved, say: Callable[[str], None] = lambda text: None, resume: bool = False) -> dict[str, Any]:
    """Check everything that can be checked without the weights; returns counts and bytes.

    Layers that the run itself will choose are counted at their most, `at_most`.

    Raises:
        CtxtuneError: whatever the run itself would meet before it begins to train.
    """
    from ctxtune.backend.context import context_length
    from ctxtune.backend.skeleton import check_headers, skeleton
    from ctxtune.backend.tokenizer import load_tokenizer
    from ctxtune.methods.registry import open_method

    recipe = resolved.recipe
    out = recipe.out or default_out(recipe)
    check_place(Path(out), resume)
    sources = read_sources(recipe, say)
    model, anatomy = skeleton(sources.model, prepare.classes(recipe.data))
    check_headers(model, anatomy, sources.model)
    if anatomy.derived:
        say(f"{anatomy.in_words()}; whether that is exact is checked when it is loaded")
    config: Any = model.config
    tokenizer, context = load_tokenizer(sources.model), context_length(config.to_dict())
    check_guarded(recipe, anatomy)
    _check_masks(recipe, sources.model)
    spec = prepare.encoder(recipe.data, sources.templates, tokenizer, anatomy, context)
    settings, learned, spec = _to_learn(resolved, sources.train, spec, len(anatomy.block_list(model)), say)
    mixture = prepare.mixture(sources.train, examples := learned.examples)
    course = span(recipe, mixture.per_epoch)
    method = open_method(settings, model, anatomy, course)
    learned = learned.replaying(sources.replay, spec)
    batches = learned.batches(mixture, course.steps, recipe)
    seen = learned.only(batches.used).examples
    control = Control.of(recipe, method, model, anatomy)
    return {
        "model": recipe.model,
        "method": recipe.method.model_dump() if isinstance(settings, Freeze) else known(settings, anatomy).model_dump(),
        "at_most": settings.layers if isinstance(settings, Freeze) and depth.undecided(recipe) else None,
        "out": out,
        "trainable": sum(param.numel() for param in method.params.values()),
        "parameters": sum(param.numel() for param in model.parameters()),
        "weight_bytes": weights_in_memory(recipe, model, anatomy, sources.model, method.params),
        **_written(method, control, sources.eval is not None),
        "rows": len(examples.examples),
        "eval_rows": len(sources.eval.rows) if sources.eval is not None else 0,
        **mixture.facts(),
        **replayed(recipe, batches, course.steps),
        "dropped": examples.dropped,
        "truncated": examples.truncated,
        "tokens": examples.tokens,
        "supervised_tokens": examples.supervised_tokens,
        "steps": course.steps,
        "trial_steps": _trial_steps(recipe, method, len(examples.examples), course.steps),
        "start_layer": method.start,
        **({"teacher_tokens": learned.teacher.tokens} if learned.teacher is not None else {}),
        **({"control": {"trainable": control.trainable, "steps": course.steps}} if control else {}),
        **_choice_facts(recipe, sources.guard, tokenizer, anatomy, context, batches, course.steps),
        **_guard_facts(recipe, sources.guard, tokenizer, anatomy, context, seen),
        "cache_bytes": _kept_bytes(model, method, seen) if recipe.cache != "off" else 0,
    }


def _check_masks(recipe: Recipe, folder: Path) -> None:
    """The masks that the numbers are taken from must be whole, and of this base: its files are read for that, once."""
    from ctxtune.backend.fingerprint import fingerprint

    if isinstance(recipe.method, Mask) and recipe.method.masks:
        check_masks(recipe, fingerprint(folder))


def _choice_facts(
    recipe: Recipe, text: str | None, tokenizer: Any, anatomy: Anatomy, context: int, batches: Batches, steps: int
) -> dict[str, int]:
    """The tokens that are read before the first step to choose a mask by the loss, and those that tell what the base minds."""
    if not isinstance(recipe.method, Mask) or (settings := recipe.method.of_base(anatomy.kind)).select not in BY_LOSS:
        return {}
    facts = {"choice_tokens": tokens_to_choose(settings, batches, steps)}
    if settings.select != "contrast" or text is None:
        return facts
    _, whole = guard_rows(text, tokenizer, anatomy, context)
    return {**facts, "minded_tokens": sum(len(one.ids) for one in whole)}


def _guard_facts(
    recipe: Recipe, text: str | None, tokenizer: Any, anatomy: Anatomy, context: int, seen: EncodedSet
) -> dict[str, Any]:
    """What a step reads of the text that a budget is trained on, where there is one."""
    if text is None or recipe.forget.budget is None:
        return {}
    short, _ = guard_rows(text, tokenizer, anatomy, context)
    return {"guard_tokens": tokens_a_step(short, seen, recipe.train.batch)}


def _written(method: Opened, control: Control | None, scored: bool) -> dict[str, int]:
    """The adapter and the run's folder, in bytes."""
    tensors = method.tensors().values()
    adapter_bytes = sum(tensor.nbytes for tensor in tensors)
    moving = sum(param.nbytes for param in method.params.values()) + (4 * control.trainable if control else 0)
    # A checkpoint holds the trained numbers and two moments of each, the best step the numbers alone.
    run_bytes = (3 + scored) * moving + adapter_bytes
    return {"adapter_tensors": len(tensors), "adapter_tensor_bytes": adapter_bytes, "run_bytes": run_bytes}


def _trial_steps(recipe: Recipe, method: Opened, rows: int, steps: int) -> int | None:
    """The most that `lr: auto` takes beside the run's own; None where layers are chosen as well, which nobody foresees."""
    from ctxtune.engine.rate import trial_steps

    if recipe.train.lr != "auto":
        return 0
    return None if depth.undecided(recipe) else trial_steps(method.ladder, rows, steps)


def _kept_bytes(model: nn.Module, method: Opened, examples: EncodedSet) -> int:
    """What is kept of what never changes: states below the lowest layer that moves, or what stands before a suffix."""
    from ctxtune.backend.contexts import context_lengths
    from ctxtune.backend.prefix import bytes_a_token

    config: Any = model.config
    if method.virtual is not None and method.virtual.suffix:
        return sum(context_lengths(examples.examples, method.virtual.suffix)) * bytes_a_token(model)
    return examples.tokens * config.get_text_config().hidden_size * 4 if method.start > 0 else 0


def _to_learn(
    resolved: Resolved, train: Source, spec: Spec, layers: int, say: Callable[[str], None]
) -> tuple[Method, Lesson, Spec]:
    """The method's settings, at their most and with as many virtual tokens as there will be, what it learns from, and how that
    becomes tokens."""
    resolved, start = settle(resolved, train, spec, say)
    learned = start.lesson(train) if start is not None else lesson(train, spec, None)
    return depth.widest(resolved.recipe, layers), learned, start.spec if start is not None else spec


def weights_in_memory(
    recipe: Recipe, model: nn.Module, anatomy: Anatomy, folder: Path, moving: Mapping[str, nn.Parameter]
) -> int:
    """Bytes of the weights as the recipe has them loaded, of which some move; the skeleton takes their types."""
    from ctxtune.backend.device import choose_device
    from ctxtune.backend.precision import narrow
    from ctxtune.backend.quantise import foreseen_bytes
    from ctxtune.backend.words import keep_words

    if (device := choose_device(recipe.device, recipe.dtype)).narrow:
        narrow(model, device.dtype, moving)
    elif recipe.quant != "none":
        keep_words(model, folder, moving)
    return foreseen_bytes(model, anatomy, recipe.quant, moving)
