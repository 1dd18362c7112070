"""Prompts and answers become token ids, and the rows of the model's output that are asked for.

The rules are those of lm-evaluation-harness (`lm_eval/api/model.py::_encode_pair`, `models/huggingface.py`), so that
scores can be compared with published ones. For a causal model, with `text = prompt + delimiter + answer`:

    white space at the prompt's end goes over to the answer;   whole = tok(text),   c = tok(prompt);
    the answer's tokens are whole[len(c):], split by number, whatever has merged across the border, and c stands before;
    special tokens are the tokenizer's own default, and are left out where the text begins with BOS (else EOS) itself;
    an empty prompt is that one token; what is too long loses tokens at the left, never any of the answer.
Two differences: a delimiter is not written after an empty prompt or after white space, where the harness writes it too
(two spaces); and what a tokenizer puts *behind* a text by default (BERT's [SEP]) is not taken for a part of the answer.

For a masked model the answer's tokens, found by their offsets, are replaced by the mask and predicted in place. A
classifier reads the prompt alone: its row is the first token, its label the place of the answer among the choices.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Literal

from ctxtune.data.prompt import Words, encode_prompt, join, own_words
from ctxtune.data.render import Rendered, Template, render_row
from ctxtune.data.tokens import content, end_of_text, first_token, frame, starts_itself
from ctxtune.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ctxtune.data.read import Row
    from ctxtune.data.tokens import Tokenizer
    from ctxtune.data.turns import Turns

Predicting = Literal["causal", "masked"]
Kind = Literal[Predicting, "classifier"]
OnLong = Literal["error", "drop", "truncate"]
CHUNK = 1024  # texts in one call of the tokenizer: fast tokenizers work on a list in parallel


@dataclass(frozen=True)
class Encoded:
    """The tokens fed to the model, the positions whose state predicts a supervised token, and these tokens.

    A causal model is not fed the last answer token, whose state would predict what nobody asks for. `parents` is, where
    the tokens are a tree and not a line, the token that each stands behind, -1 where none (branch.py)."""

    ids: tuple[int, ...]
    rows: tuple[int, ...]
    labels: tuple[int, ...]
    parents: tuple[int, ...] = ()

    def between(self, before: tuple[int, ...], suffix: tuple[int, ...]) -> Encoded:
        """The same behind more tokens, and with others between what is asked and the answer; no tree."""
        asked = self.rows[0] + 1 if self.rows else len(self.ids)
        ids = (*before, *self.ids[:asked], *suffix, *self.ids[asked:])
        return Encoded(ids, tuple(row + len(before) + len(suffix) for row in self.rows), self.labels)


@dataclass(frozen=True)
class Form:
    """Whether white space at a prompt's end goes over to the answer, and special tokens stand where the tokenizer puts them."""

    strip: bool = True
    framed: bool = True


FORM = Form()


@dataclass(frozen=True)
class EncodeSpec:
    """How rows become tokens: the recipe's data section, the model's kind and its tokenizer. Questions have no answer.

    With `turns` a prompt is the last turn of a chat; with `replay` the delimiter stands in every place where the harness
    writes it, and a prompt that is written on keeps its white space. Virtual tokens are numbers below 0: those `before` stand
    in front of every text, in the place of the tokenizer's special ones, those of `suffix` behind it, before the answer."""

    tokenizer: Tokenizer
    kind: Kind
    prompt: Template
    answer: Template | None
    choices: tuple[str, ...] | Template | None
    max_length: int
    delimiter: str = " "
    instruction: str = ""
    on_long: OnLong = "error"
    turns: Turns | None = None
    replay: bool = False
    before: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    @property
    def virtual(self) -> tuple[int, ...]:
        """The virtual tokens, wherever they stand."""
        return self.before + self.suffix

    @cached_property
    def words(self) -> Words:
        """What stands before a text and behind what is asked. The model's own words are in a chat its template's affair."""
        plain = self.kind == "causal" and self.turns is None and not self.replay
        own = own_words(self.tokenizer) if plain else Words()
        return Words(self.before or own.before, own.behind + self.suffix)

    def render(self, row: Row) -> Rendered:
        """The row's prompt, answer and choices as texts."""
        one = render_row(row, self.prompt, self.answer, self.choices, self.instruction)
        return one if self.turns is None else replace(one, prompt=self.turns.asked(one.prompt, row.where))

    @property
    def bare(self) -> EncodeSpec:
        """The same with nothing before the row's own prompt."""
        return replace(self, instruction="", turns=None)

    def joined(self, prompt: str, answer: str) -> str:
        """A prompt with its answer, as one text."""
        return prompt + self.delimiter + answer if self.replay else join(prompt, self.delimiter, answer)

    def encode(self, pairs: Sequence[tuple[str, str]], *, end: bool = False) -> list[Encoded]:
        """Prompts with answers at full length, for a model that predicts tokens."""
        assert self.kind != "classifier"
        space, between = (self.delimiter, "") if self.replay else ("", self.delimiter)
        done = encode_pairs(
            self.tokenizer, [(prompt, space + answer) for prompt, answer in pairs], delimiter=between, kind=self.kind,
            end=end, form=self.form,
        )  # fmt: skip
        return [one.between(*self.words) for one in done] if any(self.words) else done

    def encode_front(self) -> list[int]:
        """The tokens that are read before any prompt."""
        front = self.instruction if self.turns is None else self.turns.front
        read = encode_prompt(self.tokenizer, front, framed=self.form.framed) if front else []
        return [*self.words.before, *read] if read else []

    def encode_question(self, row: Row) -> list[int]:
        """The tokens behind which the model writes its answer."""
        prompt = self.render(row).prompt
        text = prompt.rstrip() if self.form.strip else prompt
        before, behind = self.words
        return [*before, *encode_prompt(self.tokenizer, text, framed=self.form.framed), *behind]

    @property
    def form(self) -> Form:
        """A chat's prompt ends as its template ends it, and has all the special tokens that it needs."""
        chat = self.turns is not None
        return Form(
            self.choices is not None or not (chat or self.replay), not self.words.before and (self.replay or not chat)
        )


@dataclass
class EncodedSet:
    """Examples to learn from, each with its row, and what was cut or dropped on the way.

    `split` rows became several examples, because a chat template rewrites earlier turns."""

    examples: list[Encoded] = field(default_factory=list)
    row_of: list[Row] = field(default_factory=list)
    dropped: int = 0
    truncated: int = 0
    split: int = 0

    @property
    def supervised_tokens(self) -> int:
        """The tokens that the loss is on."""
        return sum(len(example.rows) for example in self.examples)

    @property
    def tokens(self) -> int:
        """The tokens fed to the model in one epoch; virtual ones, which are run once for many, are not among them."""
        return sum(token >= 0 for example in self.examples for token in example.ids)

    def facts(self) -> dict[str, int]:
        """The numbers that a result tells."""
        return {
            "rows": len(self.examples), "tokens": self.tokens, "supervised_tokens": self.supervised_tokens,
            "dropped": self.dropped, "truncated": self.truncated,
        }  # fmt: skip


@dataclass
class ChoiceSet:
    """One request a choice for every row: `requests[i][j]` is row i with choice j, `gold[i]` is the right j, or -1.

    `choices[i][j]` is the choice's text without the delimiter: acc_norm and acc_bytes divide by its length. There are no
    texts where the answers are free: a row's requests are then its answer, mostly one."""

    requests: list[list[Encoded]] = field(default_factory=list)
    gold: list[int] = field(default_factory=list)
    choices: list[tuple[str, ...]] = field(default_factory=list)
    row_of: list[Row] = field(default_factory=list)
    dropped: int = 0
    truncated: int = 0

    @property
    def tokens(self) -> int:
        """The tokens of all requests, before any of them are shared."""
        return sum(len(request.ids) for requests in self.requests for request in requests)

    def parted(self, test: Callable[[list[Encoded]], bool]) -> tuple[ChoiceSet, ChoiceSet]:
        """The rows whose requests pass the test, and the others."""
        passed, failed = ChoiceSet(), ChoiceSet()
        for place, requests in enumerate(self.requests):
            part = passed if test(requests) else failed
            part.requests.append(requests)
            part.gold.append(self.gold[place])
            part.row_of.append(self.row_of[place])
            part.choices += self.choices[place : place + 1]
        return passed, failed

    def followed_by(self, other: ChoiceSet) -> ChoiceSet:
        """The rows of both, these first."""
        pairs = ((getattr(self, one.name), getattr(other, one.name)) for one in fields(self))
        return ChoiceSet(*(mine + theirs for mine, theirs in pairs))


class TooLong(ValueError):
    """An example with more tokens than allowed."""


def encode_rows(rows: Sequence[Row], spec: EncodeSpec) -> EncodedSet:
    """Prompt and gold answer of every row, to learn from; free answers of a causal model get the end-of-text token."""
    done = EncodedSet()
    end = spec.choices is None
    for chunk in chunks(rows):
        rendered = [spec.render(row) for row in chunk]
        whole = _encode_rendered(spec, [(one, one.gold) for one in rendered], end=end)
        for row, one in zip(chunk, whole, strict=True):
            kept = _fit_row(row, [one], spec)
            if kept is None:
                done.dropped += 1
                continue
            done.truncated += kept != [one]
            done.examples += kept
            done.row_of.append(row)
    return done


def encode_choices(rows: Sequence[Row], spec: EncodeSpec) -> ChoiceSet:
    """Every row with every choice, for scoring. A row of which one request is too long is dropped as a whole."""
    if spec.choices is None:
        raise ValueError("choices are scored, free answers are not")
    done = ChoiceSet()
    for chunk in chunks(rows):
        rendered = [spec.render(row) for row in chunk]
        asked = [(one, place) for one in rendered for place in range(len(one.choices or ()))]
        whole = iter(_encode_rendered(spec, asked))
        for row, one in zip(chunk, rendered, strict=True):
            assert one.choices is not None  # the spec has choices
            requests = list(islice(whole, len(one.choices)))
            kept = _fit_row(row, requests, spec)
            if kept is None:
                done.dropped += 1
                continue
            done.truncated += kept != requests
            done.requests.append(kept)
            done.gold.append(-1 if one.gold is None else one.gold)
            done.choices.append(one.choices)
            done.row_of.append(row)
    return done


def _encode_rendered(
    spec: EncodeSpec, asked: Sequence[tuple[Rendered, int | None]], *, end: bool = False
) -> list[Encoded]:
    """Prompts, each with the choice of the given place, or, for None, with its free answer."""
    if spec.kind == "classifier":
        return _classified(spec.tokenizer, asked)
    pairs = [
        (one.prompt, one.choices[place] if one.choices and place is not None else one.answer or "")
        for one, place in asked
    ]
    return spec.encode(pairs, end=end)


def encode_pair(
    tokenizer: Tokenizer, prompt: str, answer: str, *, delimiter: str, kind: Predicting, max_length: int, end: bool = False,
    on_long: OnLong = "error",
) -> Encoded | None:  # fmt: skip
    """One prompt and answer; None if it was too long and is to be dropped, `TooLong` if that is an error."""
    (one,) = encode_pairs(tokenizer, [(prompt, answer)], delimiter=delimiter, kind=kind, end=end)
    check_supervised(one, f"the answer {answer!r}")
    if on_long == "drop" and len(one.ids) > max_length:
        return None
    return fit(one, max_length, frame(tokenizer)[0] if kind == "masked" else (), truncate=on_long == "truncate")


def encode_pairs(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], *, delimiter: str, kind: Predicting, end: bool = False,
    form: Form = FORM,
) -> list[Encoded]:  # fmt: skip
    """Prompts and answers at full length. `end` makes the end-of-text token the last supervised one (causal only)."""
    if kind == "masked":
        return _masked(tokenizer, pairs, delimiter)
    return _causal(tokenizer, pairs, delimiter, end, form)


def fit(
    one: Encoded, max_length: int, front: Sequence[int] = (), *, truncate: bool = False, suffix: int = 0
) -> Encoded:
    """Cut the prompt at its left, behind the tokens `front` and before `suffix` that are not the row's, until it fits."""
    excess = len(one.ids) - max_length
    if excess <= 0:
        return one
    if not truncate:
        raise TooLong(f"{len(one.ids):,} tokens are more than {max_length:,}")
    keep = len(front) if one.ids[: len(front)] == tuple(front) else 0
    # A classifier's row is the first of the special tokens: it stays where it is.
    end = next((row for row in one.rows if row >= keep), len(one.ids)) - suffix
    if keep + excess > end:
        raise TooLong(f"the answer alone has {len(one.labels):,} tokens, more than fit into {max_length:,}")
    ids = one.ids[:keep] + one.ids[keep + excess :]
    return Encoded(ids, tuple(row - excess * (row >= keep) for row in one.rows), one.labels)


def _fit_row(row: Row, requests: list[Encoded], spec: EncodeSpec) -> list[Encoded] | None:
    for one in requests:
        check_supervised(one, row.where)
    longest = max(len(one.ids) for one in requests)
    if longest <= spec.max_length:
        return requests
    if spec.on_long == "drop":
        return None
    front = spec.words.before if spec.kind == "causal" else frame(spec.tokenizer)[0]
    try:
        cut, suffix = spec.on_long == "truncate", len(spec.words.behind)
        return [fit(one, spec.max_length, front, truncate=cut, suffix=suffix) for one in requests]
    except TooLong as error:
        hint = "shorten the row, or set data.on_long to drop" + (" or truncate" if spec.on_long == "error" else "")
        more = f", {len(spec.virtual):,} of them virtual: fewer with --tokens" if spec.virtual else ""
        raise DataError(f"{row.where}: {error}{more}", hint) from error


def check_supervised(one: Encoded, where: str) -> None:
    """Refuse an example from which nothing could be learned."""
    if not one.labels:
        raise DataError(
            f"{where}: no supervised tokens: the answer leaves no token of its own",
            "check the answer, and that data.delimiter keeps it from merging with the prompt",
        )


def _causal(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], delimiter: str, end: bool, form: Form
) -> list[Encoded]:
    front = frame(tokenizer)[0] if form.framed else ()
    last = () if not end else (end_of_text(tokenizer),)
    contexts = [prompt.rstrip() if form.strip else prompt for prompt, _ in pairs]
    known = list(dict.fromkeys(contexts))  # choices share their prompts
    prompts = dict(zip(known, content(tokenizer, known), strict=True))
    texts = content(tokenizer, [join(prompt, delimiter, answer) for prompt, answer in pairs])
    prefix = None if all(contexts) else first_token(tokenizer)
    done = []
    for context, text in zip(contexts, texts, strict=True):
        whole = tuple(text["input_ids"])
        if context:
            asked = tuple(prompts[context]["input_ids"])
            said = whole[len(asked) :]
            asked = asked if starts_itself(tokenizer, asked) else (*front, *asked)
        else:
            assert prefix is not None
            asked, said = (prefix,), whole[1:] if whole[:1] == (prefix,) else whole
        labels = (*said, *last) if said else ()
        fed = (*asked, *labels)[:-1]
        done.append(Encoded(fed, tuple(range(len(asked) - 1, len(fed))), labels))
    return done


def _masked(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], delimiter: str) -> list[Encoded]:
    front, back = frame(tokenizer)
    mask = tokenizer.mask_token_id
    if mask is None:
        raise ModelError("the tokenizer has no mask token", "a model without one is not a masked model")
    texts = [join(prompt, delimiter, answer) for prompt, answer in pairs]
    done = []
    for text, (_, answer), encoding in zip(texts, pairs, content(tokenizer, texts, offsets=True), strict=True):
        start, ids = len(text) - len(answer), list(encoding["input_ids"])
        places = [i for i, (_, stop) in enumerate(encoding["offset_mapping"]) if stop > start]
        labels = tuple(ids[i] for i in places)
        for i in places:
            ids[i] = mask
        done.append(Encoded((*front, *ids, *back), tuple(len(front) + i for i in places), labels))
    return done


def _classified(tokenizer: Tokenizer, asked: Sequence[tuple[Rendered, int | None]]) -> list[Encoded]:
    front, back = frame(tokenizer)
    if not front:
        raise ModelError(
            "the tokenizer puts no token before a text, whose state could stand for all of it", "use the model's own"
        )
    known = list(dict.fromkeys(one.prompt for one, _ in asked))  # choices share their prompts
    read = dict(zip(known, content(tokenizer, known), strict=True))
    return [Encoded((*front, *read[one.prompt]["input_ids"], *back), (0,), (place or 0,)) for one, place in asked]


def chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """As many rows as go into one call of the tokenizer."""
    return (rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK))
