"""The data sets that stand beside the bundled recipes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ctxtune.data.read import check_types, read_rows

FOLDER = Path(__file__).parents[2] / "templates" / "data"


def test_movie_reviews_are_balanced_and_disjoint() -> None:
    train, held_out = (read_rows(FOLDER / name) for name in ("mr_train.jsonl", "mr_eval.jsonl"))
    assert Counter(row.fields["label"] for row in train) == {"negative": 512, "positive": 512}
    assert Counter(row.fields["label"] for row in held_out) == {"negative": 200, "positive": 200}
    texts = [row.fields["text"] for row in [*train, *held_out]]
    assert len(set(texts)) == 1424
    check_types([*train, *held_out], ["text", "label"])
    assert {tuple(row.fields) for row in train} == {("text", "label")}
    assert [row.fields["label"] for row in train[:8]] not in (["negative"] * 8, ["positive"] * 8)


def test_the_probe_is_prose_of_the_right_size() -> None:
    text = (FOLDER / "probe.txt").read_bytes().decode("utf-8")
    assert 3_000 < len(text.split()) < 4_000
    assert "\r" not in text
    assert "Gutenberg" not in text


def test_the_text_of_a_budget_has_nothing_of_the_probe() -> None:
    """Of about 64 rows of 64 tokens; no line of some length stands in both."""
    probe, text = ((FOLDER / name).read_bytes().decode("utf-8") for name in ("probe.txt", "guard.txt"))
    assert 2_800 < len(text.split()) < 3_500
    assert "\r" not in text
    lines = {line.strip() for line in text.splitlines() if len(line.split()) > 5}
    assert len(lines) > 60
    assert not lines & {line.strip() for line in probe.splitlines()}


def test_every_file_is_credited() -> None:
    credits_page = (FOLDER / "CREDITS.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in credits_page
    assert "CC BY-SA 4.0" in credits_page
    assert "public domain" in credits_page
    for path in FOLDER.iterdir():
        assert path.name in credits_page or path.name == "CREDITS.md", path.name
