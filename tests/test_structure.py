"""The house rules that a machine can check, and the wheel: what is in it, and that it works where nothing else is."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ctxtune"
FILES = sorted(PACKAGE.rglob("*.py"))
FULL = [path for path in FILES if path.stat().st_size]
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "managers"}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_there_is_a_package_to_look_at() -> None:
    assert len(FULL) > 50


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    long = [
        f"{name_of(path)}: {node.name}"
        for path in FILES
        for node in functions(tree_of(path))
        if node.end_lineno is not None and node.end_lineno - node.lineno >= 60
    ]
    assert long == []


def test_most_functions_are_shorter_than_35_lines() -> None:
    lengths = [(node.end_lineno or 0) - node.lineno + 1 for path in FILES for node in functions(tree_of(path))]
    assert sum(length > 35 for length in lengths) < 0.05 * len(lengths)


def test_only_the_command_line_prints() -> None:
    printing = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        if PACKAGE / "cli" not in path.parents
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
        or (isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr") and is_name(node.value, "sys"))
    ]
    assert printing == []


def is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def test_no_file_has_a_vague_name() -> None:
    names = [path for path in PACKAGE.rglob("*") if "__pycache__" not in path.parts]
    assert [name_of(path) for path in names if path.stem.lower().strip("_") in VAGUE] == []


def test_every_module_says_what_it_is() -> None:
    assert [name_of(path) for path in FULL if not ast.get_docstring(tree_of(path))] == []


def test_every_public_class_and_function_says_what_it_is() -> None:
    silent = [
        f"{name_of(path)}: {node.name}"
        for path in FULL
        for node in tree_of(path).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_every_bundled_recipe_is_a_recipe() -> None:
    from ctxtune.commands.recipe import check
    from ctxtune.recipe import gallery

    names = gallery.names()
    assert {"freeze", "quickstart"} <= set(names)
    assert all(purpose.strip() for _, purpose in gallery.list_templates())
    for name in names:
        assert check(name).values["ctxtune"] == 1


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_the_recipes_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    code = {name_of(path) for path in FILES}
    templates = {
        f"ctxtune/_templates/{path.relative_to(ROOT / 'templates')}"
        for path in (ROOT / "templates").rglob("*")
        if path.is_file()
    }
    assert "ctxtune/_templates/quickstart.yaml" in templates
    assert "ctxtune/_templates/data/mr_train.jsonl" in templates
    assert names == code | templates


def test_an_unpacked_wheel_finds_its_recipes(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    said = elsewhere(tmp_path, "recipe", "list", "--json")
    assert {recipe["name"] for recipe in json.loads(said)["recipes"]} >= {"freeze", "quickstart"}
    checked = json.loads(elsewhere(tmp_path, "recipe", "check", "quickstart", "--json"))
    train = Path(checked["recipe"]["data"]["train"])
    assert train.is_file()
    assert (tmp_path / "site").resolve() in train.resolve().parents


def elsewhere(folder: Path, *args: str) -> str:
    """What the unpacked wheel prints, in a folder that is no checkout."""
    return subprocess.run(
        [sys.executable, "-m", "ctxtune", *args], cwd=folder, check=True, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(folder / "site")},
    ).stdout  # fmt: skip


def test_the_wheel_asks_for_what_it_imports(wheel: Path) -> None:
    """Every library that the package imports is named in its requirements."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    asked = {
        line.split()[1].split(">")[0].split("<")[0].split("[")[0].lower()
        for line in text.splitlines()
        if line.startswith("Requires-Dist:")
        and ("extra ==" not in line or any(f"extra == '{extra}'" in line for extra in ("data", "score")))
    }
    distribution = {
        "yaml": "pyyaml",
        "pydantic_core": "pydantic",
        "backports": "backports-zstd",
        "rouge_score": "rouge-score",
    }
    imported = {
        top
        for path in FULL
        for node in ast.walk(tree_of(path))
        for module in modules_of(node)
        if (top := module.partition(".")[0]) not in sys.stdlib_module_names and top != "ctxtune"
    }
    # accelerate is imported by nobody here: transformers wants it to read a .gguf file, which is how quickstart begins.
    assert {distribution.get(name, name) for name in imported} | {"accelerate"} <= asked


def modules_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
