"""Data sets saved by the library `datasets`, read without it; the layout is that of its version 4."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from ctxtune.data.files import find_files
from ctxtune.data.hash import sha256_files
from ctxtune.data.read import read_rows
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

ROWS: list[dict[str, Any]] = [{"text": f"text {n}", "label": n % 2, "tags": ["a"] * (n % 3)} for n in range(30)]


def stream(path: Path, rows: list[dict[str, Any]], **options: Any) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=4)


def save(folder: Path, names: Any = ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow")) -> Path:
    """What `Dataset.from_list(ROWS).save_to_disk(folder, num_shards=2)` writes."""
    folder.mkdir(parents=True, exist_ok=True)
    stream(folder / "data-00000-of-00002.arrow", ROWS[:15])
    stream(folder / "data-00001-of-00002.arrow", ROWS[15:])
    listed = [{"filename": name} for name in names]
    (folder / "state.json").write_text(
        json.dumps({"_data_files": listed, "_fingerprint": "0", "_split": None}, indent=2)
    )
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_rows_in_the_order_of_the_state(tmp_path: Path) -> None:
    rows = read_rows(save(tmp_path / "set"))
    assert [row.fields for row in rows] == ROWS
    assert rows[16].where == f"{tmp_path}/set/data-00001-of-00002.arrow row 2"
    turned = save(tmp_path / "turned", ("data-00001-of-00002.arrow", "data-00000-of-00002.arrow"))
    assert [row.fields for row in read_rows(turned)] == ROWS[15:] + ROWS[:15]
    assert sha256_files(find_files(turned)) != sha256_files(find_files(tmp_path / "set"))


def test_splits(tmp_path: Path) -> None:
    save(tmp_path / "all" / "train")
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match="holds the splits train, test") as caught:
        read_rows(tmp_path / "all")
    assert caught.value.hint == f"name one of them: {tmp_path}/all/train"
    assert len(read_rows(tmp_path / "all" / "train")) == 30


STATES = {
    "list": ("[]", "a list, not a JSON object"),
    "cut": ('{"_data_files": [', "broken JSON"),
    "more": ("{}\n{}", "line 2: more stands behind the object"),
    "none": ('{"_data_files": []}', "'_data_files' lists no files"),
    "text": ('{"_data_files": "a"}', "'_data_files' lists no files"),
    "number": ('{"_data_files": [{"filename": 3}]}', "'_data_files' lists no files"),
    "up": ('{"_data_files": [{"filename": "../x.arrow"}]}', "which is not a file of this folder"),
    "root": ('{"_data_files": [{"filename": "/etc/passwd"}]}', "which is not a file of this folder"),
    "dots": ('{"_data_files": [{"filename": ".."}]}', "which is not a file of this folder"),
    "link": ('{"_data_files": [{"filename": "link.arrow"}]}', "which is not a file of this folder"),
    "gone": ('{"_data_files": [{"filename": "gone.arrow"}]}', "gone.arrow does not exist"),
    "other": ('{"_data_files": [{"filename": "dataset_info.json"}]}', "cannot be read"),
    "empty": ('{"_data_files": [{"filename": "empty.arrow"}]}', "has no rows"),
    "packed": ('{"_data_files": [{"filename": "packed.arrow"}]}', "holds packed columns"),
}


@pytest.mark.parametrize(("state", "message"), STATES.values(), ids=STATES)
def test_unkind_states(tmp_path: Path, state: str, message: str) -> None:
    folder = save(tmp_path / "set")
    (tmp_path / "x.arrow").write_bytes((folder / "data-00000-of-00002.arrow").read_bytes())
    (folder / "link.arrow").symlink_to(tmp_path / "x.arrow")
    with pa.ipc.new_stream(folder / "empty.arrow", pa.schema({"text": pa.string()})):
        pass
    stream(folder / "packed.arrow", [{"text": "a" * 1000}], compression="zstd")
    (folder / "state.json").write_text(state)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_spoilt_bytes_end_in_an_error_or_in_rows(tmp_path: Path) -> None:
    folder = save(tmp_path / "set")
    path = folder / "data-00000-of-00002.arrow"
    whole, chance, said = path.read_bytes(), random.Random(0), []
    for _ in range(150):
        spoilt = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        path.write_bytes(spoilt[: chance.randrange(len(spoilt))] if chance.random() < 0.2 else spoilt)
        try:
            read_rows(folder)
        except DataError as error:
            said.append(str(error))
    assert len(said) > 30
    assert all(text.startswith(str(path)) and "\n" not in text for text in said)
