"""The corpus of a recipe as tokens: read -> learn a tokenizer -> tokenise, once; a later run finds it where it lies."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.backend.atomic import locked, new_folder, require_room
from ctxtune.backend.home import corpora
from ctxtune.commands import prepare
from ctxtune.data.corpus import Part, read_corpus, write_corpus
from ctxtune.data.documents import documents, files_of, survey
from ctxtune.data.hash import sha256_fields
from ctxtune.data.render import compile_template
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ctxtune.data.documents import File, Piece
    from ctxtune.data.files import Files
    from ctxtune.data.render import Template
    from ctxtune.recipe.pretrain import Pretrain
    from ctxtune.recipe.schema import Recipe

_FORMAT = 1
_LEARNED = 1 << 27  # characters, of a larger corpus, that its tokenizer is learned from: every n-th piece of it
_EVERY = 5.0  # seconds between notes


@dataclass(frozen=True)
class Corpus:
    """What is learned and what is held out, in tokens of `tokenizer`; `inputs` are the hashes of what was read."""

    train: Part
    held: Part
    tokenizer: Any
    inputs: dict[str, str]
    folder: Path

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return len(self.tokenizer)

    @property
    def bytes_a_token(self) -> float:
        """UTF-8 bytes of what is held out, for each token of it that is predicted."""
        return self.held.counts.num_bytes / self.held.counts.tokens


@dataclass(frozen=True)
class _Text:
    """The files of a recipe, unread; `scored` those that are held out whole."""

    files: list[File]
    scored: list[File]
    template: Template
    held_out: float
    inputs: dict[str, str]

    def pieces(self, sizes: Sequence[int]) -> Iterator[Piece]:
        """Everything, in order."""
        if not self.scored:
            yield from documents(self.files, self.template, sizes, self.held_out)
            return
        yield from documents(self.files, self.template)
        yield from documents(self.scored, self.template, [0] * len(self.scored), self.held_out)

    def learned(self, sizes: Sequence[int]) -> Iterator[str]:
        """The text that a tokenizer is learned from, none of it held out."""
        every = -(-sum(sizes) // _LEARNED)
        for number, piece in enumerate(self.pieces(sizes)):
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
        {"format": _FORMAT, **text.inputs, "text": text.template.text, "held_out": text.held_out, "tokenizer": said}
    )
    folder = corpora() / key
    with locked(corpora() / f"{key}.lock", lambda: say("another run is tokenising this corpus: waiting for it")):
        if not (folder / "corpus.json").exists():
            with new_folder(folder) as made:
                _tokenise(text, given, settings.vocabulary, made, say)
    tokenizer = open_vocabulary(folder / "tokenizer.json") if given is None else given
    return _checked(Corpus(*read_corpus(folder), tokenizer, text.inputs, folder))


def _text(recipe: Recipe, settings: Pretrain) -> _Text:
    data, known = recipe.data, recipe.inputs or {}
    assert data.train is not None
    _, found, digest = prepare.checked_files(data.train, known.get("train"), "train")
    inputs = {"train": digest}
    scored: list[Files] = []
    if data.eval is not None:
        _, scored, inputs["eval"] = prepare.checked_files(data.eval, known.get("eval"), "eval")
    held_out = settings.held_out if not scored else 1.0
    return _Text(files_of(found), files_of(scored), compile_template(data.text, "data.text"), held_out, inputs)


def _tokenise(text: _Text, given: Any, vocabulary: int, folder: Path, say: Callable[[str], None]) -> None:
    from ctxtune.backend.vocabulary import encoder, learn_vocabulary

    sizes = survey(text.files, text.template)
    total = sum(sizes) + (sum(survey(text.scored, text.template)) if text.scored else 0)
    require_room(folder.parent, total, "the tokens of the corpus")
    tokenizer = given
    if tokenizer is None:
        say(f"learning a tokenizer of {vocabulary:,} tokens from {min(total, _LEARNED):,} characters")
        tokenizer = learn_vocabulary(text.learned(sizes), vocabulary)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    end = tokenizer.eos_token_id
    pieces: Iterable[Piece] = text.pieces(sizes)
    write_corpus(folder, pieces, encoder(tokenizer), end, len(tokenizer), _Told(total, say))


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
