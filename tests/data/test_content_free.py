"""Inputs that ask nothing: what is replaced in a row, and what is not."""

from __future__ import annotations

from ctxtune.data.content_free import DRAWS, contextual_rows, domain_rows, premise
from ctxtune.data.read import Row
from ctxtune.data.render import compile_template

PROMPT = compile_template("{{ title | upper }}: {{ text }} ({{ year }})\nSentiment:", "data.prompt")
ROWS = [
    Row({"title": "One", "text": "a fine  film", "year": 1999, "label": "good"}, "f", 1),
    Row({"title": "Two", "text": "dull and far too long\n", "year": 2001, "label": "bad"}, "f", 2),
    Row({"title": None, "text": "fun", "year": 2003, "label": "good"}, "f", 3),
]


def test_the_texts_say_nothing_and_the_rest_stays() -> None:
    made = contextual_rows(ROWS, PROMPT)
    assert [PROMPT.render(row) for row in made] == [
        "N/A: N/A (1999)\nSentiment:", ": \n(1999)\nSentiment:".replace("\n(", " ("), "[MASK]: [MASK] (1999)\nSentiment:",
    ]  # fmt: skip
    assert {row.fields["label"] for row in made} == {"good"}
    assert ROWS[0].fields["title"] == "One"
    assert contextual_rows(ROWS, compile_template("{{ year }}", "data.prompt")) == []


def test_random_words_are_as_many_as_a_row_has_and_come_from_its_field() -> None:
    made = domain_rows(ROWS, PROMPT, 0)
    assert len(made) == DRAWS
    words = {word for row in ROWS for word in str(row.fields["text"]).split()}
    texts = [str(row.fields["text"]).split(" ") for row in made]
    assert {len(text) for text in texts} == {3}  # 3 + 5 + 1 words in 3 rows
    assert {word for text in texts for word in text} == words
    assert {row.fields["title"] for row in made} == {"One", "Two", None}  # what is null stays so
    assert {(row.fields["year"], row.fields["label"]) for row in made} == {
        (1999, "good"),
        (2001, "bad"),
        (2003, "good"),
    }
    assert domain_rows(ROWS, PROMPT, 0) == made != domain_rows(ROWS, PROMPT, 1)


def test_letters_stand_for_words_where_there_are_no_spaces() -> None:
    prompt = compile_template("{{ text }}", "data.prompt")
    made = domain_rows([Row({"text": "很好看，very good"}, "f", 1), Row({"text": "不好"}, "f", 2)], prompt, 0)
    texts = [str(row.fields["text"]) for row in made]
    assert {len([*text.replace("very", "v").replace("good", "g").replace(" ", "")]) for text in texts} == {4}
    assert all(f"{a} {b}" not in text for text in texts for a in "很好看，不" for b in "很好看，不")
    assert any("very good" in text or "good very" in text or "very very" in text for text in texts)
    korean = domain_rows([Row({"text": "아주 좋은 영화"}, "f", 1)], prompt, 0)
    assert all(str(row.fields["text"]).count(" ") == 2 for row in korean)


def test_the_premise_is_what_the_template_leaves_behind_its_last_text() -> None:
    assert premise(ROWS[0], PROMPT) == "(1999)\nSentiment:".replace("(", " (").lstrip()
    for text, left in {
        "Review: {{ text | trim }}\nSentiment:": "Sentiment:",
        "{{ text }}": "",
        "{% if text %}Q: {{ text[:40] }}\nA:{% endif %}": "A:",
        "Sentiment of {{ title }}, {{ title }}": "",
    }.items():
        assert premise(ROWS[0], compile_template(text, "data.prompt")) == left, text
    assert premise(ROWS[0], compile_template("{{ year }}: what?", "data.prompt")) is None
