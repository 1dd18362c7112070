from __future__ import annotations

import pytest

from ctxtune.data.read import Row
from ctxtune.data.render import Rendered, compile_template, render_row
from ctxtune.errors import DataError, RecipeError

TEXTS = ["fog", "rain", "a drought"]
LETTERS = ["A", "B", "C"]


def read(
    choices: object, answer: object, template: str = "{{ choices }}", said: str = "{{ answer }}", **fields: object
) -> Rendered:
    row = Row({"question": "What?", "choices": choices, "answer": answer, **fields}, "arc.jsonl", 7)
    prompt, answers = compile_template("{{ question }}", "data.prompt"), compile_template(said, "data.answer")
    return render_row(row, prompt, answers, compile_template(template, "data.choices"), "")


@pytest.mark.parametrize("answer", [2, "a drought"])
def test_a_list_and_a_place_or_a_text(answer: object) -> None:
    assert read(TEXTS, answer) == Rendered("What?", "a drought", tuple(TEXTS), 2)


@pytest.mark.parametrize("answer", ["C", 2, "a drought"])
def test_texts_with_labels(answer: object) -> None:
    assert read({"text": TEXTS, "label": LETTERS}, answer) == Rendered("What?", "a drought", tuple(TEXTS), 2)


@pytest.mark.parametrize("answer", ["2", 2])
def test_labels_go_before_places_and_texts(answer: object) -> None:
    """ARC numbers some of its choices from 1, and some of its choices are numbers."""
    assert read({"text": ["3", "2", "1"], "label": ["1", "2", "3"]}, answer).gold == 1
    assert read({"text": ["2", "1", "0"], "label": ["0", "1", "2"]}, answer).answer == "0"


def test_a_number_is_a_place_even_where_the_choices_are_numbers() -> None:
    assert read([1, 2, 3.5], 1) == Rendered("What?", "2", ("1", "2", "3.5"), 1)
    assert read([1, 2, 3.5], 1, said="{{ answer | string }}").gold == 0
    assert read(["1", "2", "3"], "1").gold == 0


def test_other_expressions() -> None:
    assert read({"text": TEXTS}, 1, "{{ choices.text }}").answer == "rain"
    assert read(None, 1, "{{ [one, two] }}", one="yes", two="no").answer == "no"
    assert read("fog|rain", 1, "{{ choices.split('|') }}").answer == "rain"
    assert read(TEXTS, 3, said="{{ answer - 1 }}").answer == "a drought"
    assert read(TEXTS, "1", said="{{ answer | int }}").answer == "rain"
    assert read(TEXTS, 0, "{{ choices }}", result="a field may be called so").gold == 0
    assert read([], 1, "{{ result }}", result=TEXTS).answer == "rain"


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ("fog, rain", "gives 'fog, rain', not a list"),
        (7, "gives int, not a list"),
        ([], "gives a list of 0, choices are at least 2"),
        (["fog"], "gives a list of 1, choices are at least 2"),
        (["c"] * 1001, "gives a list of 1,001, choices are at most 1,000"),
        (["fog", "rain", "fog"], ": 'fog' stands there twice, at 0 and 2"),
        (["1", 1], ": '1' stands there twice, at 0 and 1"),
        (["fog", None], "[1] is null, not a text"),
        (["fog", True], "[1] is bool, not a text"),
        (["fog", ["rain"]], "[1] is list, not a text"),
        (["fog", " "], "[1] is empty"),
        ({"text": TEXTS}, "gives an object with 'text', not with 'text' and 'label'"),
        ({}, "gives an object with nothing, not with"),
        ({"text": TEXTS, "label": ["A", "B"]}, "gives 3 texts and 2 labels"),
        ({"text": TEXTS, "label": ["A", "B", "A"]}, ".label: 'A' stands there twice"),
        ({"text": "fog", "label": LETTERS}, ".text gives 'fog', not a list"),
    ],
)
def test_wrong_choices_name_the_line(choices: object, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(choices, 0)
    assert str(caught.value).startswith("arc.jsonl line 7: data.choices")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "said", "hint"),
    [
        (3, "the answer 3 is no place among 3 choices, counted from 0", "{{ answer - 1 }}"),
        (-1, "the answer -1 is no place among 3 choices", "{{ answer | string }}"),
        ("1", "the answer '1' is none of the choices 'fog', 'rain', 'a drought'", "{{ answer | int }}"),
        (True, "the answer 'True' is none of the choices", "mend the row"),
        ("Rain", "the answer 'Rain' is none of the choices", "only in case"),
        ("B", "the answer 'B' is none of the choices", "mend the row"),
        ("a drough", "the answer 'a drough' is none of the choices", "did you mean 'a drought'"),
        (" ", "the answer is empty", None),
    ],
)
def test_wrong_answers_name_the_line(answer: object, said: str, hint: str | None) -> None:
    with pytest.raises(DataError) as caught:
        read(TEXTS, answer)
    assert str(caught.value).startswith(f"arc.jsonl line 7: {said}")
    assert hint is None or hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ coices }}", "arc.jsonl line 7: no field 'coices'"),
        ("{{ choices.txt }}", "has no attribute 'txt'"),
        ("{{ choices }} ", "a list or an object has no text of its own"),
        ("{{ choices | reverse }}", "gives list_reverseiterator, not a list"),
        ("{{ range(1000) | list + range(100000) | list }}", "gives a list of 101,000"),
    ],
)
def test_wrong_expressions(template: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(TEXTS, 0, template)
    assert said in str(caught.value)


def test_an_expression_stays_in_its_sandbox() -> None:
    with pytest.raises(RecipeError, match="__class__"):
        compile_template("{{ choices.__class__ }}", "data.choices")
    with pytest.raises(DataError, match="makes more than 1,000,000 characters"):
        read(TEXTS, 0, "{{ [choices | tojson ~ (range(100000) | list | tojson) ~ (range(99999) | list | tojson)] }}")
