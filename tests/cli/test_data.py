"""`ctxtune data`: marks on a terminal and in a pipe, and text from strangers that may not draw."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..backend.test_hub import serve
from ..commands.test_pull_data import DataHub
from ..conftest import review_rows, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


def test_on_the_command_line(said: Callable[..., Any], model_folders: dict[str, Path], reviews: Path) -> None:
    task = ["--model", str(model_folders["llama-tied"]), "--prompt", "{{ text }}:", "--answer", "{{ label }}"]
    plain = said("data", "show", *task, "--train", reviews, "--rows", "1")
    row = review_rows(1)[0]
    assert plain.out == f"{reviews} line 1: {plain.out.split('line 1: ')[1].split(' tokens')[0]} tokens, " + (
        f"{plain.out.split('tokens, ')[1].split(' ')[0]} supervised\n<s>{row['text']}:[[ {row['label']}</s>]]\n\n"
    )
    coloured = said("data", "show", *task, "--train", reviews, "--rows", "1", terminal=True)
    assert "\x1b[" in coloured.out
    assert "[[" not in coloured.out
    piped = said("data", "stats", *task, "--train", "-", "--json", stdin=reviews.read_bytes())
    assert piped.json()["rows"] == 22
    listed = [json.loads(line) for line in said("data", "show", *task, "--train", reviews, "--json").out.splitlines()]
    assert [one["row"] for one in listed] == [f"{reviews} line {n}" for n in (1, 2, 3)]


def test_a_row_cannot_draw_on_the_terminal(
    said: Callable[..., Any], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a\x1b[2Jb", "label": "x"}])
    answer = said(
        "data", "show", "--model", model_folders["llama-tied"], "--train", rows, "--prompt", "{{ text }}", "--answer",
        "{{ label }}", terminal=True,
    )  # fmt: skip
    assert "\x1b[2J" not in answer.out
    assert "\\x1b[2J" in answer.out


def test_a_data_set_is_fetched(said: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    server, address = serve(DataHub())
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    first = said("data", "pull", "someone/reviews:test")
    assert first.out == "hub:someone/reviews/default:test\n"
    assert "1 files" in first.err
    facts = said("data", "pull", "someone/reviews", "--json").json()
    assert (facts["revision"], [one["fresh"] for one in facts["splits"]]) == ("a" * 40, [False, True])
    refused = said("data", "pull", "someone/reviews:dev")
    assert (refused.code, "no split 'dev'" in refused.complaint()[0]) == (4, True)
    server.shutdown()
    server.server_close()
