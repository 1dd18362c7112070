from __future__ import annotations

import time

import pytest

from ctxtune.data.read import Row
from ctxtune.data.render import Rendered, compile_template, render_row
from ctxtune.errors import DataError, RecipeError

FIELDS: dict[str, object] = {
    "text": "a fine film <b> & {{ text }}",
    "label": "positive",
    "n": 3,
    "options": ["yes", "no"],
    "doc": {"title": "T", "keys": "K"},
    "gone": None,
}
ROW = Row(FIELDS, "dev.csv", 7)


def render(text: str) -> str:
    return compile_template(text, "data.prompt").render(ROW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Review: {{ text }}\n", "Review: a fine film <b> & {{ text }}\n"),  # nothing escaped, nothing rendered twice
        ("\n{{ label | upper }} \n\n", "\nPOSITIVE \n\n"),
        ("{{ n }} {{ n + 1 }} {{ n * 2 }} {{ n % 2 }} {{ 2 ** 10 }} {{ 7 / 2 }}", "3 4 6 1 1024 3.5"),
        ("{{ (7 / 3) | round(2) }} {{ 2.4 | round }}", "2.33 2"),
        ("{% for o in options %}{{ loop.index }}. {{ o }}{{ '' if loop.last else '; ' }}{% endfor %}", "1. yes; 2. no"),
        ("{% for a in options %}{% for b in options %}{{ a[0] ~ b[0] }} {% endfor %}{% endfor %}", "yy yn ny nn "),
        ("{% for i in range(3) if i %}{{ i }}{% else %}none{% endfor %}", "12"),
        ("{{ options | join(', ') }} {{ options[1] }} {{ options | length }}", "yes, no no 2"),
        ("{{ options | tojson }} {{ {'ä': '<'} | tojson }}", '["yes", "no"] {"ä": "<"}'),
        ("{{ doc.title }} {{ doc['keys'] }} {{ doc.get('x', 'y') }}", "T K y"),
        ("{{ text.replace('fine', 'dull') | title }}", "A Dull Film <B> & {{ Text }}"),
        ("{{ text | replace('a', '', 1) | trim }}", "fine film <b> & {{ text }}"),
        ("{% set short = text[:6] %}{{ short ~ '!' ~ n }}", "a fine!3"),
        ("{{ gone | default('none') }} {{ gone is defined }} {{ other is defined }}", "none False False"),
        ("{{ 'many' if n > 2 else 'few' }} {{ label in ['positive'] }} {{ text.startswith('a') }}", "many True True"),
        ("{# a note #}{% raw %}{{ kept }}{% endraw %}", "{{ kept }}"),
        ("line\r\nend", "line\nend"),
        ("", ""),
    ],
)
def test_the_language(text: str, expected: str) -> None:
    assert render(text) == expected


def test_names_are_the_fields_a_template_reads() -> None:
    text = "{% set y = b %}{% for i in range(2) %}{{ loop.index }}{{ a ~ y ~ i }}{% endfor %}{{ c | default('') }}"
    assert compile_template(text, "k").names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("{{ txt }}", r"no field 'txt'; the fields are: text, label, n, options, doc, gone$", "did you mean 'text'"),
        ("{{ zzz }}", "no field 'zzz'", "data.prompt is '{{ zzz }}'"),
        ("{% for x in optoins %}{% endfor %}", "no field 'optoins'", "did you mean 'options'"),
        ("{% if lable == 'x' %}{% endif %}", "no field 'lable'", "did you mean 'label'"),
        ("{{ gone }}", "field 'gone' is null", "data.prompt needs it"),
        ("{{ gone | upper }}", "field 'gone' is null", "data.prompt needs it"),
        ("{{ doc.missing }}", "'dict object' has no attribute 'missing'", None),
        ("{{ options }}", r"a list or an object has no text of its own: write \| join", None),
        ("{{ doc ~ '' }}", r"a list or an object has no text of its own", None),
        ("{{ text.upper }}", r"a method is not called: write \(\)", None),
        ("{{ none }}", "null has no text", None),
        ("{{ range(3) }}", r"range has no text: write \| list", None),
        ("{{ n + text }}", "unsupported operand", None),
        ("{{ n / 0 }}", "division by zero", None),
        ("{{ options[5] }}", "has no element 5", None),
        ("{{ lipsum() }}", "no field 'lipsum'", None),
    ],
)
def test_what_a_row_does_not_give(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(DataError, match=message) as caught:
        render(text)
    assert str(caught.value).startswith("dev.csv line 7: ")
    assert "\n" not in str(caught.value)
    if hint is not None:
        assert caught.value.hint is not None
        assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n{{ text", "data.prompt line 2: unexpected end of template"),
        ("{% if %}", "data.prompt line 1: "),
        ("{{ text | nope }}", "data.prompt line 1: No filter named 'nope'"),
        ("{{ text is nope }}", "data.prompt line 1: No test named 'nope'"),
        ("{% macro f() %}{% endmacro %}", "data.prompt line 1: macro is not allowed"),
        ("\n\n{% include 'secret.txt' %}", "data.prompt line 3: include is not allowed"),
        ("{% import 'x' as y %}", "import is not allowed"),
        ("{% extends 'x' %}", "extends is not allowed"),
        ("{% set x %}y{% endset %}", "a set block is not allowed"),
        ("{% set x = [1, [2]] %}", "not for lists"),
        ("{% for a in n recursive %}{% endfor %}", "loops may stand in each other twice"),
        ("{% for a in n %}" * 3 + "{% endfor %}" * 3, "loops may stand in each other twice"),
        ("{{ " + "(" * 5000 + "}}", "nested too deeply"),
        ("{% if n %}" * 200 + "{% endif %}" * 200, "nested too deeply"),
        ("x" * 100_001, "a template of 100,001 characters"),
        ("\ud800", "surrogate"),
        ("{{ ''.__class__.__mro__ }}", "is not allowed"),
        ("{{ cycler.__init__.__globals__ }}", "is not allowed"),
    ],
)
def test_a_bad_template_is_refused_before_any_row(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        compile_template(text, "data.prompt")
    assert str(caught.value).startswith("data.prompt")
    assert "\n" not in str(caught.value)


DOUBLE = "{% set s = 'aaaaaaaa' %}" + "{% set s = s OP s %}" * 40 + "{{ s }}"
ATTACKS = [
    "{{ ''['__class__'] }}",
    "{{ text['__class__']['__mro__'] }}",
    "{{ '{0.__class__}'.format(text) }}",
    "{{ '{}'.format(n) }}",
    "{{ '%s' % text }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ '{:>999999999}'.format_map(doc) }}",
    "{{ cycler }}{{ joiner() }}{{ namespace() }}",
    "{{ self._TemplateReference__context }}",
    "{{ range.__call__ is defined }}{{ loop }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(100000) %}{% endfor %}",
    "{% for i in range(100) %}{% for j in range(101) %}{% endfor %}{% endfor %}",
    "{% for i in range(5000) %}" + "x" * 500 + "{% endfor %}",
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ options * 10**9 }}",
    "{{ 9**(9**9) }}",
    "{{ 2**1000 * 2**1000 }}",
    "{{ (5) | round(-999999999) }}",
    "{{ 'a'.ljust(999999999) }}",
    "{{ 'a'.zfill(999999999) }}",
    "{{ 'a\t'.expandtabs(999999999) }}",
    "{{ 'a'.join(range(9)) }}",
    "{{ (1).to_bytes(999999999, 'big') }}",
    "{{ text.encode() }}",
    DOUBLE.replace("OP", "~"),
    DOUBLE.replace("OP", "+"),
    "{% set s = 'aaaaaaaa' %}" + "{% set s = s.replace('a', s) %}" * 9 + "{{ s }}",
    "{% set s = 'aaaaaaaa' %}" + "{% set s = s | replace('a', s) %}" * 9 + "{{ s }}",
    "{% set s = 'aaaaaaaa' %}" + "{% set s = [s, s, s, s] | join(s) %}" * 40 + "{{ s }}",
    "{% for i in range(9000) %}{{ range(100000) | list | length }}{% endfor %}",
    "{{ options.append('x') }}",
    "{{ doc.clear() }}",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_attacks_end_in_one_line_and_soon(text: str) -> None:
    start = time.process_time()
    with pytest.raises((DataError, RecipeError)) as caught:
        render(text)
    assert time.process_time() - start < 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_row_is_never_changed_and_the_budget_is_each_rows_own() -> None:
    template = compile_template("{% for i in range(9000) %}{% endfor %}{{ n }}", "data.prompt")
    assert [template.render(ROW) for _ in range(3)] == ["3"] * 3
    assert FIELDS["options"] == ["yes", "no"]


def test_a_field_may_have_the_name_of_anything() -> None:
    row = Row({"range": "r", "self": "s", "loop": "l", "the budget": "b"}, "f", 1)
    assert compile_template("{{ range }}{{ loop }}", "k").render(row) == "rl"


PROMPT = compile_template("Review: {{ text }}\nSentiment:", "data.prompt")
ANSWER = compile_template("{{ label }}", "data.answer")
CHOICES = ("negative", "positive")


def row(label: object, text: str = "good") -> Row:
    return Row({"text": text, "label": label}, "train.jsonl", 3)


def test_a_row_becomes_prompt_answer_and_gold() -> None:
    assert render_row(row("positive"), PROMPT, ANSWER, CHOICES, "Judge.\n\n") == Rendered(
        "Judge.\n\nReview: good\nSentiment:", "positive", CHOICES, 1
    )
    assert render_row(row("free"), PROMPT, ANSWER, None, "").gold is None
    assert render_row(row("free"), PROMPT, None, CHOICES, "").answer is None


@pytest.mark.parametrize(
    ("label", "hint"),
    [
        ("postive", "did you mean 'positive'"),
        (" positive", "only in white space"),
        ("Positive", "only in case"),
        ("neutral?!", "add it to data.choices"),
        (1, "add it to data.choices"),
    ],
)
def test_a_label_outside_the_choices(label: object, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        render_row(row(label), PROMPT, ANSWER, CHOICES, "")
    said = f"train.jsonl line 3: the answer {str(label)!r} is none of the choices 'negative', 'positive'"
    assert str(caught.value) == said
    assert hint in str(caught.value.hint)


def test_many_choices_and_a_long_label_stay_one_short_line() -> None:
    with pytest.raises(DataError) as caught:
        render_row(row("x" * 9999), PROMPT, ANSWER, [f"c{i}" for i in range(150)], "")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("label", ["", " \n"])
def test_an_empty_answer(label: str) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl line 3: the answer is empty"):
        render_row(row(label), PROMPT, ANSWER, None, "")


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["text"], "to learn texts as they are: --prompt '' --answer '{{ text }}'"),
        (["text", "file"], "to learn texts as they are: --prompt '' --answer '{{ text }}'"),
        (["question", "a b", "gold"], "as in --prompt '{{ question }}' --answer '{{ gold }}'"),
        (["messages"], "if the rows are chats: --messages messages"),
        (["a b"], "name the fields in letters, digits and _"),
        (["prompts"], "did you mean 'prompts' in data.prompt"),
    ],
)
def test_a_template_that_nobody_wrote_is_not_quoted(names: list[str], hint: str) -> None:
    with pytest.raises(DataError, match="no field 'prompt'") as caught:
        compile_template("{{ prompt }}", "data.prompt").render(Row(dict.fromkeys(names, "x"), "w.txt", 1))
    assert hint in str(caught.value.hint)
