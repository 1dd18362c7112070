"""Which files are which split: as its card says, else as the library `datasets` tells it by their names."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ctxtune.data.splits import by_name, configurations, converted, is_data, matches
from ctxtune.errors import DataError

NAMED: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "shards": (
        [
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            "data/dev-00000-of-00001-ab12.parquet",
        ],
        {
            "train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            "dev": ["data/dev-00000-of-00001-ab12.parquet"],
        },
    ),
    "folders": (
        ["train/a.csv", "train/deep/b.csv", "my-validation/c.csv", "test/d.csv"],
        {"train": ["train/a.csv", "train/deep/b.csv"], "validation": ["my-validation/c.csv"], "test": ["test/d.csv"]},
    ),
    "files": (
        ["train.jsonl", "dev.jsonl", "my_test_2.jsonl", "eval.jsonl"],
        {"train": ["train.jsonl"], "validation": ["dev.jsonl"], "test": ["eval.jsonl", "my_test_2.jsonl"]},
    ),
    "pieces of other words": (["contest.csv", "trainer.csv"], {"train": ["contest.csv", "trainer.csv"]}),
    "words between dots": (["1train.csv", "a.test.b.csv"], {"test": ["a.test.b.csv"], "train": ["1train.csv"]}),
    "two words": (["train-dev/a.csv", "test/a.csv"], {"train": ["train-dev/a.csv"], "test": ["test/a.csv"]}),
    "nothing": ([], {}),
}


@pytest.mark.parametrize(("names", "splits"), NAMED.values(), ids=NAMED)
def test_by_the_names_of_files(names: list[str], splits: dict[str, list[str]]) -> None:
    assert by_name(names) == splits


NAMES = ["README.md", "a/train.csv", "a/test.csv", "b/one.json", "b/x/two.json", "b/two.json", "run.py", ".git/x.json"]
CARDS: dict[str, tuple[Any, dict[str, dict[str, list[str]]]]] = {
    "one pattern": ([{"config_name": "c", "data_files": "b/*.json"}], {"c": {"train": ["b/one.json", "b/two.json"]}}),
    "a list": ([{"data_files": ["b/two.json", "b/one.json"]}], {"default": {"train": ["b/two.json", "b/one.json"]}}),
    "splits": (
        [{"config_name": "c", "data_files": [{"split": "x", "path": "a/test.csv"}, {"split": "y", "path": ["b/**"]}]}],
        {"c": {"x": ["a/test.csv"], "y": ["b/one.json", "b/two.json", "b/x/two.json"]}},
    ),
    "a mapping": ([{"data_files": {"x": "./a/t*.csv"}}], {"default": {"x": ["a/test.csv", "a/train.csv"]}}),
    "a folder": (
        [{"config_name": "c", "data_dir": "a"}, {"config_name": "d", "data_dir": "b/", "data_files": "*.json"}],
        {"c": {"train": ["a/train.csv"], "test": ["a/test.csv"]}, "d": {"train": ["b/one.json", "b/two.json"]}},
    ),
    "nothing": (None, {"default": {"train": ["a/train.csv"], "test": ["a/test.csv"]}}),
}


@pytest.mark.parametrize(("configs", "found"), CARDS.values(), ids=CARDS)
def test_by_the_card(configs: Any, found: dict[str, dict[str, list[str]]]) -> None:
    assert configurations({"configs": configs}, NAMES) == found


@pytest.mark.parametrize(
    "configs",
    [
        "x", {"a": 1}, [1], [{"config_name": "../x"}], [{"config_name": 3}], [{"data_dir": 1}], [{"data_files": 1}],
        [{"data_files": [{"path": "x"}]}], [{"data_files": {"a/b": "x"}}], [{"data_files": "*" * 300}],
    ],
)  # fmt: skip
def test_cards_that_are_wrong(configs: Any) -> None:
    with pytest.raises(DataError):
        configurations({"configs": configs}, NAMES)


def test_a_converted_branch() -> None:
    names = ["b/train/0001.parquet", "b/train/0000.parquet", "a/test/0000.parquet", ".gitattributes", "a/x.json"]
    assert converted(names) == {
        "a": {"test": ["a/test/0000.parquet"]},
        "b": {"train": ["b/train/0000.parquet", "b/train/0001.parquet"]},
    }


def test_patterns_are_folder_by_folder_and_cost_little() -> None:
    assert matches("a/b/c.csv", "a/**")
    assert matches("a/b/c.csv", "**/c.csv")
    assert matches("c.csv", "**/c.csv")
    assert not matches("a/b/c.csv", "a/*.csv")
    assert not matches("a/b/c.csv", "b/c.csv")
    begun = time.monotonic()
    assert not matches("a" * 120 + "/" + "a" * 120, "*a" * 60 + "b/" + "**/" * 40 + "*a" * 60 + "b")
    assert time.monotonic() - begun < 0.5


def test_what_is_data() -> None:
    named = [
        "a.parquet",
        "a/b.csv.gz",
        "x.arrow",
        "a.py",
        "README.txt",
        ".x.json",
        "_a/b.json",
        "dataset_infos.json",
        "a.bin",
    ]
    assert [name for name in named if is_data(name)] == ["a.parquet", "a/b.csv.gz", "x.arrow"]
