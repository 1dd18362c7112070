"""Questions through a pipe: the answers of a file, row by row, whatever stands between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.commands.stream import fewshot_stream
from ctxtune.errors import DataError, RecipeError
from ctxtune.recipe.load import load

from ..conftest import CHOICES, write_jsonl
from .test_fewshot import ASKED, POOL, PROMPT, ask  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def given(model_folders: dict[str, Path], tmp_path: Path) -> dict[str, object]:
    return {
        "model": str(model_folders["llama-tied"]), "method.name": "fewshot", "device": "cpu", "data.prompt": PROMPT,
        "data.answer": "{{ label }}", "data.choices": CHOICES, "cache": "off", "data.separator": "\n", "data.eval": "-",
        "method.shots": 3, "method.select": "fixed", "data.train": str(write_jsonl(tmp_path / "pool.jsonl", POOL)),
    }  # fmt: skip


def lines(rows: list[Any], most: int = 4) -> Iterator[list[tuple[int, bytes | None]]]:
    raw = [(number, row if isinstance(row, bytes) else json.dumps(row).encode()) for number, row in enumerate(rows, 1)]
    yield from (raw[at : at + most] for at in range(0, len(raw), most))


def told(
    given: dict[str, object], rows: list[Any], on_error: str = "stop", most: int = 4, **more: object
) -> list[dict[str, Any]]:
    recipe = load(None, {**given, **{name.replace("__", "."): value for name, value in more.items()}}, [])
    return list(fewshot_stream(recipe, lines(rows, most), on_error, [].append))


@pytest.mark.parametrize(
    ("select", "order"), [("fixed", "auto"), ("bm25", "auto"), ("knn", "as-is"), ("influence", "best")]
)
def test_the_answers_are_those_of_a_file(
    select: str,
    order: str,
    given: dict[str, object],
    ask: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
) -> None:
    more = {"method__select": select, "method__order": order}
    ask(scores=tmp_path / "items.jsonl", method__held_out=4, **more)
    items = [
        json.loads(line)["said"]["ll"] for line in (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    found = told(
        given, [{"text": row["text"]} for row in ASKED], method__held_out=4, **more
    )  # no row says what is right
    assert [one["line"] for one in found] == list(range(1, len(ASKED) + 1))
    assert [one["input"]["text"] for one in found] == [row["text"] for row in ASKED]
    for one, lls in zip(found, items, strict=True):
        assert list(one["scores"]) == CHOICES
        assert list(one["scores"].values()) == pytest.approx(lls, abs=1e-4)
        assert one["prediction"] == CHOICES[lls.index(max(lls))]


def test_what_is_written_is_that_of_a_file(given: dict[str, object], ask: Callable[..., Any], tmp_path: Path) -> None:  # noqa: F811
    more = {"data__choices": None, "generate__max_tokens": 5, "method__select": "fixed"}
    ask(scores=tmp_path / "items.jsonl", score__metric="exact", **more)
    said = [json.loads(line)["said"] for line in (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [one["answer"] for one in said] == [one["text"].strip() for one in said]
    found = told(given, ASKED, **more)
    assert [one["prediction"] for one in found] == [one["answer"] for one in said]
    assert "text" not in found[0]
    parts = told(given, ASKED, score__extract="(?s)(.)$", **more)
    assert [one["prediction"] for one in parts] == [one["text"][-1:] for one in said]
    assert [one["text"] for one in parts] == [one["text"] for one in said]


def test_what_is_drawn_is_no_matter_of_what_came_together(given: dict[str, object]) -> None:
    """The same question again gets another draw, whether it came in one batch with the first or not."""
    more = {"data__choices": None, "generate__max_tokens": 5, "generate__temperature": 2.0}
    together, apart = ([one["prediction"] for one in told(given, [ASKED[0]] * 4, most=most, **more)] for most in (4, 1))
    assert together == apart
    assert len(set(together)) > 1


def test_a_batch_of_broken_rows_asks_for_nothing(given: dict[str, object]) -> None:
    found = told(given, [b"{"] * 5, "mark", method__select="knn")
    assert ["error" in one for one in found] == [True] * 5


def test_what_looks_at_all_questions_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="select cluster looks at all questions"):
        told(given, ASKED, method__select="cluster")


BROKEN = [ASKED[0], b"{", {"no": "text"}, b"\xff", {"text": "fun " * 60}, b"[1]", ASKED[1]]


def test_broken_rows_are_marked_in_their_place(given: dict[str, object]) -> None:
    found = told(given, BROKEN, "mark")
    assert [one["line"] for one in found] == list(range(1, 8))
    assert ["error" in one for one in found] == [False, True, True, True, True, True, False]
    assert all(f"stdin line {one['line']}" in one["error"] for one in found[1:6])
    sound = told(given, [ASKED[0], ASKED[1]])
    assert [one["scores"] for one in (found[0], found[-1])] == [pytest.approx(one["scores"], abs=1e-5) for one in sound]


def test_a_broken_row_stops_behind_the_answers_before_it(given: dict[str, object]) -> None:
    answers = fewshot_stream(load(None, given, []), lines(BROKEN), "stop", [].append)
    assert next(answers)["line"] == 1
    with pytest.raises(DataError, match="stdin line 2"):
        next(answers)


def test_calibration_needs_an_end(given: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="a stream has no end"):
        told(given, ASKED, method__calibrate="batch")


def test_a_demonstration_is_read_once(given: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    from ctxtune.backend import prefix

    read, counted = prefix.read_prefix, []
    monkeypatch.setattr(prefix, "read_prefix", lambda *args: (counted.append(len(args[1])), read(*args))[1])
    told(given, [*ASKED, *ASKED, *ASKED])
    assert len(counted) == 1


def piped(given: dict[str, object]) -> list[str]:
    """The command line that answers questions from a pipe."""
    command = [sys.executable, "-m", "ctxtune", "fewshot", "--model", str(given["model"]), "--eval", "-"]
    rest = {key: value for key, value in given.items() if key not in ("method.name", "data.eval", "model")}
    return [*command, *(f"--set={key}={json.dumps(value)}" for key, value in rest.items())]


def test_a_pipe_whose_reader_leaves_ends_quietly(given: dict[str, object], tmp_path: Path) -> None:
    """The whole command: answers come before the writer is done, and `head` may leave."""
    process = subprocess.Popen(
        [*piped(given), "--quiet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(ASKED[0]).encode() + b"\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["line"] == 1
    process.stdout.close()
    process.stdin.write(b"".join(json.dumps(row).encode() + b"\n" for row in ASKED * 20))
    process.stdin.close()
    assert process.stderr is not None
    with process.stderr as stderr:
        assert (process.wait(timeout=120), stderr.read()) == (0, b"")
