"""Data sets of a hub are read from the cache that the library `datasets` has filled; nothing asks the network."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from ctxtune.data.read import read_rows
from ctxtune.errors import DataError
from ctxtune.recipe.load import load

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("the network was asked"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))


def keep(root: Path, name: str, rows: list[dict[str, Any]], info: bool = True) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    if info:
        (path.parent / "dataset_info.json").write_text("{}")
    return path


def test_the_split_in_one_file_or_in_parts(tmp_path: Path) -> None:
    folder = "org___my_data/default/0.0.0/abc"
    keep(tmp_path, f"{folder}/my_data-train-00001-of-00002.arrow", [{"n": 2}])
    keep(tmp_path, f"{folder}/my_data-train-00000-of-00002.arrow", [{"n": 0}, {"n": 1}])
    keep(tmp_path, f"{folder}/my_data-test.arrow", [{"n": 3}])
    keep(tmp_path, f"{folder}/cache-0123.arrow", [{"n": 4}])
    for name in ("hub:org/MyData", "hub:org/my_data:train", "hub:org/MyData/default:train"):
        assert [row.fields["n"] for row in read_rows(name)] == [0, 1, 2]
    assert [row.fields["n"] for row in read_rows("hub:org/MyData:test")] == [3]
    with pytest.raises(DataError, match="no split 'dev'") as caught:
        read_rows("hub:org/MyData:dev")
    assert caught.value.hint is not None
    assert "it has test, train" in caught.value.hint


def test_the_newest_of_several_and_none_that_is_unfinished(tmp_path: Path) -> None:
    old = keep(tmp_path, "o___n/default/0.0.0/zzz/n-train.arrow", [{"n": 1}])
    keep(tmp_path, "o___n/default/0.0.0/aaa/n-train.arrow", [{"n": 2}])
    keep(tmp_path, "o___n/default/0.0.0/bbb.incomplete/n-train.arrow", [{"n": 3}], info=False)
    os.utime(old.parent, (1, 1))
    assert read_rows("hub:o/n")[0].fields == {"n": 2}


def test_configurations(tmp_path: Path) -> None:
    keep(tmp_path, "o___n/one/0.0.0/a/n-train.arrow", [{"n": 1}])
    keep(tmp_path, "o___n/two/0.0.0/a/n-train.arrow", [{"n": 2}])
    assert read_rows("hub:o/n/two")[0].fields == {"n": 2}
    with pytest.raises(DataError, match="has the configurations one, two"):
        read_rows("hub:o/n")
    with pytest.raises(DataError, match="is not in the cache"):
        read_rows("hub:o/n/three")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"hub:stanford/sst2 was not pulled and is not in the cache") as caught:
        read_rows("hub:stanford/sst2")
    assert caught.value.hint == "ctxtune data pull stanford/sst2"
    (tmp_path / "o___n" / "default" / "0.0.0" / "a.incomplete").mkdir(parents=True)
    with pytest.raises(DataError, match="is not in the cache"):
        read_rows("hub:o/n")


@pytest.mark.parametrize(
    "name", ["hub:", "hub:a", "hub:../b", "hub:a/..", "hub:a/b/../c", "hub:a/b c", "hub:a/b:", "hub:/a/b"]
)
def test_no_names(name: str) -> None:
    with pytest.raises(DataError, match="is no name of a data set"):
        read_rows(name)


def test_a_recipe_keeps_the_name_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "model: m\nmethod: {name: freeze}\ndata: {train: [hub:o/n, a], eval: 'hub:o/n:test'}\n"
    )
    data = load(str(tmp_path / "r.yaml"), {}).recipe.data
    assert (data.train, data.eval) == (["hub:o/n", str(tmp_path / "a")], "hub:o/n:test")
