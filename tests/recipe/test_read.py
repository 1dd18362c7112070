"""The strict YAML reader: what it takes, what it refuses, and the lines it remembers."""

from __future__ import annotations

import math
import os

import pytest
import yaml

from ctxtune.errors import RecipeError
from ctxtune.recipe import read
from ctxtune.recipe.read import MOST_BYTES, MOST_DEPTH, parse, read_recipe


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def both_parsers(request, monkeypatch):
    """libyaml, and the parser in Python that stands in for it where there is none."""
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML without libyaml")
    monkeypatch.setattr(read, "Loader", getattr(yaml, request.param))


@pytest.mark.usefixtures("both_parsers")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("3.", 3.0),
        (".5", 0.5),
        ("-0.25", -0.25),
        ("12", 12),
        ("-3", -3),
        ("+3", 3),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("010", "010"),
        ("0x10", "0x10"),
        ("0o7", "0o7"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("True", "True"),
        ("NULL", "NULL"),
        ("'true'", "true"),
        ('"1"', "1"),
        ("''", ""),
        ('"a\\nb\\u00e9"', "a\nbé"),
        ("=", "="),
        ("<<", "<<"),
        ("1 2", "1 2"),
        ("[no, 1, [x]]", ["no", 1, ["x"]]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("|\n  two\n   lines\n", "two\n lines\n"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    found, _ = parse(f"key: {text}\n", "r.yaml")
    assert found["key"] == value
    assert type(found["key"]) is type(value)


def test_nan_is_a_number():
    assert math.isnan(parse(".nan", "r.yaml")[0])


def test_every_path_has_its_line():
    text = "a: 1\n\n# comment\nb:\n  c:\n    - x\n    - {y: 2}\n  d: |\n    long\n    text\ne: [1,\n  2]\n"
    lines = {"a": 1, "b": 4, "b.c": 5, "b.c.0": 6, "b.c.1": 7, "b.c.1.y": 7, "b.d": 8, "e": 11, "e.0": 11, "e.1": 12}
    assert parse(text, "r.yaml")[1] == lines


@pytest.mark.usefixtures("both_parsers")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "r.yaml line 3: key 'a' stands here again, first on line 1"),
        ("x:\n  a: 1\n  a: 1\n", "line 3: key 'x.a' stands here again, first on line 2"),
        ("a: &big [1]\n", "line 1: anchor '&big'"),
        ("a: 1\nb: *big\n", "line 2: alias '*big'"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1: tag"),
        ("a: !!str 1\n", "line 1: tag"),
        ("a: ! 1\n", "line 1: tag"),
        ("!x\na: 1\n", "line 1: tag"),
        ("a: 1\n---\nb: 2\n", "line 2: a second document"),
        ("a:\n\tb: 1\n", "line 2: not valid YAML"),
        ("a: [1\n", "not valid YAML"),
        ("a: 'x\n", "not valid YAML"),
        ("a: b: c\n", "line 1: not valid YAML"),
        ("a: 1\n  b: 2\n", "not valid YAML"),
        ("a: {{ text }}\n", "line 1: a list or a mapping stands where a key should"),
        ("? [1]\n: 2\n", "line 1: a list or a mapping stands where a key should"),
        ("a: 1\nb: \x00\n", "not valid YAML"),
        ("a: \x07\n", "not valid YAML"),
        ('a: "\\0"\n', "line 1: '\\x00' has a NUL"),
        ('"\\0": 1\n', "line 1: '\\x00' has a NUL"),
        ('a: "\\ud800"\n', "line 1"),
        ("a: \ud800\n", "r.yaml"),
        ("a: " + "9" * 5000 + "\n", "line 1: a number of 5000 digits"),
        ("a: " + "[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "nested deeper"),
        ("[" * 100_000, "nest"),  # newer parsers have a limit of their own
        ("- " * 5000, "nest"),
        ("\n".join(" " * depth + "a:" for depth in range(200)), "nested deeper"),
    ],
)
def test_refused(text, said):
    with pytest.raises(RecipeError) as caught:
        parse(text, "r.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_text_with_braces_gets_a_hint_to_quote_it():
    with pytest.raises(RecipeError) as caught:
        parse("a: {{ text }}", "r.yaml")
    assert "quotes" in caught.value.hint


def test_billion_laughs_is_refused_at_once():
    text = "a: &a [x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(30))
    with pytest.raises(RecipeError, match="anchor"):
        parse(text, "r.yaml")


@pytest.mark.parametrize("raw", [b"\xef\xbb\xbfa: 1\n", b"a: 1\r\n", b"a: 1", b"--- \na: 1\n...\n"])
def test_bom_crlf_and_missing_last_newline_are_fine(tmp_path, raw):
    path = tmp_path / "r.yaml"
    path.write_bytes(raw)
    assert read_recipe(path, "r.yaml").data == {"a": 1}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"null\n", "is empty"),
        (b"- a\n", "line 1: a recipe is a mapping"),
        (b"just words\n", "line 1: a recipe is a mapping"),
        (b"a: 1\nb: \xff\n", "line 2: not UTF-8"),
        ("a: ü\n".encode("latin-1"), "line 1: not UTF-8"),
        ("a: 1\n".encode("utf-16"), "line 1: not UTF-8"),
        (b"a: 1\n" + b"#" * MOST_BYTES, "is larger than 1,000,000 bytes"),
        (bytes(range(256)), "not UTF-8"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, raw, said):
    path = tmp_path / "r.yaml"
    path.write_bytes(raw)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, "r.yaml")
    assert str(caught.value).startswith("r.yaml")
    assert said in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("a: 1\n")
    path.chmod(0)
    with pytest.raises(RecipeError, match=r"r\.yaml cannot be read: Permission denied"):
        read_recipe(path, "r.yaml")


def test_a_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(RecipeError, match=r"r\.yaml cannot be read: Is a directory"):
        read_recipe(tmp_path, "r.yaml")
