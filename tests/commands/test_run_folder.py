"""A run's folder: one run, one writer, nothing else in it."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest

from ctxtune.commands.run_folder import RunFolder, check_place, open_run
from ctxtune.errors import CtxtuneError, RecipeError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def begin(path: Path) -> None:
    """What an unfinished run leaves."""
    with open_run(path, resume=False) as run:
        run.recipe.write_text("ctxtune: 1\n", encoding="utf-8")


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    with open_run(tmp_path / "a" / "b c" / "ü", resume=False) as run:
        assert run.path.is_dir()
        assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
        assert run.recipe.parent == run.metrics.parent == run.adapter.parent == run.path


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    with open_run(tmp_path, resume=False):
        pass
    with open_run(tmp_path, resume=False):  # only the lock of the first lies there
        pass


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_of_other_files_is_refused(resume: bool, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"other files: thesis\.tex"), open_run(tmp_path, resume):
        pass
    assert (tmp_path / "thesis.tex").read_text(encoding="utf-8") == "x"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(RecipeError, match="is a file"), open_run(tmp_path / "file", resume=False):
        pass
    with pytest.raises(StorageError), open_run(tmp_path / "file" / "below", resume=False):
        pass


def test_an_unfinished_run_wants_resume(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    with pytest.raises(RecipeError, match="an unfinished run") as caught, open_run(tmp_path / "run", resume=False):
        pass
    assert "--resume" in str(caught.value.hint)
    with open_run(tmp_path / "run", resume=True) as run:
        assert run.read_result() is None


def test_a_complete_run_is_not_overwritten(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    RunFolder(tmp_path / "run").write_result({"steps": 3})
    with pytest.raises(RecipeError, match="a complete run"), open_run(tmp_path / "run", resume=False):
        pass
    with open_run(tmp_path / "run", resume=True) as run:
        assert run.read_result() == {"steps": 3}


def test_what_never_goes_on_is_not_told_to(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    for take in (lambda: open_run(tmp_path / "run", None).__enter__(), lambda: check_place(tmp_path / "run", None)):
        with pytest.raises(RecipeError, match="an unfinished run") as caught:
            take()
        assert caught.value.hint == "choose another --out"


@pytest.mark.parametrize("place", ["run", "file", "file/below", "full", "/proc/x", "new/below", "empty"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_place_is_looked_at_as_it_is_taken(place: str, resume: bool, tmp_path: Path) -> None:
    """The same refusal, or none; and nothing is left there."""
    begin(tmp_path / "run")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    looked = told(lambda: check_place(tmp_path / place, resume))
    assert sorted(tmp_path.rglob("*")) == before
    assert looked == told(lambda: open_run(tmp_path / place, resume).__enter__())


def told(take: Callable[[], object]) -> object:
    try:
        take()
    except CtxtuneError as error:
        return type(error), str(error), error.hint
    return None


@pytest.mark.parametrize("name", ["teacher", "choice"])
def test_what_is_broken_is_named_with_a_way_out(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(StorageError, match=f"{name}.json cannot be read") as caught:
        getattr(RunFolder(tmp_path), f"read_{name}")()
    assert caught.value.hint == f"choose another --out, or remove {path}"


def test_rows_of_a_killed_run_do_not_block_the_next(tmp_path: Path) -> None:
    (tmp_path / "stdin.jsonl").write_text("{}\n", encoding="utf-8")
    with open_run(tmp_path, resume=False):
        pass


@pytest.mark.parametrize("name", [
    ".recipe.yaml.4194305-0badf00d.tmp",
    pytest.param(".stdin.jsonl.a1b2c3d4"),
])  # fmt: skip
def test_half_written_files_of_a_killed_run_do_not_block_the_next(name: str, tmp_path: Path) -> None:
    """`.NAME.PID-XXXX.tmp` of atomic.py, and the file that spool_stdin copies a pipe into."""
    (tmp_path / name).write_text("half", encoding="utf-8")
    for resume in (True, False):
        with open_run(tmp_path, resume):
            pass


def test_two_writers_at_once(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", resume=False):
        for resume in (True, False):
            with pytest.raises(StorageError, match="another run is writing there"), open_run(tmp_path / "run", resume):
                pass
    with open_run(tmp_path / "run", resume=False):
        pass


def test_an_error_frees_the_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with open_run(tmp_path / "run", resume=False):
            raise RuntimeError("inside")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="inside"):
            fail()


@pytest.mark.parametrize("text", ["", "{", "null\x00", "\xff"])
def test_a_broken_result_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(text.encode("latin-1"))
    assert RunFolder(tmp_path).read_result() is None


def test_a_result_is_json(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_result({"loss": 0.1 + 0.2, "name": "ä"})
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == {"loss": 0.1 + 0.2, "name": "ä"}
