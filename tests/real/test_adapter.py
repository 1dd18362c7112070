"""The adapter that quickstart made: scored, used, looked at, merged, exported."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from safetensors.numpy import load_file

from .conftest import MODEL, ROWS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Ended, Quickstart

pytestmark = pytest.mark.real
PROMPTS = (
    "Review: a quiet, moving and very funny film\nSentiment:",
    "Review: dull , stupid and endless\nSentiment:",
    "Review: one of the best films of the year\nSentiment:",
)


@pytest.fixture(scope="session")
def three_lines(adapter: Path, ctxtune: Callable[..., Ended]) -> list[dict[str, object]]:
    """What the adapted model says to three lines of standard input."""
    lines = "".join(prompt.replace("\n", "\\n") + "\n" for prompt in PROMPTS)
    done = ctxtune("generate", "--adapter", adapter, "--max-tokens", 1, "--json", stdin=lines)
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_the_file_alone_scores_as_the_run_said(
    quickstart: Quickstart, adapter: Path, ctxtune: Callable[..., Ended], tmp_path: Path
) -> None:
    alone = tmp_path / "sent-by-mail.safetensors"
    alone.write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    done = ctxtune("eval", "--adapter", alone, "--eval", ROWS, "--json")
    assert done.code == 0, done.err
    scores, expected = done.json["scores"], quickstart.facts["scores"]["after"]
    assert scores["acc"] == expected["acc"]
    assert scores["loss"] == pytest.approx(expected["loss"], abs=1e-4)


def test_three_lines_of_input_give_three_answers_in_their_order(three_lines: list[dict[str, object]]) -> None:
    assert [line["prompt"] for line in three_lines] == list(PROMPTS)
    assert [str(line["text"]).strip() for line in three_lines] == ["positive", "negative", "positive"]
    assert [line["tokens"] for line in three_lines] == [1, 1, 1]


def test_one_prompt_gives_the_same_answer(
    quickstart: Quickstart, three_lines: list[dict[str, object]], ctxtune: Callable[..., Ended]
) -> None:
    done = ctxtune("generate", PROMPTS[1], "--adapter", quickstart.run, "--max-tokens", 1)
    assert done.code == 0, done.err
    assert done.out.removesuffix("\n") == three_lines[1]["text"]


def test_show_reads_the_header_alone(quickstart: Quickstart, adapter: Path, ctxtune: Callable[..., Ended]) -> None:
    done = ctxtune("adapter", "show", adapter, "--json")
    assert done.code == 0, done.err
    facts, manifest = done.json, done.json["manifest"]
    assert (manifest["method"], facts["container"], facts["base"]) == ("freeze", "LN_TUNING", MODEL)
    assert facts["numbers"] == manifest["trainable"] == quickstart.facts["trainable"]
    assert manifest["scores"] == quickstart.facts["scores"]
    assert manifest["forgetting"] == quickstart.facts["forgetting"]
    assert done.seconds < 2.5  # torch alone takes longer to import


def test_verify_knows_the_base(adapter: Path, ctxtune: Callable[..., Ended]) -> None:
    done = ctxtune("adapter", "verify", adapter, "--model", MODEL, "--json")
    assert done.code == 0, done.err
    assert done.json["ok"]
    assert all(check["ok"] for check in done.json["checks"])


def test_export_holds_the_same_tensors(exported: Path, adapter: Path) -> None:
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (exported, adapter))
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    config = json.loads((exported / "adapter_config.json").read_text("utf-8"))
    assert config["peft_type"] == "LN_TUNING"
    assert len(config["target_modules"]) == 4 * 9  # of each layer 4 + 3 linear modules and 2 norms


def test_merging_loses_nothing_in_float32(merge: Ended) -> None:
    assert merge.json["changed_tensors"] == 4 * 9
    assert not merge.json["untied"]
    assert 0 <= merge.json["kl"] < 1e-6
