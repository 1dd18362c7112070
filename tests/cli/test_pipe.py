"""Questions through `fewshot --eval -`, as pipes bring them: cut off, with a mark at the start, broken, huge or no text."""

from __future__ import annotations

import json
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.data.open import BOM

from .conftest import Stream, pick

if TYPE_CHECKING:
    from collections.abc import Callable

QUESTIONS = [{"text": "a fine film"}, {"text": "dull"}, {"text": "电影"}]
LINES = [json.dumps(row, ensure_ascii=False).encode() for row in QUESTIONS]


@pytest.fixture
def piped(said: Callable[..., Any], task: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """piped(b"...", option, ...): these bytes on standard input."""

    def piped(data: bytes, *more: str) -> Any:
        asked = pick(task, "--model", "--train", "--prompt", "--answer", "--device")
        words = ["--choices", "negative,positive", "--shots", "1", "--select", "fixed", "--eval", "-", "--quiet"]
        with TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            monkeypatch.setattr(Stream, "fileno", lambda stream: file.fileno(), raising=False)
            return said("fewshot", *asked, *words, *more)

    return piped


def answers(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


FORMS = {
    "no last line break": b"\n".join(LINES),
    "byte order mark": BOM + b"\n".join(LINES) + b"\n",
    "CRLF": b"\r\n".join(LINES) + b"\r\n",
    "blank lines at the end": b"\n".join(LINES) + b"\n\n \n",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_question_is_answered(form: str, piped: Callable[..., Any]) -> None:
    answer = piped(FORMS[form])
    assert (answer.code, answer.err) == (0, "")
    found = answers(answer.out)
    assert [one["line"] for one in found] == [1, 2, 3]
    assert [one["input"] for one in found] == QUESTIONS
    assert all(one["prediction"] in ("negative", "positive") for one in found)


def test_no_question_has_no_answer(piped: Callable[..., Any]) -> None:
    assert piped(b"") == piped(b"\n")
    assert (piped(b"").code, piped(b"").out, piped(b"").err) == (0, "", "")


BROKEN = {
    "cut off": (b'{"text": "a', "broken JSON"),
    "no field": (b'{"txt": "a"}', "text"),
    "blank": (b"", "a blank line between rows"),
    "a mark": (BOM + LINES[0], "broken JSON"),
    "binary": (bytes(range(128, 200)), "is not UTF-8: byte 1"),
    "NUL": (b"\0\0\0", "broken JSON"),
    "a list": (b"[1]", "a list, not a JSON object"),
    "long": (b'{"text": "' + b"film " * 20_000 + b'"}', "tokens"),
    "a megabyte": (b'{"text": "' + b"film " * 210_000 + b'"}', "more than 1,000,000 characters"),
}


WRITTEN = ("--set", "data.choices=null", "--set", "generate.max_tokens=2")


@pytest.mark.parametrize("more", [(), WRITTEN], ids=["choices", "written"])
def test_broken_rows_are_marked_in_their_place(more: tuple[str, ...], piped: Callable[..., Any]) -> None:
    marked = piped(b"\n".join([LINES[0], *(raw for raw, _ in BROKEN.values()), LINES[2]]), "--on-error", "mark", *more)
    first, *wrong, last = answers(marked.out)
    assert marked.code == 0
    for number, (one, (_, said)) in enumerate(zip(wrong, BROKEN.values(), strict=True), 2):
        assert one.keys() == {"line", "error"}
        assert one["line"] == number
        assert one["error"].startswith(f"stdin line {number}")
        assert said in one["error"]
    assert [first["input"], last["input"]] == [QUESTIONS[0], QUESTIONS[2]]
    complaints = marked.err.splitlines()
    assert len(complaints) == len(BROKEN)
    assert all(line.startswith(f"error: stdin line {number}") for number, line in enumerate(complaints, 2))


@pytest.mark.parametrize("name", ["binary", "a megabyte"])
def test_a_broken_row_ends_the_stream_behind_the_answers_before_it(name: str, piped: Callable[..., Any]) -> None:
    stopped = piped(b"\n".join([LINES[0], BROKEN[name][0], LINES[2]]))
    assert stopped.code == 4
    assert [one["line"] for one in answers(stopped.out)] == [1]
    assert stopped.err.startswith("error: stdin line 2")


def test_standard_input_that_is_closed(said: Callable[..., Any], task: list[str]) -> None:
    answer = said("fewshot", *pick(task, "--model", "--train", "--prompt", "--answer"), "--eval", "-", stdin=None)
    assert answer.code == 4
    assert "standard input is closed" in answer.err


def test_one_pipe_is_not_two_files(piped: Callable[..., Any]) -> None:
    answer = piped(b"\n".join(LINES), "--train", "-")
    assert answer.code in (2, 4)
    assert "unexpected" not in answer.err
