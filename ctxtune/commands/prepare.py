"""What adapting and scoring have in common before a model is loaded: rows become tokens, templates are checked.

Nothing here imports torch: a wrong file or template is an error within a second.
"""

from __future__ import annotations

import tempfile
from bisect import bisect
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.backend.dataset import pulled_files
from ctxtune.data.chat import ChatSpec, encode_chats, require_template, template_hash
from ctxtune.data.documents import as_it_came, files_of, whole
from ctxtune.data.encode import ChoiceSet, EncodedSet, EncodeSpec, encode_choices, encode_rows
from ctxtune.data.files import Files, find_files
from ctxtune.data.hash import sha256_file, sha256_parts
from ctxtune.data.mixture import Mixture, Share
from ctxtune.data.open import SPOOL, said_name
from ctxtune.data.read import Row, check_types, read_files, spool_stdin
from ctxtune.data.render import Template, compile_template
from ctxtune.data.windows import TextSpec, encode_texts
from ctxtune.errors import DataError, ModelError, RecipeError
from ctxtune.recipe.data import WINDOW, Part
from ctxtune.recipe.gallery import template_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.load import Base
    from ctxtune.recipe.data import Data
    from ctxtune.recipe.schema import Recipe

Paths = str | list[str | Part]
Spec = EncodeSpec | ChatSpec | TextSpec
"""how rows become tokens: as prompts with answers, as conversations, or as running text"""


@dataclass(frozen=True)
class Source:
    """Rows that were read, checked against the templates and hashed; `shares` of the files, before any is too long.

    `revisions` are `owner/name@commit` of what was pulled from a hub.
    """

    path: Path
    rows: list[Row]
    sha256: str
    shares: tuple[Share, ...]
    revisions: tuple[str, ...] = ()

    def inputs(self, key: str) -> dict[str, str]:
        """The hashes that name these rows in a recipe."""
        from_hub = {f"{key}_revision": ", ".join(self.revisions)} if self.revisions else {}
        return {key: self.sha256, **from_hub}


@dataclass(frozen=True)
class Templates:
    """The recipe's templates, compiled; `choices` where every row lists its own, `messages` where rows are chats, `text` where
    they are running text."""

    prompt: Template
    answer: Template
    choices: Template | None = None
    messages: Template | None = None
    tools: Template | None = None
    text: Template | None = None

    @property
    def names(self) -> list[str]:
        """The fields that they read."""
        read = (self.prompt, self.answer, self.choices) if self.messages is None else (self.messages, self.tools)
        return [name for one in read if one is not None for name in one.names]


def compile_templates(data: Data) -> Templates:
    """Parse the templates of a recipe."""
    return Templates(
        compile_template(data.prompt, "data.prompt"),
        compile_template(data.answer, "data.answer"),
        compile_template(data.choices, "data.choices") if isinstance(data.choices, str) else None,
        _of_field(data.messages, "data.messages"),
        _of_field(data.tools, "data.tools", "{{ %s | default(none) }}"),
        compile_template(data.text, "data.text") if data.text is not None else None,
    )


def _of_field(text: str | None, key: str, form: str = "{{ %s }}") -> Template | None:
    """The template of a list; a field's name alone stands for the field, which may be missing where `form` says so."""
    if text is None:
        return None
    return compile_template(form % text if text.isidentifier() else text, key)


def labelled(row: Row, answer: Template) -> bool:
    """Whether a row has the fields that its answer is made of."""
    return all(row.fields.get(name) is not None for name in answer.names)


def read_source(
    paths: Paths, data: Data, templates: Templates, expected: str | None, key: str,
    answered: bool = True,
) -> Source:  # fmt: skip
    """Read a file, a folder or several and render every row once, so that each mistake is met before any work begins.

    With `answered` false a row may lack what its answer is made of.

    Raises:
        DataError: a row is wrong, or a file is not the one that the recipe's `inputs` names.
    """
    parts, found, digest = checked_files(paths, expected, key)
    if templates.text is not None:
        return _documents(parts, found, digest, templates.text, 0.0)[0]
    read = [read_files(files) for files in found]
    rows = [row for some in read for row in some]
    check_types(rows, templates.names)
    spec = unbound(data, templates)
    asked = spec if answered else unanswered(spec)
    for row in rows:
        (spec if labelled(row, templates.answer) else asked).render(row)
    return _source(parts, found, digest, read)


def read_running(
    paths: Paths, text: Template, expected: str | None, key: str, held_out: float = 0.0
) -> tuple[Source, Source | None]:
    """Read running text, a row a document, and what is held out of the end of each file.

    Raises:
        DataError: as `read_source`; or there is too little of it to hold some out.
    """
    return _documents(*checked_files(paths, expected, key), text, held_out)


def _documents(
    parts: list[Part], found: list[Files], digest: str, text: Template, held_out: float
) -> tuple[Source, Source | None]:
    read = [whole(files_of([as_it_came(files)]), text, held_out) for files in found]
    kept, held = (_source(parts, found, digest, [pair[place] for pair in read]) for place in (0, 1))
    named = " and ".join(str(said_name(part.path)) for part in parts)
    if not kept.rows and not held.rows:
        raise DataError(f"{named}: there is no text", "give a file with some")
    if not kept.rows or (held_out and not held.rows):
        raise DataError(
            f"{named}: too short to hold the end of it out, which is to be scored",
            "more text, or name what is scored: --eval FILE; or score nothing: --set data.held_out=0",
        )
    return kept, held if held_out else None


def _source(parts: list[Part], found: list[Files], digest: str, read: list[list[Row]]) -> Source:
    """Rows that were read, file by file."""
    rows = [row for some in read for row in some]
    shares = [Share(part.path, part.weight, len(some)) for part, some in zip(parts, read, strict=True)]
    revisions = dict.fromkeys(files.revision for files in found if files.revision is not None)
    return Source(Path(parts[0].path), rows, digest, tuple(shares), tuple(revisions))


def unanswered(spec: Spec) -> Spec:
    """The same, but no answer is read; a chat has its replies in it."""
    return replace(spec, answer=None) if isinstance(spec, EncodeSpec) else spec


def read_once(
    paths: Paths, data: Data, templates: Templates, expected: str | None, key: str,
    answered: bool = True,
) -> Source:  # fmt: skip
    """As `read_source`, for rows that nobody reads again: standard input is a file for as long as it is read.

    Raises:
        DataError: as `read_source`; nothing comes through the pipe.
    """
    with at_hand(paths) as files:
        return read_source(files, data, templates, expected, key, answered)


@contextmanager
def at_hand(paths: Paths) -> Iterator[Paths]:
    """The same; standard input is a file meanwhile."""
    with tempfile.TemporaryDirectory() as spool:
        yield str(spool_stdin(Path(spool) / SPOOL)) if paths == "-" else paths


def checked_files(paths: Paths, expected: str | None, key: str) -> tuple[list[Part], list[Files], str]:
    """The parts of a source with the files of each, and the hash of all.

    Raises:
        DataError: there is none, or it is not the one that the recipe's `inputs` names.
    """
    parts = parts_of(paths)
    try:
        found = [pulled_files(part.path) or find_files(part.path) for part in parts]
    except DataError as error:
        if not any(Path(part.path).parent == template_folder() for part in parts):
            raise
        told = f"the bundled recipe has it in the place of your own rows: name them, --{key} FILE"
        raise DataError(str(error), told) from error
    weights = [part.weight for part in parts] if isinstance(paths, list) else None
    named = " and ".join(part.path for part in parts)
    return parts, found, checked_hash(sha256_parts(found, weights), named, expected, key)


def parts_of(paths: str | list[str | Part]) -> list[Part]:
    """Each file with its weight; one that stands alone is taken once."""
    return [Part(path=one) if isinstance(one, str) else one for one in ([paths] if isinstance(paths, str) else paths)]


def mixture(source: Source, examples: EncodedSet) -> Mixture:
    """How the examples of several files are mixed; those that were dropped no longer count."""
    bounds = list(accumulate(share.size for share in source.shares))
    place = {id(row): bisect(bounds, number) for number, row in enumerate(source.rows)}
    sizes = Counter(place[id(row)] for row in examples.row_of)
    return Mixture(tuple(replace(share, size=sizes[number]) for number, share in enumerate(source.shares)))


def checked_hash(digest: str, path: str, expected: str | None, key: str) -> str:
    """The hash of an input, which must be the one that the recipe's `inputs` names, if it names one.

    Raises:
        DataError: the file is another one now.
    """
    if expected is not None and expected != digest:
        raise DataError(
            f"{path} has changed since the recipe was written: inputs.{key} names another sha256",
            f"remove inputs.{key} from the recipe to use it as it is",
        )
    return digest


def hashed(paths: Sequence[Path], what: str, known: Mapping[str, str]) -> dict[str, str]:
    """The hash of each of several files, as inputs `what 1`, `what 2`, ...

    Raises:
        DataError: one is another file now than `known` names.
    """
    keys = [f"{what} {number}" for number in range(1, len(paths) + 1)]
    return {
        key: checked_hash(sha256_file(path), str(path), known.get(key), key)
        for key, path in zip(keys, paths, strict=True)
    }


def check_model(recipe: Recipe, mark: str) -> None:
    """Refuse a base that is not the one which the recipe's `inputs` names, if it names one.

    Raises:
        RecipeError: it is another one.
    """
    if (recipe.inputs or {}).get("model", mark) != mark:
        raise RecipeError(
            f"model {recipe.model}: the recipe was made with another base, inputs.model differs",
            "name the base it was made with, or remove inputs.model from the recipe",
        )


def encoder(data: Data, templates: Templates, tokenizer: Any, anatomy: Anatomy, context: int) -> Spec:
    """How rows become tokens of this model, whose context is `context` tokens.

    Raises:
        RecipeError: data.max_length is more than the model can read.
        ModelError: rows are chats or running text, and the model knows no such.
    """
    if data.max_length is not None and data.max_length > context:
        raise RecipeError(
            f"data.max_length {data.max_length} is more than the model's {context} tokens", "leave data.max_length out"
        )
    if templates.text is not None:
        if anatomy.kind != "causal":
            raise ModelError(
                f"a {anatomy.family} model {anatomy.verb}, it does not go on with a text", "choose a causal model"
            )
        return _spec(data, templates, tokenizer, anatomy.kind, context)
    if templates.messages is not None:
        if anatomy.kind != "causal":
            raise ModelError(f"a {anatomy.family} model {anatomy.verb}, it does not reply", "choose a causal model")
        require_template(tokenizer)
    if anatomy.kind == "classifier" and classes(data) is None:
        raise ModelError(
            f"this {anatomy.family} model {anatomy.verb}, the same for all rows, and data.choices does not list them",
            "list them: --choices a,b,c",
        )
    return _spec(data, templates, tokenizer, anatomy.kind, data.max_length or context)


def unbound(data: Data, templates: Templates) -> Spec:
    """How rows become texts, which does not depend on the model; to become tokens they need one."""
    return _spec(data, templates, None, "causal", 1 << 24)


def classes(data: Data) -> list[str] | None:
    """The choices where all rows have the same: what a classifier can be made for."""
    return data.choices if isinstance(data.choices, list) else None


def untrained(base: Base) -> str | None:
    """What the scores of a base mean that has not learned to choose yet, in words; None where they mean what they say."""
    from ctxtune.backend.classifier import is_untrained

    if not is_untrained(base.model, base.anatomy):
        return None
    return (
        "the model's files hold no head: a classifier over data.choices begins at zero, "
        "so that before training all choices are equally likely and the first is taken"
    )


def chat_inputs(data: Data, tokenizer: Any, known: Mapping[str, str]) -> dict[str, str]:
    """The sha256 of the chat template is an input like others: the base's fingerprint does not hold it.

    Raises:
        ModelError: `known`, what went into the recipe or the adapter, names another.
    """
    if data.messages is None:
        return {}
    digest = template_hash(tokenizer)
    if known.get("chat_template", digest) != digest:
        raise ModelError(
            "the model's chat template is another one than inputs.chat_template names: what was learned would not fit it",
            "put the model's own template back, or remove inputs.chat_template from the recipe",
        )
    return {"chat_template": digest}


def _spec(data: Data, templates: Templates, tokenizer: Any, kind: Any, max_length: int) -> Spec:
    if templates.text is not None:
        return TextSpec(tokenizer, data.max_length or min(WINDOW, max_length), max_length)
    if templates.messages is not None:
        return ChatSpec(tokenizer, templates.messages, templates.tools, data.learn, max_length, data.on_long)
    return EncodeSpec(
        tokenizer=tokenizer,
        kind=kind,
        prompt=templates.prompt,
        answer=templates.answer,
        choices=tuple(data.choices) if isinstance(data.choices, list) else templates.choices,
        max_length=max_length,
        delimiter=data.delimiter,
        instruction=data.instruction,
        on_long=data.on_long,
    )


def to_learn(source: Source, spec: Spec) -> EncodedSet:
    """The examples to learn from.

    Raises:
        DataError: every row was dropped.
    """
    done = _encode(source.rows, spec)
    if not done.examples:
        if isinstance(spec, TextSpec):
            raise DataError(f"{said_name(source.path)}: the tokenizer makes no token of the text", "another text")
        raise DataError(
            f"{said_name(source.path)}: all {done.dropped} rows are longer than {spec.max_length} tokens and were dropped"
        )
    return done


def _encode(rows: Sequence[Row], spec: Spec) -> EncodedSet:
    if isinstance(spec, TextSpec):
        return encode_texts(rows, spec)
    return encode_chats(rows, spec) if isinstance(spec, ChatSpec) else encode_rows(rows, spec)


def to_score(rows: Sequence[Row], spec: Spec) -> ChoiceSet:
    """Every row with each of its choices; a free answer is a row with one choice, and so is a chat with its replies.

    Of running text each window is one.
    """
    if isinstance(spec, EncodeSpec) and spec.choices is not None:
        return encode_choices(rows, spec)
    done = _encode(rows, spec)
    if isinstance(spec, TextSpec):
        return ChoiceSet([[one] for one in done.examples], [0] * len(done.examples), row_of=done.row_of)
    scored = ChoiceSet(dropped=done.dropped, truncated=done.truncated)
    for row, parts in groupby(zip(done.row_of, done.examples, strict=True), key=lambda pair: pair[0]):
        scored.requests.append([example for _, example in parts])
        scored.row_of.append(row)
        scored.gold.append(0)
    return scored
