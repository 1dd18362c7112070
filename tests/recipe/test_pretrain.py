"""What a recipe of pretraining says where nobody says it, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest

from ctxtune.errors import RecipeError
from ctxtune.recipe.dump import dump
from ctxtune.recipe.load import Resolved, load
from ctxtune.recipe.pretrain import Pretrain


def made(**more: Any) -> Resolved:
    flags = {"method.name": "pretrain", "data.train": "text.txt", **{key.replace("__", "."): more[key] for key in more}}
    return load(None, flags)


def test_depth_is_the_one_dial() -> None:
    four, twelve = made().recipe, made(method__depth=12).recipe
    assert isinstance(four.method, Pretrain)
    assert isinstance(twelve.method, Pretrain)
    assert (four.method.states, four.method.attention_heads, four.method.inner) == (128, 4, 336)
    assert (twelve.method.states, twelve.method.attention_heads, twelve.method.inner) == (384, 12, 1024)
    assert (four.train.batch, twelve.train.batch) == (16, 24)  # 4,096 tokens, and 3 ** 0.383 times as many
    assert made(method__row=64).recipe.train.batch == 64


def test_what_is_said_wins_over_the_dial() -> None:
    recipe = made(method__width=96, method__heads=2, method__feed_forward=40, train__batch=3, train__epochs=1.5).recipe
    assert isinstance(recipe.method, Pretrain)
    assert (recipe.method.states, recipe.method.attention_heads, recipe.method.inner) == (96, 2, 40)
    assert (recipe.train.batch, recipe.train.epochs, recipe.train.optimizer) == (3, 1.5, "muon")


def test_a_number_of_parameters_is_another_dial() -> None:
    three, small = made(method__params="3M").recipe, made(method__params="300k", method__vocabulary=512).recipe
    assert isinstance(three.method, Pretrain)
    assert isinstance(small.method, Pretrain)
    assert (three.method.depth, three.method.states) == (5, 160)
    assert three.train.batch == made(method__depth=5).recipe.train.batch
    assert small.method.depth == 3
    assert made(method__params="3M", method__depth=5).recipe.method == three.method


def test_only_pretraining_has_these_defaults() -> None:
    ours = made().recipe.train
    other = load(None, {"method.name": "freeze", "data.train": "rows.jsonl", "model": "m"}).recipe.train
    assert (ours.optimizer, ours.schedule, ours.epochs) == ("muon", "linear", 4.0)
    assert (other.optimizer, other.schedule, other.epochs, other.batch) == ("adamw", "linear", 3.0, 32)


def test_a_resolved_recipe_reads_back_to_the_same(tmp_path: Any) -> None:
    resolved = made(method__depth=2)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(resolved, relative_to=tmp_path), encoding="utf-8")
    assert load(str(path), {}).recipe == resolved.recipe
    assert "model: scratch" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method__params": "3M", "method__depth": 4}, "--params: method: params 3M makes 5 layers, depth is 4"),
        ({"method__params": "many"}, "--params: method.params: 'many' is no size, write 300k, 3M or 1.5G"),
        ({"method__heads": 3}, "--heads: method: heads: 128 numbers cannot be shared by 3 heads"),
        ({"method__width": 33}, "--width: method: width: 33 numbers"),
        ({"model": "gpt2"}, "--model: model gpt2: method pretrain makes a model of its own"),
        ({"method__vocabulary": 256}, "from 257 to"),
        ({"data__held_out": 1.0}, "held_out is 1.0"),
        ({"train__batch": 0}, "batch is 0"),
        ({"method__depth": "deep"}, "depth is 'deep'"),
        ({"method__row": "wide"}, "row is 'wide'"),
        ({"data__text": "no field"}, "a template such as {{ field }}"),
    ],
)
def test_what_contradicts_itself_is_named(more: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        made(**more)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model": "scratch"}, "--model: model scratch is what method pretrain begins with"),
        ({"model": "m", "train.optimizer": "muon"}, "--optimizer: optimizer muon is for whole models"),
    ],
)
def test_what_is_pretrainings_alone(more: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(None, {"method.name": "freeze", "data.train": "rows.jsonl", **more})
    assert said in str(caught.value)


def test_a_rate_that_never_falls_needs_no_schedule(tmp_path: Any) -> None:
    resolved = made(train__optimizer="schedule_free")
    assert (resolved.recipe.train.schedule, resolved.origin["train.schedule"]) == ("constant", "default")
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(resolved, relative_to=tmp_path), encoding="utf-8")
    assert load(str(path), {}).recipe == resolved.recipe
    with pytest.raises(RecipeError, match=r"method\.spelling true does not go with optimizer schedule_free"):
        made(train__optimizer="schedule_free", method__spelling=True)
    other = {"method.name": "freeze", "data.train": "rows.jsonl", "model": "m", "train.optimizer": "schedule_free"}
    assert load(None, other).recipe.train.schedule == "constant"
    with pytest.raises(RecipeError, match="schedule cosine: the rate of optimizer schedule_free is constant"):
        load(None, other | {"train.schedule": "cosine"})
    with pytest.raises(RecipeError, match="optimizer schedule_free is for pretrain, freeze and prompt, not for mask"):
        load(None, other | {"method.name": "mask"})
