"""The bundled recipes load strictly, and the commented one explains every key there is."""

from __future__ import annotations

import re

import pytest

from ctxtune.recipe import gallery, keys
from ctxtune.recipe.load import load
from ctxtune.recipe.schema import Recipe, json_schema

TEMPLATES = gallery.names()


def test_the_gallery_holds_what_the_commands_promise():
    assert {"quickstart", "freeze"} <= set(TEMPLATES)
    assert gallery.find("quickstart") == gallery.template_folder() / "quickstart.yaml"
    assert gallery.find("../templates/quickstart") is None
    assert gallery.find("") is None


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_loads_and_says_what_it_is_for(name):
    resolved = load(name, {})
    assert resolved.folder == gallery.template_folder()
    purpose = dict(gallery.list_templates())[name]
    assert len(purpose) > 20
    assert gallery.find(name).read_text(encoding="utf-8").startswith(f"# {purpose}\n")


def test_the_quickstart_is_what_the_readme_says():
    recipe = load("quickstart", {}).recipe
    assert recipe.model == "smollm2-135m-instruct-q4"
    assert recipe.data.train == str(gallery.template_folder() / "data/mr_train.jsonl")
    assert recipe.data.prompt == "Review: {{ text }}\nSentiment:"
    assert recipe.data.choices == ["negative", "positive"]
    assert (recipe.method.layers, recipe.train.epochs, recipe.train.batch) == ("last:4", 1.0, 16)


def explained(text: str) -> dict[str, str]:
    """The comment of each dotted key of a recipe in block style."""
    found, section = {}, ""
    for indent, name, comment in re.findall(r"^( *)(\w+):.*?  # (.*)$", text, re.M):
        section = section if indent else name
        found[f"{section}.{name}" if indent else name] = comment
    return found


NOT_READ = {
    "freeze": ("train.optimizer",),
    "prompt": (
        "train.optimizer", "data.messages", "data.tools", "data.learn", "train.pack", "generate.chat",
        "generate.system",
    ),
    "fewshot": (
        "data.text", "data.held_out", "data.replay", "train.", "forget.", "data.messages", "data.tools", "data.learn",
        "generate.chat", "generate.system",
    ),
    "pretrain": (
        "quant", "forget.", "generate.", "score.", "cache", "train.pack", "data.prompt", "data.answer", "data.choices",
        "data.messages", "data.tools", "data.learn", "data.delimiter", "data.separator", "data.instruction",
        "data.max_length", "data.on_long", "data.replay",
    ),
}  # fmt: skip
"""what a method has no use for, or refuses"""


@pytest.mark.parametrize("name", NOT_READ)
def test_the_commented_template_has_every_key_its_meaning_and_its_default(name: str) -> None:
    resolved = load(name, {})
    comments = explained(gallery.find(name).read_text(encoding="utf-8"))
    model = {} if name == "pretrain" else {"model": "m"}
    defaults = dict(keys.leaves(Recipe(**model, method={"name": name})))
    own = {"model", "data.train", "data.eval", "data.prompt", "data.answer", "data.choices", "method.shots"}
    for key, value in keys.leaves(resolved.recipe):
        if key.startswith(NOT_READ[name]):
            assert resolved.origin[key] == "default", key
            continue
        assert resolved.origin[key] == "recipe", key
        kinds = keys.owners()[key]
        kind = kinds[name] if key.startswith("method.") else kinds[""]
        assert comments[key] == kind.model_fields[key.rpartition(".")[2]].description, key
        if key not in own:
            assert value == defaults[key], key


def test_every_key_has_a_description_of_one_line():
    schema = json_schema()
    assert schema["$schema"].startswith("https://json-schema.org/")
    for part in (schema, *schema["$defs"].values()):
        assert part["additionalProperties"] is False
        for name, field in part["properties"].items():
            assert 5 < len(field["description"]) < 100, name
            assert "\n" not in field["description"]
    assert schema["required"] == ["model", "method"]
