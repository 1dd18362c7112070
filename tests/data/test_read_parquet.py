"""Parquet: the rows that pyarrow was given, plain types only, and neither a lying nor an exploding file costs much."""

from __future__ import annotations

import datetime
import math
import random
import subprocess
import sys
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ctxtune.data import open as open_module
from ctxtune.data.read import check_types, read_rows
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

ROWS: list[dict[str, Any]] = [
    {
        "text": "ä" * n,
        "n": n - 2**63,
        "f": n / 4,
        "yes": n % 2 == 0,
        "tags": ["a", None][: n % 3],
        "deep": {"l": [{"k": n}], "s": None},
    }
    for n in range(700)
]


def write(folder: Path, table: Any, name: str = "a.parquet", **options: Any) -> Path:
    parquet.write_table(table, folder / name, **options)
    return folder / name


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"row_group_size": 100, "use_dictionary": False}])
def test_the_rows_are_those_written(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write(tmp_path, pa.Table.from_pylist(ROWS), **options)
    rows = read_rows(path)
    assert [row.fields for row in rows] == ROWS
    assert rows[699].where == f"{path} row 700"
    assert all(type(row.fields["n"]) is int and type(row.fields["yes"]) is bool for row in rows)


def test_every_plain_type(tmp_path: Path) -> None:
    table = pa.table(
        {
            "large": pa.array(["a", None], pa.large_string()),
            "small": pa.array([1, 255], pa.uint8()),
            "half": pa.array([0.5, None], pa.float32()),
            "none": pa.nulls(2),
            "fixed": pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)),
            "word": pa.array(["x", "y"]).dictionary_encode(),
            "huge": pa.array([2**64 - 1, 0], pa.uint64()),
        }
    )
    assert [row.fields for row in read_rows(write(tmp_path, table))] == [
        {"large": "a", "small": 1, "half": 0.5, "none": None, "fixed": [1, 2], "word": "x", "huge": 2**64 - 1},
        {"large": None, "small": 255, "half": None, "none": None, "fixed": [3, 4], "word": "y", "huge": 0},
    ]


UNKIND: dict[str, tuple[Any, str]] = {
    "binary": (pa.array([b"a"]), "column 'x' holds binary"),
    "time": (pa.array([datetime.datetime(2020, 1, 1)]), "column 'x' holds timestamp"),
    "map": (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "column 'x' holds map"),
    "inner": (pa.array([{"a": [{"b": b"c"}]}]), r"column 'x\.a\.b' holds binary"),
    "nan": (pa.array([1.0, math.nan]), "row 2: column 'x' is nan"),
    "infinity": (pa.array([{"a": [1.0, -math.inf]}]), r"row 1: column 'x\.a' is -inf"),
    "empty": (pa.array([], pa.string()), "has no rows"),
    "text": (pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]), "UTF"),
}  # fmt: skip


@pytest.mark.parametrize(("column", "message"), UNKIND.values(), ids=UNKIND)
def test_unkind_columns(tmp_path: Path, column: Any, message: str) -> None:
    path = write(tmp_path, pa.table({"x": column}))
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_names_that_stand_twice(tmp_path: Path) -> None:
    path = write(tmp_path, pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"]))
    with pytest.raises(DataError, match="names 'x' twice"):
        read_rows(path)


def test_a_deep_type(tmp_path: Path) -> None:
    kind: Any = pa.int64()
    for _ in range(40):
        kind = pa.list_(kind)
    with pytest.raises(DataError, match="nested deeper than 32 levels"):
        read_rows(write(tmp_path, pa.table({"x": pa.nulls(1, kind)})))


def test_other_content_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for content in (b"", b"PAR1", b'{"text": "a"}\n', b"PAR1" * 100, b"PAR1" + b"\xff" * 4 + b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.parquet (is no parquet file|cannot be read)"):
            read_rows(path)
    write(tmp_path, pa.Table.from_pylist(ROWS)).rename(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"a\.jsonl is parquet"):
        read_rows(tmp_path / "a.jsonl")
    (tmp_path / "a.parquet.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"the suffix '\.parquet' names no known format"):
        read_rows(tmp_path / "a.parquet.gz")


def bombs() -> dict[str, Any]:
    """Small files that hold much: one text over and over, nulls, lists of nulls, empty structs."""
    count = 1 << 22
    nulls = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pa.nulls(count))
    return {
        "one text": pa.table(
            {"x": pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), ["y" * (1 << 16)])}
        ),
        "zeros": pa.table({"x": pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(bytes(8 * count))])}),
        "null rows": pa.table({"x": pa.nulls(count)}),
        "a list of nulls": pa.table({"x": nulls}),
    }


@pytest.mark.parametrize("name", ["one text", "zeros", "null rows", "a list of nulls"])
def test_bombs(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, bombs()[name], compression="zstd")
    assert path.stat().st_size < 1 << 18
    begun = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a\.parquet unpacks to more than [\d,]+ bytes"):
        read_rows(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert time.perf_counter() - begun < 5


def test_ordinary_tables_may_be_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    table = pa.table({"text": [f"{chance.getrandbits(200):x}" for _ in range(5000)], "label": ["a", "b"] * 2500})
    path = write(tmp_path, table)
    monkeypatch.setattr(open_module, "FREE_BYTES", 0)
    assert len(read_rows(path)) == 5000


def test_spoilt_bytes_end_in_an_error_or_in_rows(tmp_path: Path) -> None:
    path = write(tmp_path, pa.Table.from_pylist(ROWS[:20]))
    whole, chance, said = path.read_bytes(), random.Random(0), []
    for _ in range(200):
        spoilt = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        path.write_bytes(spoilt[: chance.randrange(len(spoilt))] if chance.random() < 0.2 else spoilt)
        try:
            read_rows(path)
        except DataError as error:
            said.append(str(error))
    assert len(said) > 40
    assert all(text.startswith(str(path)) and "\n" not in text for text in said)


def test_types_are_compared_by_row(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"n": "one"}\n')
    rows = [*read_rows(write(tmp_path, pa.table({"n": [1]}))), *read_rows(tmp_path / "b.jsonl")]
    with pytest.raises(
        DataError, match=r"b\.jsonl line 1: field 'n' is text, but in .*a\.parquet row 1 it is a number"
    ):
        check_types(rows, ["n"])


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, pa.Table.from_pylist(ROWS))
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match="needs the library pyarrow") as caught:
        read_rows(path)
    assert caught.value.hint == "pip install 'ctxtune[data]'"


def test_the_library_is_imported_for_columns_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n')
    code = (
        "import sys; from ctxtune.data.read import read_rows; read_rows(sys.argv[1]); print('pyarrow' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.jsonl"], capture_output=True, text=True, check=True
    )
    assert said.stdout == "False\n"
