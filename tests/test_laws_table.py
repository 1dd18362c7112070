"""The table of the laws: what a cell says, what stands below it, and that nothing is run twice."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "benchmarks" / "laws_table.py"
# Laws of other houses: one is kept, one is broken where the sevens are, one family is refused, one setting is no cell's.
MODULE = """
import pytest

CELLS = pytest.mark.parametrize(("kind", "layers", "quant"), [("ox", "last:1", "none"), ("ox", "last:1", "nf4")])


@CELLS
def test_law_1_holds(kind, layers, quant):
    pass


@CELLS
def test_law_2_breaks(kind, layers, quant):
    assert (7 if quant == "nf4" else 0) <= 1e-5


@pytest.mark.parametrize(("kind", "layers", "quant"), [("ass", "auto", "none"), ("ass", "auto", "nf4")])
def test_refused(kind, layers, quant, record_property):
    record_property("refused", "asses are not supported")


@pytest.mark.parametrize(("kind", "motion"), [("ox", "drawn")])
def test_law_6_in_every_phase(kind, motion):
    pass


def test_law_6_alone():
    pass
"""

PROMPTS = """
import pytest


@pytest.mark.parametrize(("kind", "prompt", "quant"), [("ox", "suffix", "nf4")])
def test_law_1_a_prompt_holds(kind, prompt, quant):
    pass


@pytest.mark.parametrize(("kind", "prompt", "quant"), [("ass", "suffix", "none")])
def test_a_prompt_is_refused(kind, prompt, quant, record_property):
    record_property("refused", "asses go on from nothing")
"""

INTERRUPTED = """
import pytest

from ctxtune.errors import Interrupted


@pytest.mark.parametrize("kind", ["ox"])
def test_law_1_before(kind):
    pass


@pytest.mark.parametrize("kind", ["ox"])
def test_law_2_while(kind):
    raise Interrupted("stopped by SIGTERM")


@pytest.mark.parametrize("kind", ["ox"])
def test_law_3_after(kind):
    pass
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("laws_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "laws_table", module)
    spec.loader.exec_module(module)
    laws = tuple(tmp_path / f"{tmp_path.name}{end}.py" for end in ("", "_prompt"))  # pytest imports no two of one name
    for path, text in zip(laws, (MODULE, PROMPTS), strict=True):
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(module, "LAWS", laws)
    return module


def test_holds_refused_and_fails(table: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks, out = table.collect(), tmp_path / "checks.jsonl"
    assert len(checks) == 10
    table.run(frozenset(check.name for check in checks), out)
    assert table.show(checks, table.read(out)) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split() for line in said[:5]] == [
        ["family", "quant", "last:1", "auto", "drawn", "suffix"],
        ["ox", "none", "holds", "-", "holds", "-"],
        ["ox", "nf4", "fails", "1", "-", "-", "holds"],
        ["ass", "none", "-", "refused", "a", "-", "refused", "b"],
        ["ass", "nf4", "-", "refused", "a", "-", "-"],
    ]
    assert said.count("refused a: asses are not supported") == 1
    assert said.count("refused b: asses go on from nothing") == 1
    (failure,) = [line for line in said if line.startswith("fails 1: ")]
    assert "test_law_2_breaks[ox-last:1-nf4]" in failure
    assert "assert 7 <= 1e-05" in failure
    assert "last:1: law 1 x 2, law 2 x 2" in said
    assert "suffix: law 1 x 1" in said
    assert "others: law 6 x 1" in said
    assert said[-1] == "7 cells: 3 holds, 1 fails, 3 refused; 10 checks, 1 of them fail"


def test_only_what_is_wanted_and_not_known(table: Any, tmp_path: Path) -> None:
    checks, out = table.collect(), tmp_path / "checks.jsonl"
    table.run(frozenset(check.name for check in checks if check.kind == "ox"), out)
    left = table.unknown(checks, table.read(out))
    assert {kind: sorted(names) for kind, names in left.items()} == {
        "": ["test_law_6_alone"],
        "ass": [
            "test_a_prompt_is_refused[ass-suffix-none]",
            "test_refused[ass-auto-nf4]",
            "test_refused[ass-auto-none]",
        ],
        "ox": ["test_law_2_breaks[ox-last:1-nf4]"],  # what failed is tried again
    }
    asked = argparse.Namespace(kinds=["ox"], quants=None, trained=["last:1"])
    assert {check.law for check in checks if table.wanted(check, asked)} == {"1", "2"}


def test_what_was_interrupted_has_said_nothing(table: Any, tmp_path: Path) -> None:
    table.LAWS[0].write_text(INTERRUPTED, encoding="utf-8")
    table.LAWS[1].write_text("", encoding="utf-8")
    checks, out = table.collect(), tmp_path / "checks.jsonl"
    with pytest.raises(SystemExit, match="INTERRUPTED"):
        table.run(frozenset(check.name for check in checks), out)
    assert list(table.read(out)) == ["test_law_1_before[ox]"]
    assert sum(len(names) for names in table.unknown(checks, table.read(out)).values()) == 2


def test_a_line_that_was_cut_is_run_again(table: Any, tmp_path: Path) -> None:
    out = tmp_path / "checks.jsonl"
    out.write_text(
        json.dumps({"name": "one", "result": "holds"}) + '\n{"name": "tw{"name": "three"}\n', encoding="utf-8"
    )
    assert list(table.read(out)) == ["one"]


def test_no_two_checks_have_one_name(table: Any) -> None:
    """A check is known by its name, whichever module it is in."""
    table.LAWS[1].write_text(MODULE, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"test_law_1_holds\[ox-last:1-none\]"):
        table.collect()
