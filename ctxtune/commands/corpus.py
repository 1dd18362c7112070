"""The corpus of a recipe as tokens: read -> learn a tokenizer -> tokenise, once; a later run finds it where it lies."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.backend.atomic import locked, new_folder, require_room
from ctxtune.backend.home import corpora
from ctxtune.backend.stores import make_room
from ctxtune.commands import prepare
from ctxtune.commands.heartbeat import heartbeat
from ctxtune.data.corpus import Part, read_corpus, write_corpus
from ctxtune.data.documents import as_it_came, documents, files_of, survey
from ctxtune.data.duplicates import Seen
from ctxtune.data.files import find_files
from ctxtune.data.hash import sha256_fields
from ctxtune.data.render import compile_template
from ctxtune.data.spelling import Spelling
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ctxtune.data.documents import File, Piece
    from ctxtune.data.files import Files
    from ctxtune.data.render import Template
    from ctxtune.recipe.data import Data
    from ctxtune.recipe.pretrain import Pretrain
    from ctxtune.recipe.schema import Recipe

_FORMAT = 2
_LEARNED = 1 << 27  # characters, of a larger corpus, that its tokenizer is learned from: every n-th piece of it
_EVERY = 5.0  # seconds between notes


@dataclass(frozen=True)
class Corpus:
    """What is learned and what is held out, in tokens of `tokenizer`; `inputs` are the hashes of what was read, `again` counts
    the documents that stand there again."""

    train: Part
    held: Part
    again: dict[str, int]
    tokenizer: Any
    inputs: dict[str, str]

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return len(self.tokenizer)

    @cached_property
    def spelling(self) -> Spelling:
        """What its tokens are spelled of."""
        from ctxtune.backend.vocabulary import texts_of

        return Spelling.of(texts_of(self.tokenizer))

    @property
    def bytes_a_token(self) -> float:
        """UTF-8 bytes of what is held out, for each token of it that is predicted."""
        return self.held.counts.num_bytes / self.held.counts.tokens


@dataclass(frozen=True)
class _Survey:
    """The characters of each file to learn from, and of all; documents that stand there `again`, and which are left out."""

    sizes: Sequence[int]
    total: int
    again: dict[str, int]
    dropped: NDArray[np.bool_] | None


@dataclass(frozen=True)
class _Text:
    """The files of a recipe, unread; `scored` those that are held out whole."""

    files: list[File]
    scored: list[File]
    template: Template
    held_out: float
    duplicates: str
    inputs: dict[str, str]

    def survey(self) -> _Survey:
        """Read everything once."""
        seen = Seen(self.duplicates == "drop_near")
        sizes = survey(self.files, self.template, seen.text)
        scored = survey(self.scored, self.template, seen.text) if self.scored else []
        same, near = seen.again()
        dropped = same | near if self.duplicates != "keep" else None
        near_count = {"near": int(near.sum())} if self.duplicates == "drop_near" else {}
        return _Survey(sizes, sum(sizes) + sum(scored), {"same": int(same.sum()), **near_count}, dropped)

    def pieces(self, known: _Survey) -> Iterator[Piece]:
        """Everything, in order."""
        dropped = iter(known.dropped) if known.dropped is not None else None
        if not self.scored:
            yield from documents(self.files, self.template, known.sizes, self.held_out, dropped)
            return
        yield from documents(self.files, self.template, dropped=dropped)
        yield from documents(self.scored, self.template, [0] * len(self.scored), self.held_out, dropped)

    def learned(self, known: _Survey) -> Iterator[str]:
        """The text that a tokenizer is learned from, none of it held out."""
        every = -(-known.total // _LEARNED)
        for number, piece in enumerate(self.pieces(known)):
            if number % every == 0 and not piece.held:
                yield piece.text


def open_corpus(recipe: Recipe, settings: Pretrain, say: Callable[[str], None]) -> Corpus:
    """The corpus of a recipe, tokenised now or earlier.

    Raises:
        DataError: a file or a row is wrong, or it is too little to hold some of it out.
        ModelError: the tokenizer cannot be read.
        StorageError: no room on the disk.
    """
    from ctxtune.backend.vocabulary import open_vocabulary

    text = _text(recipe, settings)
    given = open_vocabulary(Path(settings.tokenizer)) if settings.tokenizer is not None else None
    said = given.backend_tokenizer.to_str() if given is not None else settings.vocabulary
    key = sha256_fields(
        {
            "format": _FORMAT, **text.inputs, "text": text.template.text, "held_out": text.held_out,
            "duplicates": text.duplicates, "tokenizer": said,
        }
    )  # fmt: skip
    folder = corpora() / key
    marker = folder / "corpus.json"
    with locked(corpora() / f"{key}.lock", lambda: say("another run is tokenising this corpus: waiting for it")):
        if marker.exists():
            os.utime(marker)  # used now
        else:
            with new_folder(folder) as made:
                _tokenise(text, given, settings.vocabulary, made, say)
    tokenizer = open_vocabulary(folder / "tokenizer.json") if given is None else given
    return _checked(Corpus(*read_corpus(folder), tokenizer, text.inputs))


def _text(recipe: Recipe, settings: Pretrain) -> _Text:
    data, known = recipe.data, recipe.inputs or {}
    assert data.train is not None
    assert data.text is not None
    _, found, digest = prepare.checked_files(data.train, known.get("train"), "train")
    inputs = {"train": digest}
    scored: list[Files] = []
    if data.eval is not None:
        _, scored, inputs["eval"] = prepare.checked_files(data.eval, known.get("eval"), "eval")
    held_out = data.held_out if not scored else 1.0
    found = [as_it_came(files) for files in found]
    return _Text(
        files_of(found), files_of(scored), compile_template(data.text, "data.text"), held_out,
        settings.duplicates, inputs,
    )  # fmt: skip


def check_piped(path: Path, data: Data) -> None:
    """Read a corpus that came through a pipe.

    Raises:
        DataError: a row is wrong, or there is no text.
    """
    assert data.text is not None
    survey(files_of([as_it_came(find_files(path))]), compile_template(data.text, "data.text"))


def _tokenise(text: _Text, given: Any, vocabulary: int, folder: Path, say: Callable[[str], None]) -> None:
    from ctxtune.backend.vocabulary import encoder, learn_vocabulary

    with heartbeat(say, "reading the corpus", at_once=False):
        known = text.survey()
    total = known.total
    make_room(total)
    require_room(folder.parent, total, "the tokens of the corpus")
    tokenizer = given
    if tokenizer is None:
        say(f"learning a tokenizer of {vocabulary:,} tokens from {min(total, _LEARNED):,} characters")
        with heartbeat(say, "learning it", at_once=False):
            tokenizer = learn_vocabulary(text.learned(known), vocabulary)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    end = tokenizer.eos_token_id
    pieces: Iterable[Piece] = text.pieces(known)
    write_corpus(folder, pieces, encoder(tokenizer), end, len(tokenizer), _Told(total, say), known.again)


class _Told:
    """Says now and then how far it is."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self._total, self._say, self._last = total, say, time.monotonic()

    def __call__(self, read: int) -> None:
        if time.monotonic() - self._last > _EVERY:
            self._last = time.monotonic()
            self._say(f"tokenised {read / 1e6:,.0f} of {self._total / 1e6:,.0f} million characters")


def _checked(corpus: Corpus) -> Corpus:
    for part, what in ((corpus.train, "learn from"), (corpus.held, "hold out")):
        if not part.counts.documents:
            raise DataError(
                f"the corpus is too short: nothing is there to {what}", "more text, or name what is scored: --eval FILE"
            )
    return corpus
