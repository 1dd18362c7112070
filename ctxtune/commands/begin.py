"""What virtual tokens start from: the tokens of demonstrations, of words, or of the prompt, as many as are to be learned."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from ctxtune.commands.lesson import lesson
from ctxtune.commands.prepare import hashed, labelled, to_score
from ctxtune.commands.teacher import long_prompt
from ctxtune.data.branch import shared
from ctxtune.data.encode import EncodeSpec, TooLong
from ctxtune.data.joint import joint
from ctxtune.data.prompt import encode_prompt, own_words
from ctxtune.data.shots import check_pool, choose
from ctxtune.data.tokens import frame, virtual_tokens
from ctxtune.data.windows import TextSpec
from ctxtune.errors import DataError, RecipeError
from ctxtune.methods.fewshot import shots_of
from ctxtune.recipe.plural import counted
from ctxtune.recipe.schema import Prompt
from ctxtune.recipe.start import words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from ctxtune.adapter.manifest import Shown
    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.feed import Feed
    from ctxtune.backend.load import Base
    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands.lesson import Lesson
    from ctxtune.commands.prepare import Source, Spec
    from ctxtune.commands.teacher import LongPrompt
    from ctxtune.data.encode import Encoded
    from ctxtune.data.read import Row
    from ctxtune.methods.registry import Virtual
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Recipe

_QUESTIONS = 64  # on which it is tried where demonstrations end
_LOOKS = 16  # of them, by whose attention a few tokens of a long prompt are kept
_FEW = 20  # virtual tokens that start from nothing in particular
_SHORT = 32  # virtual tokens, at most, that are to say what a long prompt says
_BEHIND = 8  # at least so many in a suffix, whose start may be very short
_COMMON = 5000
_LETTERS = 64  # of a text for each token that is wanted of its beginning
_SHOTS: int = Prompt.model_fields["shots"].default
Places = tuple[tuple[str, str], ...]
"""texts, each with the place it is from"""


@dataclass(frozen=True)
class Beginning:
    """`tokens`, one for each virtual token or none, or with `questions` more; how rows become tokens behind the virtual ones,
    and the texts that they are from."""

    tokens: tuple[int, ...]
    spec: EncodeSpec | TextSpec
    texts: Places
    rows: tuple[Row, ...] = ()
    """the demonstrations among the training rows"""
    parted: bool = True
    """whether the tokenizer makes the same of a question behind the texts as alone"""
    teacher: LongPrompt | None = None
    adapters: tuple[AdapterFile, ...] = ()
    """earlier prompts, one of which is taken in place of tokens"""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """the hashes of these"""
    whole: int = 0
    """how many tokens the texts have"""
    questions: tuple[tuple[int, ...], ...] = ()
    """where `tokens` are more than the virtual ones: what is asked behind them, to see at which of them it looks"""

    def lesson(self, source: Source) -> Lesson:
        """What is learned from the other rows: a demonstration would only repeat its own answer.

        Raises:
            DataError: a row does not fit behind the virtual tokens.
        """
        shown = set(map(id, self.rows))
        others = replace(source, rows=[row for row in source.rows if id(row) not in shown])
        with self._room():
            return lesson(others, self.spec, self.teacher)

    def remarks(self) -> Iterator[str]:
        """What a user should know of it."""
        if self.rows:
            yield f"{counted(len(self.rows), 'row')} shown as demonstrations, and not learned from"
        if self.teacher is not None:
            yield f"{len(self.spec.virtual)} virtual tokens are to answer as {self.teacher.tokens:,} of demonstrations do"
        if self.spec.before and own_words(self.spec.tokenizer).before:
            yield "the words that the model's tokenizer writes before a text give way to the virtual tokens"
        if not self.parted:
            yield "the tokenizer makes other tokens of a question that stands alone: the start is near its text, not the same"

    def scored(self, source: Source | None) -> Source | None:
        """The rows to score that fit behind the virtual tokens, and a teacher's: all are to be scored on the same.

        Raises:
            DataError: none does.
        """
        if source is None or isinstance(self.spec, TextSpec):
            return source
        rows = self.teacher.seen(source.rows) if self.teacher is not None else source.rows
        with self._room():
            kept = to_score(rows, self.spec).row_of
        if not kept:
            raise DataError("all eval rows were too long and dropped", "raise data.max_length")
        return replace(source, rows=kept)

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Where a row does not fit, a demonstration that takes most of the room is to blame, not the row."""
        try:
            yield
        except DataError as error:
            named = [
                (len(encode_prompt(self.spec.tokenizer, text, framed=False)), row.where)
                for row, (text, name) in zip(self.rows, self.texts, strict=False)
                if name == Path(row.where).name
            ]
            tokens, where = max(named, default=(0, ""))
            if not isinstance(error.__cause__, TooLong) or 2 * tokens <= len(self.spec.virtual):
                raise
            raise DataError(
                f"{where}: as a demonstration it takes {tokens:,} tokens, which leaves no room: {error}",
                "shorten it, or start from others: another --seed, fewer --shots",
            ) from error

    def shown(self, model: nn.Module, virtual: Virtual) -> Shown:
        """What the adapter says of these virtual tokens."""
        from ctxtune.adapter.manifest import Shown
        from ctxtune.backend.prefix import sizes

        layers, heads, _ = sizes(model)
        return Shown(
            instruction=self.spec.instruction, texts=[text for text, _ in self.texts], where=[where for _, where in self.texts],
            tokens=list(self.spec.virtual), alone=True, heads=heads, layers=layers, calibrate="none", bias={},
            begun=self.whole, among=virtual.among,
        )  # fmt: skip


def settle(
    resolved: Resolved, train: Source, spec: Spec, say: Callable[[str], None]
) -> tuple[Resolved, Beginning | None]:
    """The recipe with as many virtual tokens as they start from, and what that is; None where a method has no such tokens."""
    settings = resolved.recipe.method
    if not isinstance(settings, Prompt):
        return resolved, None
    start = beginning(settings, resolved.recipe, train, spec)
    asked_for = resolved.origin["method.shots"] in ("flag", "--set") or settings.shots != _SHOTS
    if asked_for and not start.rows:
        say(
            f"method.shots {settings.shots} is not used: kind {settings.kind}, init {settings.init} shows no demonstration"
        )
    for remark in start.remarks():
        say(remark)
    method = settings.model_copy(update={"tokens": len(start.spec.virtual)})
    open_key = {"method.tokens": "auto"} if settings.tokens == "auto" else {}
    recipe = resolved.recipe.model_copy(update={"method": method})
    return replace(resolved, recipe=recipe, origin={**resolved.origin, **open_key}), start


def beginning(settings: Prompt, recipe: Recipe, train: Source, spec: Spec) -> Beginning:
    """What a run starts from.

    Raises:
        RecipeError: rows are chats or have no choices, or the tokenizer makes nothing of the words.
        DataError: there are fewer rows than demonstrations.
    """
    if isinstance(spec, TextSpec):
        return _before_text(settings, recipe, train, spec)
    if not isinstance(spec, EncodeSpec):
        raise RecipeError("method.name prompt: chats are not supported, virtual tokens stand at a prompt", "--prompt")
    rows = _demonstrations(settings, recipe, train, spec)
    teacher = long_prompt(settings, rows, spec, recipe.data.separator)
    if settings.init == "adapter":
        return replace(_earlier(settings, recipe, spec), rows=rows, teacher=teacher)
    if settings.kind == "suffix":
        return replace(_behind(settings, recipe, train, spec), rows=rows, teacher=teacher)
    where: Places = ()
    parted = True
    instruction = spec.instruction
    if settings.init in ("zero", "vocab"):
        count = _FEW if settings.tokens == "auto" else settings.tokens
        tokens = _drawn(spec.tokenizer, count, recipe.train.seed) if settings.init == "vocab" else ()
    else:
        where = _texts(settings, rows, spec, recipe.data.separator)
        where = ((spec.instruction, "data.instruction"), *where) if spec.instruction else where
        front, instruction = "".join(text for text, _ in where), ""
        asked = [spec.prompt.render(row).rstrip() for row in train.rows[:_QUESTIONS]]
        found = joint(spec.tokenizer, front, asked)
        tokens, parted = found.tokens or tuple(encode_prompt(spec.tokenizer, front)), found.alone
        if not tokens:
            raise _no_token(settings)
        most = len(tokens) if teacher is None else min(_SHORT, len(tokens))
        count = most if settings.tokens == "auto" else settings.tokens
    behind_them = replace(spec, before=virtual_tokens(count), instruction=instruction)
    begun = Beginning(
        _filled(tokens, count), behind_them, where, rows, parted, teacher, whole=len(tokens) if where else 0
    )
    if teacher is None or settings.kind != "prefix" or not count < begun.whole:
        return begun
    shown = set(map(id, rows))
    others = [row for row in train.rows if id(row) not in shown][:_LOOKS]
    asking = replace(behind_them, answer=None)
    questions = [tuple(asking.encode_question(row)[count:]) for row in others]
    return replace(begun, tokens=tuple(tokens), questions=tuple(filter(None, questions)))


def _before_text(settings: Prompt, recipe: Recipe, train: Source, spec: TextSpec) -> Beginning:
    """What virtual tokens before running text start from: by themselves how it begins, once more.

    Raises:
        RecipeError: a window and they are more than the model reads.
    """
    if settings.init == "adapter":
        return _earlier(settings, recipe, spec)
    tokenizer: Any = spec.tokenizer
    count = _FEW if settings.tokens == "auto" else settings.tokens
    tokens: tuple[int, ...] = ()
    where: Places = ()
    if (words := words_of(settings.init)) is not None:
        where = ((words + recipe.data.separator, "method.init"),)
        tokens = tuple(encode_prompt(tokenizer, where[0][0]))
        count = len(tokens) if settings.tokens == "auto" else count
    elif settings.init == "vocab":
        tokens = _drawn(tokenizer, count, recipe.train.seed)
    elif settings.init == "auto":
        tokens = tuple(encode_prompt(tokenizer, spec.render(train.rows[0])[: _LETTERS * count]))[:count]
        where = ((tokenizer.decode(tokens), Path(train.rows[0].where).name),)
    if settings.init != "zero" and not tokens:
        raise _no_token(settings)
    placed = spec.behind(virtual_tokens(count))
    return Beginning(_filled(tokens, count), placed, where, whole=len(tokens) if where else 0)


def _behind(settings: Prompt, recipe: Recipe, train: Source, spec: EncodeSpec) -> Beginning:
    """What a suffix starts from: by itself the end of what is asked, once more, which says little that is new."""
    where: Places = ()
    tokens: tuple[int, ...] = ()
    count = _BEHIND if settings.tokens == "auto" else settings.tokens
    if settings.init in ("auto", "prompt"):
        asked = [tuple(reversed(spec.encode_question(row))) for row in train.rows[:_QUESTIONS]]
        tokens = tuple(reversed(shared(asked)))[-count:]
        tokenizer: Any = spec.tokenizer
        where = ((tokenizer.decode(tokens), "data.prompt"),) if tokens else ()
        if settings.init == "prompt" and not tokens:
            raise RecipeError("method.init prompt: prompts do not end alike", "--init labels, or text: and words")
    if settings.init == "vocab" or (settings.init == "auto" and not tokens):
        tokens = _drawn(spec.tokenizer, count, recipe.train.seed)
    elif settings.init not in ("auto", "prompt", "zero"):
        where = _texts(settings, (), spec, recipe.data.separator)
        tokens = tuple(encode_prompt(spec.tokenizer, "".join(text for text, _ in where).strip(), framed=False))
        if not tokens:
            raise _no_token(settings)
        count = max(count, len(tokens)) if settings.tokens == "auto" else count
    placed = replace(spec, suffix=virtual_tokens(count))
    return Beginning(_filled(tokens, count), placed, where, whole=len(tokens) if where else 0)


def _earlier(settings: Prompt, recipe: Recipe, spec: EncodeSpec | TextSpec) -> Beginning:
    """Earlier prompts, one of which is started from."""
    from ctxtune.commands.transfer import earlier

    found, count = earlier(
        [Path(path) for path in settings.adapters],
        settings.kind,
        None if settings.tokens == "auto" else settings.tokens,
    )
    inputs = hashed([one.path for one in found], "adapter", recipe.inputs or {})
    tokens = virtual_tokens(count)
    if isinstance(spec, TextSpec):
        return Beginning((), spec.behind(tokens), (), adapters=tuple(found), inputs=inputs)
    placed = replace(spec, suffix=tokens) if settings.kind == "suffix" else replace(spec, before=tokens)
    return Beginning((), placed, (), adapters=tuple(found), inputs=inputs)


def _filled(tokens: Sequence[int], count: int) -> tuple[int, ...]:
    """As many tokens, these again and again; none of none."""
    return tuple(islice(cycle(tokens), count)) if tokens else ()


def _no_token(settings: Prompt) -> RecipeError:
    return RecipeError(f"method.init {settings.init!r}: the tokenizer makes no token of it", "write some words")


def _drawn(tokenizer: Any, count: int, seed: int) -> tuple[int, ...]:
    """Tokens drawn from the 5,000 that the tokenizer learned first, which are the commonest (Lester et al. 2021)."""
    special = set(tokenizer.all_special_ids)
    common = [token for token in range(min(_COMMON, len(tokenizer))) if token not in special]
    drawn = Random(f"vocab {seed}").choices(common, k=count)
    return (*frame(tokenizer)[0], *drawn)[:count]


def _texts(settings: Prompt, rows: Sequence[Row], spec: EncodeSpec, separator: str) -> Places:
    """Words, the choices, or demonstrations, each with the place it is from."""
    words = words_of(settings.init)
    if words is not None:
        return ((words + separator, "method.init"),)
    if settings.init == "labels":
        if not isinstance(spec.choices, tuple):
            raise RecipeError("method.init labels: the rows have no choices in common", "--choices, or another --init")
        return ((", ".join(spec.choices) + separator, "data.choices"),)
    return tuple((shot.text, Path(shot.where).name) for shot in shots_of(rows, spec, separator))


def _demonstrations(settings: Prompt, recipe: Recipe, train: Source, spec: EncodeSpec) -> tuple[Row, ...]:
    """The training rows that are shown, to start from or to distill from."""
    by_itself = settings.init == "auto" and settings.kind != "suffix"
    if not by_itself and "fewshot" not in (settings.init, settings.distill_from):
        return ()
    assert spec.answer is not None
    pool = [row for row in train.rows if labelled(row, spec.answer)]
    if len(pool) < len(train.rows):
        check_pool(len(pool), settings.shots, " that have an answer", least=1)
    else:
        check_pool(len(pool) - 1, settings.shots, " beside one to learn from", least=1)
    labels = [spec.bare.render(row).gold or 0 for row in pool]
    return tuple(pool[at] for at in choose("balanced", labels, settings.shots, recipe.train.seed))


def out_of_sight(base: Base, examples: Sequence[Encoded], tokens: int) -> str | None:
    """What there is to say of layers whose sliding window ends before the virtual tokens, in words."""
    from ctxtune.backend.apart import window_of

    window = window_of(base) if tokens else None
    far = sum(one.rows[0] - tokens >= window - 1 for one in examples) if window is not None else 0
    if not far:
        return None
    return (
        f"in {far:,} of {len(examples):,} examples layers with a sliding window of {window:,} tokens do not see the virtual "
        "tokens from where the answer begins"
    )


def learning_feed(trunk: Trunk, virtual: Virtual | None, examples: Sequence[Encoded], pack: bool = False) -> Feed:
    """Examples with virtual tokens in them, before or behind what is asked, if there are any."""
    import torch

    from ctxtune.backend.feed import Feed
    from ctxtune.evals.choice import behind

    if virtual is None:
        return Feed(trunk, examples, pack)
    if virtual.suffix:
        return Feed(trunk, examples, suffix=virtual.suffix)
    with torch.no_grad():
        prefix = virtual.prefix(trunk)
    return learned_feed(trunk, virtual, [behind(prefix, one) for one in examples])


def learned_feed(trunk: Trunk, virtual: Virtual, examples: Sequence[Encoded]) -> Feed:
    """Examples that go on from virtual tokens as they are in each pass."""
    import torch

    from ctxtune.backend.feed import Feed

    with torch.no_grad():
        prefix = virtual.prefix(trunk)
    return Feed(trunk, examples, prefix=prefix, learned=partial(virtual.prefix, trunk))
