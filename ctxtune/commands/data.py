"""Look at rows before a run: what a model would read and learn of them, and what is odd about them. No model is loaded."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from ctxtune.backend.anatomy import FAMILIES
from ctxtune.backend.folder import read_json, resolve_model
from ctxtune.commands import prepare
from ctxtune.data.leakage import in_words, leaked_rows
from ctxtune.data.mask import Piece, pieces
from ctxtune.errors import RecipeError
from ctxtune.recipe.plural import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ctxtune.data.encode import Encoded, EncodedSet, Kind
    from ctxtune.recipe.data import Data
    from ctxtune.recipe.load import Resolved

QUANTILES = (0.5, 0.9, 0.99, 1.0)
LIMITS = (64, 128, 256, 512, 1024, 2048, 4096)
MOST_LABELS = 200  # more different answers are free text, not labels
NO_LIMIT = 1 << 24


@dataclass(frozen=True)
class ShownRow:
    """One example as the model would meet it."""

    where: str
    tokens: int
    supervised: int
    pieces: list[Piece]


@dataclass(frozen=True)
class Opened:
    """The rows of a recipe as tokens, at full length. A run takes at most `limit` of them; `eval` may be missing.

    `leaked` of its rows stand among the training rows.
    `classes` are the choices of a model that learns a classifier over them."""

    train: EncodedSet
    eval: EncodedSet | None
    tokenizer: Any
    kind: Kind
    limit: int
    classes: Sequence[str]
    leaked: int | None


def show(resolved: Resolved, first: int, count: int, each: bool) -> list[ShownRow]:
    """Some training rows, from number `first` (counted from 1) on; cut at `each` token, or only where the loss begins and ends.

    Raises:
        CtxtuneError: what a run would say of the recipe, its rows or its tokenizer; there is no such row.
    """
    opened = open_rows(resolved)
    found = list(islice(zip(opened.train.examples, opened.train.row_of, strict=True), first - 1, first - 1 + count))
    if not found:
        raise RecipeError(f"--row {first}: the last is row {len(opened.train.examples)}", "name one of them")
    shown = []
    for one, row in found:
        cut = pieces(one, opened.kind, opened.tokenizer, each=each, choices=opened.classes)
        shown.append(ShownRow(row.where, sum(piece.tokens for piece in cut), len(one.labels), cut))
    return shown


def stats(resolved: Resolved) -> dict[str, Any]:
    """Lengths, supervised tokens, balance of the labels, rows that stand twice, and what a maximum length would cut.

    `warnings` says in words what makes a result worth less: rows to score that were learned from above all.

    Raises:
        CtxtuneError: what a run would say of the recipe, its rows or its tokenizer.
    """
    opened = open_rows(resolved)
    train, dev = opened.train, opened.eval
    lengths = sorted(len(one.ids) for one in train.examples)
    limits = sorted({*LIMITS, opened.limit})
    facts: dict[str, Any] = {
        "model": resolved.recipe.model,
        "rows": len(lengths),
        "tokens": train.tokens,
        "supervised_tokens": train.supervised_tokens,
        "length": quantiles(lengths),
        "supervised": quantiles(sorted(len(one.labels) for one in train.examples)),
        "limit": opened.limit,
        "longer_than": {str(limit): sum(n > limit for n in lengths) for limit in limits},
        "labels": _labels(opened),
        "twice": len(lengths) - len({(one.ids, one.labels) for one in train.examples}),
        "contradicting": _contradicting(train),
        "eval_rows": len(dev.examples) if dev else None,
        "leaked": opened.leaked,
    }
    return {**facts, "warnings": _warnings(facts)}


def quantiles(ordered: Sequence[int]) -> dict[str, int]:
    """For each share the smallest value that at least so many of all do not exceed; p100 is the largest."""
    places = {share: -(-round(share * 100) * len(ordered) // 100) - 1 for share in QUANTILES}
    return {f"p{round(share * 100)}": ordered[place] for share, place in places.items()}


def open_rows(resolved: Resolved) -> Opened:
    """Read and encode the rows of a recipe as a run would, but at full length. A family of the table needs no torch for it.

    Raises:
        CtxtuneError: a wrong recipe, row or tokenizer.
    """
    from ctxtune.backend.library import without_torch

    recipe = resolved.recipe
    templates = prepare.compile_templates(recipe.data)
    folder = resolve_model(recipe.model)
    if recipe.data.train is None:
        raise RecipeError("data.train is missing", "name the rows to look at: --train FILE")
    sources = [
        prepare.read_once(paths, recipe.data, templates, None, key) if paths else None
        for key, paths in (("train", recipe.data.train), ("eval", recipe.data.eval))
    ]
    with without_torch() if read_json(folder / "config.json").get("model_type") in FAMILIES else nullcontext():
        return _encode(recipe.data, templates, folder, *sources)


def _encode(
    data: Data, templates: prepare.Templates, folder: Path, train: prepare.Source | None, dev: prepare.Source | None
) -> Opened:
    from ctxtune.backend.config import read_config
    from ctxtune.backend.context import context_length
    from ctxtune.backend.tokenizer import load_tokenizer

    classes = prepare.classes(data)
    config, anatomy = read_config(folder, classes)
    limit = data.max_length or context_length(config.to_dict())
    tokenizer = load_tokenizer(folder)
    whole = (data.model_copy(update={"max_length": None}), NO_LIMIT) if data.text is None else (data, limit)
    spec = prepare.encoder(whole[0], templates, tokenizer, anatomy, whole[1])
    assert train is not None  # open_rows has refused
    told = classes if classes and anatomy.kind == "classifier" else ()
    examples, scored = prepare.to_learn(train, spec), prepare.to_learn(dev, spec) if dev else None
    leaked = leaked_rows(train.rows, dev.rows, spec) if dev else None
    return Opened(examples, scored, tokenizer, anatomy.kind, limit, told, leaked)


def _labels(opened: Opened) -> dict[str, int]:
    """How often each answer is given, the most frequent first; empty where answers are free text."""
    counts = Counter(one.labels for one in opened.train.examples)
    if not opened.classes and len(counts) > min(MOST_LABELS, len(opened.train.examples) // 2):
        return {}
    return {_named(opened, labels): count for labels, count in counts.most_common()}


def _named(opened: Opened, labels: tuple[int, ...]) -> str:
    name: str = opened.classes[labels[0]] if opened.classes else opened.tokenizer.decode(list(labels)).strip()
    return name


def _asked(one: Encoded) -> tuple[int, ...]:
    """What a model knows of an example when it has to say the first token of the answer."""
    return one.ids[: one.rows[0] + 1] + one.ids[one.rows[-1] + 1 :]


def _contradicting(done: EncodedSet) -> int:
    """Rows whose prompt stands there with another answer as well."""
    answers: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for one in done.examples:
        answers.setdefault(_asked(one), set()).add(one.labels)
    return sum(len(answers[_asked(one)]) > 1 for one in done.examples)


def _warnings(facts: Mapping[str, Any]) -> list[str]:
    found = []
    if facts["leaked"]:
        found.append(in_words(facts["leaked"], facts["eval_rows"]))
    if facts["contradicting"]:
        found.append(f"{facts['contradicting']} training rows have the prompt of another row and a different answer")
    if longer := facts["longer_than"][str(facts["limit"])]:
        found.append(
            f"{longer} training rows are longer than {facts['limit']:,} tokens: data.on_long decides about them"
        )
    counts = list(facts["labels"].values())
    if counts and counts[0] > 10 * counts[-1]:
        found.append(f"the rarest label has {counted(counts[-1], 'row')}, the most frequent {counts[0]}")
    return found
