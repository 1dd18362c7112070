"""The settings of mask tuning: masks of files as they are written on a command line, and what does not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.errors import RecipeError
from ctxtune.recipe.load import load
from ctxtune.recipe.mask import Mask, masks_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("select", "found"),
    [
        (None, (None, None, None)),
        ("random", ("random", None, None)),
        ("file:runs/a", ("file", ["runs/a"], None)),
        ("file:runs/a-b+c&d", ("file", ["runs/a-b+c&d"], None)),
        ("file:a + b + c", ("file", ["a", "b", "c"], "union")),
        ("file: a & b", ("file", ["a", "b"], "intersection")),
        ("file:a - b", ("file", ["a", "b"], "difference")),
    ],
)
def test_masks_on_a_command_line(select: str | None, found: tuple[Any, ...]) -> None:
    assert masks_of(select) == found


def test_one_step_at_a_time() -> None:
    with pytest.raises(RecipeError, match=r"--select file:a \+ b - c: '\+' and '-' are two steps"):
        masks_of("file:a + b - c")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"select": "file"}, "--select: method: select file takes the numbers of masks: name both"),
        ({"masks": ["a"]}, "--select: method: select file takes the numbers of masks: name both"),
        ({"select": "file", "masks": [""]}, "--select: method.masks[0] is ''"),
        (
            {"select": "file", "masks": ["a"], "layers": "last:4"},
            "--select: method: select file takes what its masks say",
        ),
        (
            {"select": "file", "masks": ["a"], "budget": 9},
            "--select: method: select file takes what its masks say, budget",
        ),
        ({"select": "norms", "budget": 9}, "--select: method: select norms takes all of them, budget 9"),
        ({"select": "bias", "shape": "rows"}, "--select: method: select bias takes all of them, shape rows"),
    ],
)
def test_what_does_not_go_together(more: dict[str, Any], said: str) -> None:
    flags = {f"method.{key}": value for key, value in more.items()}
    with pytest.raises(RecipeError) as caught:
        load(None, {"model": "m", "method.name": "mask", **flags})
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("more", "kind", "select", "price", "text"),
    [
        ({}, "causal", "contrast", 100, True),
        ({}, "masked", "contrast", 100, True),
        ({}, "classifier", "random", 0, True),
        ({"ewc": 0.0}, "causal", "contrast", 0, True),
        ({"learn": "bits"}, "causal", "random", 0, False),
        ({"select": "random"}, "causal", "random", 0, False),
        ({"select": "fisher"}, "causal", "fisher", 0, False),
        ({"select": "fisher", "ewc": 1.0}, "causal", "fisher", 1, True),
        ({"select": "contrast"}, "classifier", "contrast", 100, True),
        ({"select": "file", "masks": ["a"]}, "causal", "file", 0, False),
    ],
)
def test_what_is_chosen_by_where_nothing_is_said(
    more: dict[str, Any], kind: str, select: str, price: float, text: bool
) -> None:
    settings = Mask(name="mask", **more)
    known = settings.of_base(kind)
    assert (known.select, known.ewc) == (select, price)
    assert settings.reads_text == text


def test_masks_are_relative_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: m\nmethod: {name: mask, select: file, masks: [a, ../b]}\n")
    recipe = load(str(tmp_path / "r.yaml"), {}).recipe
    assert recipe.method.masks == [str(tmp_path / "a"), str(tmp_path.parent / "b")]


@pytest.mark.parametrize(("more", "said"), [
    ({}, []),
    ({"budget": 9}, []),
    ({"budget": 9, "density": 0.5}, ["method.density 0.5 is not used: budget says how many"]),
    ({"select": "norms", "density": 0.5}, ["method.density 0.5 is not used: select norms"]),
    ({"select": "grad", "regrow": 0.5, "score_rows": 2}, []),
    ({"select": "fisher", "regrow": 0.5, "score_rows": 2}, ["method.regrow 0.5 is not used: select fisher"]),
    ({"candidates": 0.5}, ["method.candidates 0.5 is not used: select auto"]),
    ({"score_rows": 2}, []),
    ({"select": "random", "score_rows": 2}, ["method.score_rows 2 is not used: select random"]),
    ({"select": "l0", "candidates": 0.5, "decide": 0.2}, []),
    ({"learn": "bits", "rank": 4}, ["method.rank 4 is not used: learn bits"]),
])  # fmt: skip
def test_what_plays_no_part_is_said(more: dict[str, Any], said: str) -> None:
    assert list(Mask(name="mask", **more).unused()) == said
