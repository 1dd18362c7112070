"""A hub of one's own on 127.0.0.1 with one data set: what is fetched, what is refused, and what a recipe remembers of it."""

from __future__ import annotations

import errno
import json
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctxtune.commands import pull_data as command
from ctxtune.commands.dry_run import dry_run
from ctxtune.commands.prepare import compile_templates, read_source
from ctxtune.errors import DataError, StorageError
from ctxtune.recipe.data import Data
from ctxtune.recipe.load import load

from ..backend.test_hub import Hub, serve
from ..conftest import review_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ctxtune.recipe.load import Resolved

NAME = "someone/reviews"
COMMIT = "a" * 40


def parquet(rows: list[dict[str, Any]]) -> bytes:
    out = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class DataHub(Hub):
    """A hub with one data set: two shards to learn from, one to score on, and a script that nobody must run."""

    def __init__(self) -> None:
        rows = review_rows(12)
        self.files = {
            "README.md": b"# Reviews",
            "reviews.py": b"import os",
            "data/train-00000-of-00002.parquet": parquet(rows[:6]),
            "data/train-00001-of-00002.parquet": parquet(rows[6:]),
            "data/test-00000-of-00001.parquet": parquet(review_rows(4, 20)),
        }
        self.card: dict[str, Any] = {"license": "mit\x1b[2J"}
        self.commit = COMMIT
        self.code, self.changes, self.asked, self.tokens, self.elsewhere = 200, {}, [], [], None

    def listing(self) -> bytes:
        told = json.loads(super().listing())
        return json.dumps({**told, "sha": self.commit, "cardData": self.card}).encode()

    def answer(self, path: str) -> bytes:
        if path.startswith("/api/datasets/"):
            return self.changes.get("listing", self.listing())
        name = unquote(path.partition(f"/resolve/{self.commit}/")[2])
        return self.changes.get(name, self.files[name])


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DataHub]:
    site = DataHub()
    server, address = serve(site)
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield site
    server.shutdown()
    server.server_close()


def left(tmp_path: Path) -> list[str]:
    root = tmp_path / "home" / "datasets"
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != ".pull.lock"
    )


def read(name: str) -> Any:
    data = Data(prompt="{{ text }}", answer="{{ label }}")
    return read_source(name, data, compile_templates(data), None, "train")


def test_every_split_is_fetched_and_no_script(site: DataHub, tmp_path: Path) -> None:
    said: list[str] = []
    pulled = command.pull_data(NAME, say=said.append)
    assert [one.name for one in pulled.splits] == [f"hub:{NAME}/default:{split}" for split in ("test", "train")]
    assert (pulled.revision, pulled.licence) == (COMMIT, "mit?[2J")
    assert left(tmp_path) == sorted(
        f"someone--reviews/default/{name}"
        for name in (
            "train/ctxtune.json", "train/data--train-00000-of-00002.parquet", "train/data--train-00001-of-00002.parquet",
            "test/ctxtune.json", "test/data--test-00000-of-00001.parquet",
        )
    )  # fmt: skip
    assert not any(path.endswith(".py") for path in site.asked)
    assert f"hub:{NAME}/default:train: 2 files" in "".join(said)
    for name in (f"hub:{NAME}", f"hub:{NAME}/default:train"):
        source = read(name)
        assert [row.fields for row in source.rows] == review_rows(12)
        assert source.inputs("train") == {"train": source.sha256, "train_revision": f"{NAME}@{COMMIT}"}
    assert [row.fields for row in read(f"hub:{NAME}:test").rows] == review_rows(4, 20)
    asked = len(site.asked)
    again = command.pull_data(f"hub:{NAME}:train")
    assert [one.fresh for one in again.splits] == [False]
    assert len(site.asked) == asked
    assert not any(one.fresh for one in command.pull_data(NAME).splits)
    assert len(site.asked) == asked + 1


def test_nothing_but_pull_asks_the_hub(site: DataHub) -> None:
    with pytest.raises(DataError, match="was not pulled") as caught:
        read(f"hub:{NAME}:train")
    assert caught.value.hint == f"ctxtune data pull {NAME}:train"
    assert site.asked == []


def test_a_run_remembers_the_revision(
    site: DataHub, resolve: Callable[..., Resolved], adapt: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    command.pull_data(NAME)
    foreseen = dry_run(resolve("llama-tied", f"hub:{NAME}", more={"data.eval": f"hub:{NAME}:test"}))
    assert foreseen["rows"] == 12
    adapt(train=f"hub:{NAME}", more={"data.eval": f"hub:{NAME}:test"})
    written = load(str(tmp_path / "run" / "recipe.yaml"), {}).recipe
    assert (written.data.train, written.data.eval) == (f"hub:{NAME}", f"hub:{NAME}:test")
    assert written.inputs is not None
    assert {written.inputs[f"{key}_revision"] for key in ("train", "eval")} == {f"{NAME}@{COMMIT}"}


def test_one_split_later_at_the_commit_of_the_first(site: DataHub, tmp_path: Path) -> None:
    command.pull_data(f"{NAME}:test")
    assert [name.split("/")[2] for name in left(tmp_path)] == ["test", "test"]
    command.pull_data(f"{NAME}:train")
    assert f"/revision/{COMMIT}?" in site.asked[2]
    site.commit = "b" * 40
    with pytest.raises(DataError, match="is here at commit a") as caught:
        command.pull_data(NAME, revision="main")
    assert "remove" in (caught.value.hint or "")


@pytest.mark.parametrize("change", [b"", b"x", b"more"])
def test_bytes_that_are_not_those_of_the_listing(change: bytes, site: DataHub, tmp_path: Path) -> None:
    name = "data/train-00001-of-00002.parquet"
    site.changes[name] = site.files[name] + change if change == b"more" else change
    with pytest.raises(DataError, match="is not that of hub:someone/reviews/default:train"):
        command.pull_data(f"{NAME}:train")
    assert left(tmp_path) == []


def test_no_room_is_said_before_the_first_byte(site: DataHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctxtune.backend import atomic

    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="no room on the disk for someone/reviews"):
        command.pull_data(NAME)
    assert len(site.asked) == 1


def test_a_disk_that_fills_leaves_nothing(site: DataHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(command, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        command.pull_data(f"{NAME}:train")
    assert left(tmp_path) == []


def test_configurations_of_the_card(site: DataHub) -> None:
    site.files |= {"en/a b.csv": b"text,label\nhello,x\n", "de/a.csv": b"text,label\nhallo,x\n"}
    site.card["configs"] = [
        {"config_name": one, "data_files": [{"split": "train", "path": f"{one}/*.csv"}]} for one in ("en", "de")
    ]
    with pytest.raises(DataError, match="has 2 configurations") as caught:
        command.pull_data(NAME)
    assert "en, de" in (caught.value.hint or "")
    for one, text in (("en", "hello"), ("de", "hallo")):
        command.pull_data(f"{NAME}/{one}")
        assert read(f"hub:{NAME}/{one}").rows[0].fields["text"] == text
    with pytest.raises(DataError, match="is here in the configurations de, en"):
        read(f"hub:{NAME}")
    for name, said in ((f"{NAME}/fr", "no configuration 'fr'"), (f"{NAME}/en:dev", "no split 'dev'")):
        with pytest.raises(DataError, match=said):
            command.pull_data(name)


def test_a_script_alone_is_taken_as_the_hub_has_converted_it(site: DataHub) -> None:
    rows = parquet(review_rows(3))
    site.files = {"reviews.py": b"import os"}
    answer = site.answer

    def switch(path: str) -> bytes:
        if "refs%2Fconvert%2Fparquet" in path:
            site.files = {"plain/train/0000.parquet": rows}
        return answer(path)

    site.answer = switch  # type: ignore[method-assign]
    command.pull_data(NAME)
    assert [row.fields for row in read(f"hub:{NAME}/plain:train").rows] == review_rows(3)


UNKIND = {
    "arrow files": ({"data.arrow": b"x"}, None, "is not parquet"),
    "a pickle by the card": ({"a.pkl": b"x", "b.csv": b"x"}, [{"data_files": "*"}], "is not parquet"),
    "two formats": ({"a.csv": b"x", "b.json": b"x"}, None, "several formats"),
    "one name twice": ({"a/b.csv": b"x", "a--b.csv": b"x"}, None, "two files of one name"),
    "a name that draws": ({"a\x1b[2J.csv": b"x"}, None, "a file has the name"),
    "a long name": ({"a" * 300 + ".csv": b"x"}, None, "a file has the name"),
    "out of the folder": ({"../../evil.csv": b"x"}, [{"data_files": "**"}], "has no files of parquet"),
    "out of it, by the card": ({"../../evil.csv": b"x", "a.csv": b"x"}, [{"data_files": "**"}], "is not parquet"),
    "no file of a pattern": ({"a.csv": b"x"}, [{"data_files": "b.csv"}], "has 0 files"),
    "a configuration out of the folder": (
        {"a.csv": b"x"},
        [{"config_name": "..", "data_files": "a.csv"}],
        "no name of",
    ),
}


@pytest.mark.parametrize(("files", "configs", "said"), UNKIND.values(), ids=UNKIND)
def test_what_is_not_fetched(files: dict[str, bytes], configs: Any, said: str, site: DataHub, tmp_path: Path) -> None:
    site.files, site.card = dict(files), {"configs": configs}
    with pytest.raises(DataError, match=said):
        command.pull_data(NAME)
    assert left(tmp_path) == []


def test_a_hub_that_says_no(site: DataHub, monkeypatch: pytest.MonkeyPatch) -> None:
    site.code = 404
    with pytest.raises(DataError, match="the hub has no data set someone/reviews"):
        command.pull_data(NAME)
    site.code, site.changes["listing"] = 200, b'{"sha": "%s", "siblings": [{"rfilename": 3}]}' % COMMIT.encode()
    with pytest.raises(DataError, match="not understood"):
        command.pull_data(NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="cannot be reached"):
        command.pull_data(NAME)
    with pytest.raises(DataError, match="is no name of a data set"):
        command.pull_data("reviews")


def test_a_folder_that_lost_a_file(site: DataHub, tmp_path: Path) -> None:
    pulled = command.pull_data(f"{NAME}:test")
    (pulled.splits[0].folder / "data--test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match="is missing"):
        read(f"hub:{NAME}:test")
    (pulled.splits[0].folder / "ctxtune.json").write_text("{")
    with pytest.raises(DataError, match="is broken"):
        read(f"hub:{NAME}:test")
