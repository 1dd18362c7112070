"""`ctxtune recipe`: what each command returns and prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctxtune.cli.recipe import app
from ctxtune.commands import recipe
from ctxtune.errors import RecipeError, StorageError
from ctxtune.recipe import gallery
from ctxtune.recipe.load import load

ROOT = Path(__file__).parents[2]


def call(*args: str) -> str:
    result = CliRunner().invoke(app, list(args), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_list():
    listed = recipe.list_recipes()
    assert [one.name for one in listed] == gallery.names()
    assert json.loads(call("list", "--json"))["recipes"][0] == {"name": listed[0].name, "purpose": listed[0].purpose}
    assert "quickstart" in call("list")


def test_show_prints_the_file_as_it_is(tmp_path):
    assert call("show", "quickstart") == gallery.find("quickstart").read_text(encoding="utf-8")
    path = tmp_path / "wrong.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: [b\n# \xc3\xbc\n")
    assert call("show", str(path)) == "a: [b\n# ü\n"


def test_schema_is_the_json_schema():
    schema = json.loads(call("schema"))
    assert schema["properties"]["model"]["type"] == "string"
    assert schema["$defs"]["Train"]["properties"]["batch"]["maximum"] == 65_536


def test_check_prints_a_recipe_that_loads(tmp_path):
    text = call("check", "freeze", "--set", "train.seed=7", "--set", "data.choices=[no, yes]")
    assert text.startswith("# ok: 'freeze'\n")
    assert "  seed: 7  # --set\n" in text
    path = tmp_path / "r.yaml"
    path.write_text(text)
    assert load(str(path), {}).recipe == load("freeze", {}, ["train.seed=7", "data.choices=[no, yes]"]).recipe


def test_check_as_json():
    facts = json.loads(call("check", "quickstart", "--json"))
    assert facts["ok"] is True
    assert facts["recipe"]["train"]["epochs"] == 1.0
    assert facts["origin"]["train.epochs"] == "recipe"
    assert facts["origin"]["train.lr"] == "recipe"
    assert facts["origin"]["train.schedule"] == "default"


@pytest.mark.parametrize("key", ["data.prompt", "data.answer"])
def test_check_compiles_the_templates(key):
    with pytest.raises(RecipeError, match=key):
        recipe.check("quickstart", [f"{key}={{{{ text"])


@pytest.mark.parametrize("name", gallery.names())
def test_new_writes_a_recipe_that_means_the_same(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    made = recipe.new(name)
    assert made.path == Path(f"{name}.yaml")
    assert call("new", name, "--out", "b.yaml") == "b.yaml\n"
    assert Path("b.yaml").read_bytes() == made.path.read_bytes()
    assert sorted(os.listdir()) == ["b.yaml", f"{name}.yaml"]
    assert load("b.yaml", {}).recipe.model == load(name, {}).recipe.model


def test_new_keeps_bundled_data_where_it_is(tmp_path, monkeypatch):
    bundle = tmp_path / "it's a: bundle"
    (bundle / "data").mkdir(parents=True)
    (bundle / "data/t.jsonl").write_text("")
    text = "# A recipe\nmodel: m\ndata:\n  train: data/t.jsonl  # bundled\n  eval: own.jsonl\nmethod: {name: freeze}\n"
    (bundle / "x.yaml").write_text(text)
    monkeypatch.setattr(gallery, "template_folder", lambda: bundle)
    monkeypatch.chdir(tmp_path)
    recipe.new("x")
    data = load("x.yaml", {}).recipe.data
    assert data.train == str(bundle / "data/t.jsonl")
    assert data.eval == str(tmp_path / "own.jsonl")
    assert "# bundled" in Path("x.yaml").read_text()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_new_overwrites_nothing(tmp_path, kind):
    path = tmp_path / "r.yaml"
    {"file": path.touch, "folder": path.mkdir, "link": lambda: path.symlink_to("nowhere")}[kind]()
    with pytest.raises(RecipeError, match="is there already"):
        recipe.new("freeze", path)
    assert os.listdir(tmp_path) == ["r.yaml"]


def test_new_where_nothing_can_be_written(tmp_path):
    with pytest.raises(StorageError, match="cannot be written"):
        recipe.new("freeze", tmp_path / "no" / "r.yaml")


@pytest.mark.parametrize("name", ["freez", "../templates/freeze", "", "a\0", "/etc/passwd"])
def test_new_of_what_is_not_bundled(name):
    with pytest.raises(RecipeError, match="no bundled recipe") as caught:
        recipe.new(name)
    assert "freeze" in caught.value.hint


def test_listing_and_checking_load_nothing_heavy():
    script = (
        "import sys\nfrom ctxtune.cli.recipe import app\n"
        "app(['check', 'quickstart'], standalone_mode=False)\nprint(*sys.modules, file=sys.stderr)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    assert not set(result.stderr.split()) & {"torch", "transformers", "numpy", "peft"}
