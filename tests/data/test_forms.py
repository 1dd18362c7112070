"""The grammar of questions and instructions."""

from __future__ import annotations

import pytest

from ctxtune.data.forms import forms, instructions, listed
from ctxtune.data.read import Row
from ctxtune.data.render import compile_template

CHOICES = ["negative", "positive"]


def test_a_review_and_its_sentiment() -> None:
    found = forms("Review: {{ text }}\nSentiment:", CHOICES)
    assert found[0] == "Review: {{ text }}\nSentiment:"
    assert "Review: {{ text }}\nThe sentiment of this review is" in found
    assert "Review: {{ text }}\nSentiment (negative or positive):" in found
    assert '"{{ text }}"\nSentiment:' in found
    said = instructions("Review: {{ text }}\nSentiment:", CHOICES, "\n\n")
    assert said[0] == "Is the review negative or positive?\n\n"
    assert len(set(said)) == len(said)
    assert len(set(found)) == len(found) > 8


@pytest.mark.parametrize(
    "prompt", ["{{ text }}", "{{text|trim}} ", "A: {{ text }}, B: {{ text }}\nWhich:\n", "{{ text['x'] or 'y' }}"]
)
def test_every_form_reads_the_fields_that_the_prompt_reads(prompt: str) -> None:
    row = Row({"text": {"x": "fun"} if "[" in prompt else "fun"}, "rows.jsonl", 1)
    for form in forms(prompt, ["a", "b", "c"]):
        template = compile_template(form, "data.prompt")
        assert template.names == ("text",)
        assert "fun" in template.render(row)
        assert form[len(form.rstrip()) :] == prompt[len(prompt.rstrip()) :]


@pytest.mark.parametrize("prompt", ["Say:", "{% if text %}{{ text }}{% endif %} =", "{# note #}{{ text }}"])
def test_what_is_no_form_stays_as_it_is(prompt: str) -> None:
    assert forms(prompt, CHOICES) == [prompt]
    assert instructions(prompt, CHOICES, "")[0] == "Is the text negative or positive?"


def test_choices_are_listed_where_they_are_few_and_plain() -> None:
    assert listed(["a", "b", "c"]) == "a, b or c"
    assert listed([str(one) for one in range(13)]) is None
    assert listed(["a", "{{ b }}"]) is None
    assert listed([]) is None
    assert not any("{{ b }}" in one for one in forms("{{ text }}", ["a", "{{ b }}"]))
    assert instructions("Q: {{ text }}\nIntent:", [], "\n")[0] == "Give the intent of the q.\n"
