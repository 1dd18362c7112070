"""JSON: one object a line (`.jsonl`), or a list of objects, alone or under the key `data` (`.json`).

It is read as other programs read it: unique keys, no NaN, no number that overflows, no half of a surrogate pair.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DIGITS = 308  # of an integer: more than any other reader of JSON keeps
SPACE = re.compile(r"[ \t\n\r]*")
BEGIN = re.compile(r'[ \t\n\r]*(?:(\{)[ \t\n\r]*"data"[ \t\n\r]*:[ \t\n\r]*)?\[')


def read_jsonl(lines: Iterator[str], source: str) -> Iterator[tuple[int, dict[str, object]]]:
    """The object on each line, and the line's number."""
    blank = 0  # the first of a run of blank lines; harmless at the end of the file only
    for line, text in enumerate(lines, 1):
        if not text.strip():
            blank = blank or line
            continue
        if blank:
            raise DataError(f"{source} line {blank}: a blank line between rows", "remove it")
        text = text.rstrip("\r\n")  # so that a text without its closing quote is named as such
        row, end = _object(text, _skip(text, 0), source, line, f"{source} line {line}")
        if text[end:].strip():
            raise DataError(f"{source} line {line} column {end + 1}: broken JSON: Extra data")
        yield line, row


def read_json(lines: Iterator[str], source: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Each object of the list, and the line on which it starts.

    The list is walked from object to object, so that what is wrong has a row and a line."""
    text = "".join(lines)
    if not text.strip():
        return
    begin = BEGIN.match(text)
    if begin is None:
        raise DataError(
            f"{source} line {_line(text, _skip(text, 0))}: this is no list of objects",
            'write [{"text": ...}, ...] or {"data": [{"text": ...}, ...]}; one object a line is .jsonl',
        )
    at = _skip(text, begin.end())
    line, counted, number = 1, 0, 0
    more = text[at : at + 1] != "]"
    while more:
        number, line, counted = number + 1, line + text.count("\n", counted, at), at
        row, at = _object(text, at, source, 1, f"{source} line {line} (row {number})")
        yield line, row
        at = _skip(text, at)
        more = text[at : at + 1] == ","
        at = _skip(text, at + 1) if more else at
    _check_end(text, at, "]}" if begin[1] else "]", source)


def read_json_object(text: str, source: str) -> dict[str, object]:
    """A file that is one object."""
    found, end = _object(text, _skip(text, 0), source, 1, source)
    if text[end:].strip():
        raise DataError(f"{source} line {_line(text, _skip(text, end))}: more stands behind the object")
    return found


def _check_end(text: str, at: int, ends: str, source: str) -> None:
    for end in ends:
        if text[at : at + 1] != end:
            said = "the file ends" if at == len(text) else f"{text[at]!r} stands"
            raise DataError(f"{source} line {_line(text, at)}: {said} where {end!r} should", "is the file cut off?")
        at = _skip(text, at + 1)
    if at < len(text):
        raise DataError(f"{source} line {_line(text, at)}: more stands behind the list of rows")


def _skip(text: str, at: int) -> int:
    """The place of the first character from `at` on that is no white space."""
    found = SPACE.match(text, at)
    assert found is not None
    return found.end()


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _object(text: str, at: int, source: str, first: int, where: str) -> tuple[dict[str, object], int]:
    """The object that starts at `at`, and where it ends; the text's first line has the number `first`."""
    try:
        value, end = DECODER.raw_decode(text, at)
        if text.find("\\u", at, end) >= 0:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        hint = "each line holds one whole JSON object; a list of them is .json" if text.strip() in "[{" else None
        place = f"{source} line {first + error.lineno - 1} column {error.colno}"
        raise DataError(f"{place}: broken JSON: {error.msg.removesuffix(' at')}", hint) from error
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: half of a surrogate pair, written \\ud800 to \\udfff, is not text") from error
    except RecursionError as error:
        raise DataError(f"{where}: the JSON is nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: {kind(value)}, not a JSON object", 'write {"text": ..., "label": ...}')
    return value, end


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return fields


def _not_finite(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits} is too large")
    return value


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits is too large")
    return int(digits)


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_not_finite, parse_float=_finite, parse_int=_whole)


def kind(value: object) -> str:
    """A value's type in words; `bool` first, as it is an `int` to Python."""
    for types, word in KINDS:
        if isinstance(value, types):
            return word
    return "null"


KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (str, "text"),
    (bool, "true or false"),
    ((int, float), "a number"),
    (list, "a list"),
    (dict, "an object"),
)
