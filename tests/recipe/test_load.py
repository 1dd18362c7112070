"""Recipe, options and defaults become one checked recipe, and every mistake names its place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctxtune.errors import RecipeError
from ctxtune.recipe.dump import dump
from ctxtune.recipe.load import load
from ctxtune.recipe.mask import Mask
from ctxtune.recipe.pretrain import Pretrain
from ctxtune.recipe.schema import Fewshot, Freeze, Prompt

MINIMAL = "model: m\nmethod: {name: freeze}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a recipe below tmp_path, which becomes the current folder."""
    monkeypatch.chdir(tmp_path)

    def writer(text: str, name: str = "r.yaml") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return name

    return writer


def mistake(source, flags=None, sets=()):
    with pytest.raises(RecipeError) as caught:
        load(source, flags or {}, sets)
    assert "\n" not in str(caught.value)
    assert not str(caught.value).endswith(".")
    return str(caught.value), caught.value.hint or ""


def test_a_minimal_recipe_has_every_default(write):
    resolved = load(write(MINIMAL), {})
    recipe = resolved.recipe
    assert (recipe.ctxtune, recipe.quant, recipe.device, recipe.cache, recipe.out) == (1, "none", "auto", "auto", None)
    assert (recipe.train.epochs, recipe.train.batch, recipe.train.lr, recipe.train.seed) == (3.0, 32, "auto", 0)
    assert (recipe.data.prompt, recipe.data.answer, recipe.data.delimiter) == ("{{ prompt }}", "{{ answer }}", " ")
    assert recipe.method.layers == "last:4"
    assert recipe.forget.probe == "builtin"
    assert resolved.origin["model"] == "recipe"
    assert resolved.origin["method.name"] == "recipe"
    assert resolved.origin["train.lr"] == "default"
    assert resolved.source == "r.yaml"


def test_flags_alone_are_enough():
    resolved = load(None, {"model": "m", "method.name": "freeze", "data.train": None, "data.choices": ("a", "b")})
    assert resolved.recipe.model == "m"
    assert resolved.recipe.data.choices == ["a", "b"]
    assert resolved.origin["data.choices"] == "flag"
    assert resolved.origin["data.train"] == "default"


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("train.lr", "1e-3", 1e-3),
        ("train.lr", "auto", "auto"),
        ("train.clip", "null", None),
        ("data.prompt", '"a\\n": null', '"a\\n": null'),
        ("out", Path("/a/b"), "/a/b"),
        ("cache", "off", "off"),
    ],
)
def test_flags_that_come_as_texts(key, given, value):
    found = load(None, {"model": "m", "method.name": "freeze", key: given}).recipe
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_flag_before_set_before_recipe_before_default(write):
    source = write(MINIMAL + "train: {batch: 1, seed: 1, steps: 1}\n")
    resolved = load(source, {"train.batch": 3, "train.patience": None}, ["train.batch=2", "train.seed=2"])
    train = resolved.recipe.train
    assert (train.batch, train.seed, train.steps, train.patience) == (3, 2, 1, None)
    origins = [resolved.origin[f"train.{name}"] for name in ("batch", "seed", "steps", "patience")]
    assert origins == ["flag", "--set", "recipe", "default"]


def test_the_last_of_two_sets_counts(write):
    assert load(write(MINIMAL), {}, ["train.seed=1", "train.seed=2"]).recipe.train.seed == 2


def test_every_leaf_has_an_origin(write):
    from ctxtune.recipe.keys import owners

    kinds = (Fewshot, Mask, Pretrain, Prompt)
    fields = [name for kind in kinds for name in kind.model_fields if name not in Freeze.model_fields]
    others = {f"method.{name}" for name in fields}
    assert set(load(write(MINIMAL), {}).origin) == set(owners()) - others


def test_an_empty_section_is_none_at_all(write):
    assert load(write(MINIMAL + "train:\n  # lr: 1\ndata:\n"), {}).recipe.train.batch == 32


@pytest.mark.parametrize("word", ["memory", "disk", "off", "auto"])
def test_cache_off_is_a_word(write, word):
    assert load(write(MINIMAL + f"cache: {word}\n"), {}).recipe.cache == word


def test_labels_that_yaml_1_1_would_spoil(write):
    source = write(MINIMAL + "data: {choices: [yes, no, on, 'true', 1.0.0, 12:30]}\n")
    assert load(source, {}).recipe.data.choices == ["yes", "no", "on", "true", "1.0.0", "12:30"]


def test_choices_of_rows_are_a_template(write):
    template = "{{ [a, b] }}"
    assert load(write(MINIMAL + f"data: {{choices: '{template}'}}\n"), {}).recipe.data.choices == template
    assert load(write(MINIMAL), {}, [f"data.choices={template}"]).recipe.data.choices == template
    resolved = load(write(MINIMAL), {"data.choices": template})
    assert resolved.recipe.data.choices == template
    assert load(write(dump(resolved), "again.yaml"), {}).recipe.data.choices == template


def test_a_whole_number_may_stand_for_a_fraction(write):
    train = load(write(MINIMAL + "train: {epochs: 2, lr: 1, clip: 2, weight_decay: 0}\n"), {}).recipe.train
    assert (train.epochs, train.lr, train.clip, train.weight_decay) == (2.0, 1.0, 2.0, 0.0)
    assert isinstance(train.lr, float)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("train:\n  epoch: 3\n", "r.yaml line 4: unknown key 'train.epoch'", "did you mean 'train.epochs'?"),
        ("lr: 1\n", "r.yaml line 3: unknown key 'lr'", "'lr' belongs under 'train'"),
        ("data: {lr: 1}\n", "line 3: unknown key 'data.lr'", "'lr' belongs under 'train'"),
        ("train: {cache: off}\n", "line 3: unknown key 'train.cache'", "'cache' belongs to the top level"),
        ("train.lr: 1\n", "line 3: unknown key 'train.lr'", "write 'lr' under 'train:'"),
        ("training: {lr: 1}\n", "line 3: unknown key 'training'", "did you mean 'train'?"),
        ("layer: 1\n", "line 3: unknown key 'layer'", "did you mean 'method.layers'?"),
        ("zzzzzz: 1\n", "line 3: unknown key 'zzzzzz'", "keys of a recipe: ctxtune, model, quant"),
        ("data: {zzzzzz: 1}\n", "line 3: unknown key 'data.zzzzzz'", "keys under 'data': train, eval, prompt"),
        ("1: 1\n", "line 3: unknown key '1'", "keys of a recipe"),
        ("'': 1\n", "line 3: unknown key ''", "keys of a recipe"),
        ("<<: {lr: 1}\n", "line 3: unknown key '<<'", "keys of a recipe"),
        ('"a\\nb": 1\n', "line 3: unknown key 'a\\nb'", "keys of a recipe"),
        ("train: 3\n", "line 3: train is 3, but other keys belong under it", "epochs, steps, batch"),
        ("train: []\n", "line 3: train is [], but other keys", "epochs"),
        ("data: train.jsonl\n", "line 3: data is 'train.jsonl', but other keys", "train, eval"),
        (
            "train:\n  lr: fast\n",
            "line 4: train.lr is 'fast', allowed: auto or transfer, or a number above 0 to 100",
            "",
        ),
        ("train: {lr: '1e-3'}\n", "line 3: train.lr is '1e-3', allowed: auto", "without quotes it is a number: 1e-3"),
        ("train: {lr: 0}\n", "line 3: train.lr is 0, allowed: auto or transfer, or a number above 0", ""),
        ("train: {lr: -1e-3}\n", "line 3: train.lr is -0.001", ""),
        ("train: {lr: .nan}\n", "line 3: train.lr is nan", ""),
        ("train: {lr: .inf}\n", "line 3: train.lr is inf", ""),
        ("train: {lr: 1e999}\n", "line 3: train.lr is inf", ""),
        ("train: {lr: true}\n", "line 3: train.lr is true", ""),
        ("train: {lr: null}\n", "line 3: train.lr is null, allowed: auto", ""),
        ("train: {lr: [1]}\n", "line 3: train.lr is [1]", ""),
        ("train: {lr: {a: 1}}\n", 'line 3: train.lr is {"a": 1}', ""),
        ("train: {batch: 0}\n", "line 3: train.batch is 0, allowed: a whole number from 1 to 65536", ""),
        ("train: {batch: 1.0}\n", "line 3: train.batch is 1.0, allowed: a whole number", ""),
        ("train: {batch: true}\n", "line 3: train.batch is true", ""),
        ("train: {batch: 99999999999999999999}\n", "line 3: train.batch is 99999999999999999999", ""),
        ("train: {epochs: 0}\n", "line 3: train.epochs is 0, allowed: a number above 0 to 100000", ""),
        ("train: {warmup: 1.5}\n", "line 3: train.warmup is 1.5, allowed: a number from 0 to 1", ""),
        ("train: {seed: -1}\n", "line 3: train.seed is -1", ""),
        ("train: {seed: 4294967296}\n", "line 3: train.seed is 4294967296", ""),
        ("train: {steps: 0}\n", "line 3: train.steps is 0, allowed: a whole number from 1 to 10000000, or null", ""),
        ("train: {schedule: step}\n", "allowed: linear, cosine, constant or wsd", ""),
        ("train: {batch: 2, micro_batch: 4}\n", "line 3: train: micro_batch 4 is larger than batch 2", ""),
        ("data: {choices: [a]}\n", 'line 3: data.choices is ["a"], allowed: a list of at least 2', ""),
        ("data: {choices: [a, a]}\n", "line 3: data.choices: 'a' stands there twice", ""),
        ("data: {choices: [a, '']}\n", "line 3: data.choices[1] is '', allowed: a text, not an empty one", ""),
        ("data: {choices: [1, 0]}\n", "line 3: data.choices[0] is 1, allowed: a text", 'in quotes it is a text: "1"'),
        ("data: {choices: a}\n", "line 3: data.choices is 'a', allowed: a list of at least 2", ""),
        (
            "data: {choices: 3}\n",
            "3, allowed: a list of at least 2 different texts, or a template such as {{ field }}",
            "",
        ),
        ("data:\n  choices: {{ choices }}\n", "line 4: a list or a mapping stands where a key should", "in quotes"),
        ("data:\n  choices:\n    - a\n    - [b]\n", 'line 4: data.choices[1] is ["b"]', ""),
        ("data: {max_length: 1}\n", "data.max_length is 1, allowed: a whole number from 2", ""),
        ("data: {on_long: cut}\n", "data.on_long is 'cut', allowed: error, drop or truncate", ""),
        ("data: {answer: ''}\n", "data.answer is '', allowed: a text, not an empty one", ""),
        ("data: {delimiter: null}\n", "data.delimiter is null, allowed: a text", ""),
        ("quant: nf5\n", "line 3: quant is 'nf5', allowed: none, int8, nf4 or fp4", ""),
        ("ctxtune: 2\n", "line 3: ctxtune is 2, allowed: 1", ""),
        ("ctxtune: '1'\n", "line 3: ctxtune is '1', allowed: 1", ""),
        ("cache: false\n", "line 3: cache is false, allowed: auto, memory, disk or off", ""),
        ("out: 3\n", "line 3: out is 3, allowed: a text", 'in quotes it is a text: "3"'),
        ("inputs: {train: 1}\n", "line 3: inputs is 1, allowed: a mapping", ""),
        ("inputs: [a]\n", 'line 3: inputs is ["a"], allowed: a mapping', ""),
        (f"out: [{'x, ' * 500}]\n", 'line 3: out is ["x", "x"', ""),
    ],
)
def test_mistakes_in_a_recipe(write, text, message, hint):
    said, advice = mistake(write(MINIMAL + text))
    assert message in said
    assert hint in advice
    assert len(said) < 200


def test_a_method_that_there_is_not(write):
    said, _ = mistake(write("model: m\nmethod:\n  name: frieze\n"))
    assert said == "r.yaml line 3: method.name is 'frieze', allowed: fewshot, freeze, mask, pretrain or prompt"


def test_a_key_of_another_method(write):
    said, hint = mistake(write("model: m\nmethod:\n  name: fewshot\n  unfreeze: gradual\n"))
    assert said == "r.yaml line 4: method.unfreeze is no key of method fewshot"
    assert hint == "it is one of method freeze: `ctxtune freeze`, or 'method: {name: freeze}'"


@pytest.mark.parametrize(("name", "least"), [("prompt", 1), ("fewshot", 0)])
def test_a_key_that_methods_share_has_the_bounds_of_the_one_that_is_named(write, name, least):
    said, _ = mistake(write(f"model: m\nmethod: {{name: {name}, shots: -1}}\n"))
    assert said == f"r.yaml line 2: method.shots is -1, allowed: a whole number from {least} to 65536"


def test_a_key_that_several_other_methods_have(write):
    said, hint = mistake(None, {"model": "m", "method.name": "freeze"}, ["method.shots=2"])
    assert said == "--set: method.shots is no key of method freeze"
    assert (
        hint
        == "it is one of methods fewshot and prompt: `ctxtune fewshot` or `ctxtune prompt`, or 'method: {name: fewshot}'"
    )


def test_a_value_is_read_as_the_named_method_has_it(monkeypatch):
    """A list of one method may be any text of another."""
    from ctxtune.recipe import keys
    from ctxtune.recipe.schema import Fewshot, Freeze

    both = {"freeze": Freeze, "fewshot": Fewshot}
    monkeypatch.setattr(keys, "owners", lambda: {"method.layers": both, "method.name": both})
    monkeypatch.setattr(keys, "_properties", lambda kind: {
        "layers": {"type": "string"} if kind is Freeze else {"type": "array", "items": {"type": "string"}}
    })  # fmt: skip
    assert [keys.takes_text("method.layers", name) for name in ("freeze", "fewshot")] == [True, False]
    assert [keys.takes_list("method.layers", name) for name in ("freeze", "fewshot")] == [False, True]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("method: prompt", "r.yaml line 2: method is 'prompt', but other keys", "write 'method: {name: prompt}'"),
        ("method: [1]", "r.yaml line 2: method is [1], but other keys", "the keys under it: name"),
        ("method: {name: promt}", "r.yaml line 2: method.name is 'promt', allowed: ", "did you mean 'prompt'?"),
        ("method: {name: 3}", "r.yaml line 2: method.name is 3, allowed: fewshot, freeze", ""),
    ],
)  # fmt: skip
def test_a_method_that_is_nearly_one(write, text, message, hint):
    said, advice = mistake(write(f"model: m\n{text}\n"))
    assert said.startswith(message)
    assert advice.startswith(hint)


def test_two_options_that_disagree_are_named_by_whole_words():
    """`top 8 names layers ...` is not about the name."""
    said, _ = mistake(None, {"model": "m", "method.name": "prompt", "method.kind": "input", "method.top": 8})
    assert said.startswith("--kind: method: top 8 names layers of a prefix")


def test_adapters_are_given_with_init():
    said, _ = mistake(None, {"model": "m", "method.name": "prompt", "method.init": "adapter", "method.adapters": [""]})
    assert said.startswith("--init: method.adapters[0] is ''")


@pytest.mark.parametrize(
    ("kind", "init", "why"),
    [
        ("suffix", "fewshot", "demonstrations stand before what is asked"),
        ("prefix", "prompt", "the end of what is asked is where a suffix starts"),
        ("input", "prompt", "the end of what is asked is where a suffix starts"),
    ],
)
def test_a_start_that_does_not_go_with_the_kind(kind, init, why):
    said, _ = mistake(None, {"model": "m", "method.name": "prompt", "method.kind": kind, "method.init": init})
    assert said.endswith(f"init {init} does not go with kind {kind}: {why}")


def test_a_set_that_names_another_method_than_the_command():
    said, hint = mistake(None, {"model": "m", "method.name": "prompt"}, ["method.name=freeze"])
    assert said == "--set: method.name is 'freeze', but the command says 'prompt'"
    assert hint == "leave it out, or give `ctxtune freeze`"
    said, hint = mistake(None, {"model": "m", "method.name": "prompt"}, ["method.name=frieze"])
    assert hint == "leave it out"
    assert load(None, {"model": "m", "method.name": "prompt"}, ["method.name=prompt"]).recipe.method.name == "prompt"


def test_a_number_in_a_list_is_no_text(write):
    said, hint = mistake(write("model: m\nmethod: {name: fewshot, calibrate: pmi, prior: [1, 0]}\n"))
    assert said == "r.yaml line 2: method.prior[1] is 0, allowed: a number above 0 to 1000000"
    assert not hint


def test_the_first_of_several_mistakes_and_their_number(write):
    said, _ = mistake(write("model: m\nmethod: {name: freeze}\ntrain:\n  seed: -1\n  batsh: 2\n  lr: 0\nxyz: 1\n"))
    assert said == "r.yaml line 4: train.seed is -1, allowed: a whole number from 0 to 4294967295 (and 3 more mistakes)"


@pytest.mark.parametrize(
    ("source", "flags", "message", "hint"),
    [
        ("method: {name: freeze}\n", {}, "r.yaml: 'model' is missing", "--model"),
        ("method: {name: freeze}\nmodel:\n", {}, "r.yaml line 2: model is null, allowed: a text", ""),
        ("method: {name: freeze}\nmodel: ''\n", {}, "r.yaml line 2: model is '', allowed: a text, not an empty", ""),
        ("model: m\n", {}, "r.yaml: 'method.name' is missing", "method: {name: freeze}"),
        ("model: m\nmethod:\n", {}, "r.yaml: 'method.name' is missing", ""),
        (None, {"method.name": "freeze"}, "'model' is missing", "--model"),
        (None, {"model": "m", "method.name": "freeze", "train.lr": 0.0}, "--lr: train.lr is 0.0, allowed: auto", ""),
        (None, {"model": "m", "method.name": "freeze", "train.lr": float("nan")}, "--lr: train.lr is nan", ""),
        (None, {"model": "m", "method.name": "freeze", "data.max_length": 1}, "--max-length: data.max_length is 1", ""),
        (None, {"model": "m", "method.name": "freeze", "train.lr": "fast"}, "--lr: train.lr is 'fast'", ""),
        (None, {"model": "m", "method.name": "freeze", "train.lr": "[1"}, "--lr: not valid YAML", ""),
        (None, {"model": "a\udcff", "method.name": "freeze"}, "--model: 'a\\udcff' is not valid Unicode", "UTF-8"),
        (None, {"model": "a\0", "method.name": "freeze"}, "--model: 'a\\x00' is not valid Unicode", ""),
        (None, {"train.epoch": 1}, "--epoch: unknown key 'train.epoch'", "did you mean 'train.epochs'?"),
    ],
)
def test_mistakes_of_options(write, source, flags, message, hint):
    said, advice = mistake(None if source is None else write(source), flags)
    assert said.startswith(message)
    assert hint in advice


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("train.step=5", "--set: unknown key 'train.step'", "did you mean 'train.steps'?"),
        ("lr=5", "--set: unknown key 'lr'", "'lr' belongs under 'train'"),
        ("train=5", "--set: 'train' is not a value", "train.epochs, train.steps"),
        ("train.lr", "--set 'train.lr' is not KEY=VALUE", "--set train.lr=1e-3"),
        ("=1", "--set '=1' is not KEY=VALUE", ""),
        ("", "--set '' is not KEY=VALUE", ""),
        ("train.lr=", "--set: train.lr is null", ""),
        ("train.lr=[", "--set train.lr: not valid YAML", ""),
        ("train.lr=*x", "--set train.lr: alias '*x'", ""),
        ("train.lr=1\n---\n2", "--set train.lr: a second document", ""),
        ("train.lr=fast", "--set: train.lr is 'fast'", ""),
        ("data.choices=a,b", "--set: data.choices is 'a,b', allowed: a list", ""),
        ("data.prompt=\udcff", "--set data.prompt: '\\udcff' is not valid Unicode", ""),
        ("data.prompt='x", "--set data.prompt: not valid YAML", ""),
        ("train.seed=\udcff", "--set train.seed", ""),
    ],
)
def test_mistakes_of_set(write, text, message, hint):
    said, advice = mistake(write(MINIMAL), sets=[text])
    assert said.startswith(message)
    assert hint in advice


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train.lr=1e-3", "train.lr", 1e-3),
        (" train.lr = 1e-3 ", "train.lr", 1e-3),
        ("train.lr=auto", "train.lr", "auto"),
        ("train.steps=null", "train.steps", None),
        ("data.choices=[no, yes]", "data.choices", ["no", "yes"]),
        ("data.prompt={{ text }}: what?", "data.prompt", "{{ text }}: what?"),
        ("data.prompt=12", "data.prompt", "12"),
        ("data.prompt=null", "data.prompt", "null"),
        ('data.prompt="a\\nb"', "data.prompt", "a\nb"),
        ("data.prompt=a=b", "data.prompt", "a=b"),
        ("data.delimiter=", "data.delimiter", ""),
        ("out=null", "out", None),
        ("out='null'", "out", "null"),
        ("cache=off", "cache", "off"),
    ],
)
def test_values_of_set(write, text, key, value):
    found = load(write(MINIMAL), {}, [text]).recipe
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_a_command_and_a_recipe_that_name_two_methods(write):
    source = write("model: m\nmethod: {name: mask}\n")
    said, hint = mistake(source, {"method.name": "freeze"})
    assert said == "r.yaml line 2: method.name is 'mask', but the command says 'freeze'"
    assert "ctxtune run r.yaml" in hint
    said, _ = mistake(write(MINIMAL), {}, ["method.name=mask"])
    assert said == "r.yaml line 2: method.name is 'freeze', but --set says 'mask'"


def test_the_blame_for_two_keys_that_disagree(write):
    source = write(MINIMAL + "train: {batch: 8}\n")
    assert mistake(source, {"train.micro_batch": 9})[0].startswith("--micro-batch: train: micro_batch 9 is larger")
    assert mistake(source, {}, ["train.micro_batch=9"])[0].startswith("--set: train: micro_batch 9")
    assert mistake(write(MINIMAL + "train: {micro_batch: 33}\n"))[0].startswith("r.yaml line 3: train: micro_batch 33")


class TestPaths:
    """Relative inputs start from where they are written: the recipe's folder, or the current one."""

    def test_of_a_recipe(self, write, tmp_path):
        text = MINIMAL + "data: {train: d/t.jsonl, eval: ../e.jsonl}\nforget: {probe: p.txt}\nout: runs/x\n"
        resolved = load(write(text, "sub/r.yaml"), {})
        data = resolved.recipe.data
        assert data.train == str(tmp_path / "sub/d/t.jsonl")
        assert data.eval == str(tmp_path / "e.jsonl")
        assert resolved.recipe.forget.probe == str(tmp_path / "sub/p.txt")
        assert resolved.recipe.out == "runs/x"
        assert resolved.folder == tmp_path / "sub"

    def test_of_options(self, write, tmp_path):
        source = write(MINIMAL + "data: {train: a, eval: b}\n", "sub/r.yaml")
        data = load(source, {"data.train": "t"}, ["data.eval=e"]).recipe.data
        assert (data.train, data.eval) == (str(tmp_path / "t"), str(tmp_path / "e"))

    def test_words_are_not_paths(self, write):
        recipe = load(write(MINIMAL + "data: {train: '-', eval: '-'}\nforget: {probe: none}\n"), {}).recipe
        assert (recipe.data.train, recipe.data.eval, recipe.forget.probe) == ("-", "-", "none")

    def test_dot_slash_makes_a_word_a_path(self, write, tmp_path):
        recipe = load(write(MINIMAL + "forget: {probe: ./none}\n"), {}).recipe
        assert recipe.forget.probe == str(tmp_path / "none")

    def test_absolute_paths_stay(self, write, tmp_path):
        path = str(tmp_path / "x" / "t.jsonl")
        assert load(write(MINIMAL + f"data: {{train: '{path}'}}\n", "sub/r.yaml"), {}).recipe.data.train == path

    @pytest.mark.parametrize(
        ("model", "expected"),
        [
            ("smollm2-135m", "smollm2-135m"),
            ("org/name", "org/name"),
            ("there", "{}/sub/there"),
            ("./nowhere", "{}/sub/nowhere"),
            ("../nowhere", "{}/nowhere"),
            ("m.gguf", "{}/sub/m.gguf"),
            ("M.GGUF", "{}/sub/M.GGUF"),
            (".", "{}/sub"),
            ("there/..", "{}/sub"),
            ("there/", "{}/sub/there"),
        ],
    )
    def test_of_models(self, write, tmp_path, model, expected):
        (tmp_path / "sub/there").mkdir(parents=True)
        source = write(f"model: '{model}'\nmethod: {{name: freeze}}\n", "sub/r.yaml")
        assert load(source, {}).recipe.model == expected.format(tmp_path)

    def test_a_link_keeps_its_name_and_dots_follow_links(self, write, tmp_path):
        (tmp_path / "real/deep").mkdir(parents=True)
        (tmp_path / "real/blob").write_text("")
        (tmp_path / "t.jsonl").symlink_to("real/blob")
        (tmp_path / "link").symlink_to("real/deep")
        data = load(write(MINIMAL + "data: {train: t.jsonl, eval: link/../blob}\n"), {}).recipe.data
        assert data.train == str(tmp_path / "t.jsonl")
        assert data.eval == str(tmp_path / "real/blob")

    def test_a_loop_of_links(self, write, tmp_path):
        (tmp_path / "loop").symlink_to("loop")
        recipe = load(write(MINIMAL + "data: {train: loop/t.jsonl}\n"), {}).recipe
        assert recipe.data.train.endswith("loop/t.jsonl")


def test_no_message_can_steer_the_terminal(write, tmp_path):
    source = write('model: m\nmethod: {name: freeze}\ntrain: {lr: ["\\x9b31m", "\\e[31m"]}\n', "a\n\x1b[31mb.yaml")
    said, _ = mistake(source)
    assert said.isprintable()
    assert said.startswith("a\\n\\x1b[31mb.yaml line 3: train.lr")


class TestSources:
    """What stands for RECIPE: a file, else a bundled name."""

    def test_a_name_that_is_nearly_bundled(self):
        said, hint = mistake("quickstrat")
        assert said == "no recipe 'quickstrat': no such file"
        assert "did you mean 'quickstart'?" in hint
        assert "freeze, mask, novel, pretrain, prompt, quickstart" in hint

    def test_a_file_comes_before_a_bundled_recipe(self, write):
        assert load(write(MINIMAL, "quickstart"), {}).recipe.model == "m"

    @pytest.mark.parametrize("name", ["a.jsonl", "a.JSON", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.jsonl.gz"])
    @pytest.mark.parametrize("size", [None, 1, 2_000_000])
    def test_rows_in_the_place_of_a_recipe(self, name, size, tmp_path):
        """Whatever is in them: a single row of JSON would be a recipe of unknown keys."""
        path = str(tmp_path / name)
        if size is not None:
            (tmp_path / name).write_bytes(b'{"text": "a"}\n' * (size // 14 + 1))
        with pytest.raises(RecipeError, match="is named like rows, not like a recipe") as caught:
            load(path, {})
        assert f"--train {path}" in caught.value.hint

    def test_a_folder(self, write, tmp_path):
        write(MINIMAL, "run/recipe.yaml")
        said, hint = mistake("run")
        assert said == "'run' is a folder, not a recipe"
        assert "run/recipe.yaml" in hint

    @pytest.mark.parametrize("source", ["", "a\0b", "x" * 5000, "no/such/file.yaml", "\udcff", "a\nb", "-"])
    def test_no_such_file(self, source):
        assert "no such file" in mistake(source)[0]

    @pytest.mark.parametrize("source", ["/dev/null", "/dev/zero", "loop", "pipe", "broken"])
    def test_not_a_file(self, tmp_path, monkeypatch, source):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "loop").symlink_to("loop")
        (tmp_path / "broken").symlink_to("nowhere")
        os.mkfifo(tmp_path / "pipe")
        assert "is not a regular file" in mistake(source)[0]


def test_a_misspelt_key_loads_nothing_heavy(write, tmp_path):
    source = tmp_path / write(MINIMAL + "train: {epoch: 1}\n")
    script = (
        "import sys\nfrom ctxtune.errors import RecipeError\nfrom ctxtune.recipe.load import load\n"
        f"try: load({str(source)!r}, {{}})\nexcept RecipeError: print(*sys.modules)"
    )
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root)}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    loaded = set(result.stdout.split())
    assert "pydantic" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "jinja2", "rich", "typer", "peft", "safetensors"}
