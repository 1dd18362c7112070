"""What a tokenizer makes of texts, and the special tokens that it puts around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Tokenizer(Protocol):
    """What is used of a tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None
    mask_token_id: int | None

    def __call__(self, text: Any, **options: Any) -> Mapping[str, Any]: ...

    def convert_ids_to_tokens(self, ids: list[int]) -> Any: ...


def content(tokenizer: Tokenizer, texts: list[str], *, offsets: bool = False) -> list[dict[str, Any]]:
    """The tokens of each text without the special tokens around it."""
    if not texts:
        return []
    options = {"return_offsets_mapping": True} if offsets else {}
    try:
        encoding = tokenizer(texts, add_special_tokens=False, **options)
    except NotImplementedError as error:
        raise ModelError("the tokenizer does not say where in the text its tokens stand", "use a fast one") from error
    names = ("input_ids", "offset_mapping") if offsets else ("input_ids",)
    return [dict(zip(names, values, strict=True)) for values in zip(*(encoding[name] for name in names), strict=True)]


def frame(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer puts before and behind a text by default."""
    for probe in ("a", "0", "."):
        bare = tuple(tokenizer(probe, add_special_tokens=False)["input_ids"])
        full = tuple(tokenizer(probe)["input_ids"])
        for at in range(len(full) - len(bare) + 1):
            if bare and full[at : at + len(bare)] == bare:
                return full[:at], full[at + len(bare) :]
    raise ModelError("the tokenizer encodes neither 'a' nor '0' nor '.'", "the model's tokenizer files may be broken")


def starts_itself(tokenizer: Tokenizer, ids: tuple[int, ...]) -> bool:
    """Whether a text brings the token that it starts with: it needs no other then."""
    return bool(ids) and ids[0] == _first(tokenizer)


def first_token(tokenizer: Tokenizer) -> int:
    """What stands where a text has no token of its own: BOS, else EOS."""
    first = _first(tokenizer)
    if first is None:
        raise ModelError("the tokenizer has neither a BOS nor an EOS token to start an empty prompt with")
    return first


def end_of_text(tokenizer: Tokenizer) -> int:
    """The token behind which nothing follows."""
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end-of-text token to end a free answer with", "set data.choices")
    return tokenizer.eos_token_id


def _first(tokenizer: Tokenizer) -> int | None:
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def virtual_tokens(count: int) -> tuple[int, ...]:
    """Numbers that no tokenizer writes."""
    return tuple(range(-1, -count - 1, -1))
