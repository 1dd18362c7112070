"""What an unkind user hands in: a good recipe, template, data file, model or adapter, spoilt, and a command that reads it.

A case is made by `make(number)` alone: its kind and its chance follow from the number, so that any of them can be made again.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .spoil import WRONG, spoil_bytes, spoil_json, spoil_safetensors, spoil_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = [{"text": f"a film of {i} hours, long", "label": "positive" if i % 2 else "negative"} for i in range(6)]
TEMPLATES = [
    "{{ text.__class__ }}",
    "{{ text.__init__.__globals__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ text | attr('upper') }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ 'a' * 10**9 }}",
    "{{ 10**10**6 }}",
    "{{ range(10**9) | list }}",
    "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}",
    "{{ text.format }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ self }}",
    "{{ cycler }}",
    "{{ lipsum() }}",
    "{{ namespace(a=1) }}",
    "{{ text",
    "{% if %}",
    "{{ nobody }}",
    "{{ text.x.y }}",
    "{{ text | map('upper') }}",
    "{{ text | replace('', 'aaaaaaaa') | replace('', 'aaaaaaaa') | replace('', 'aaaaaaaa') }}",
    "{% set a = [1] %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ ((((((((1))))))))**99999 }}",
    "{{ text[0:10**30] }}",
    "{{ text.join(['a'] * 10**8) }}",
    "{{ 1 / 0 }}",
    "{{ [] | first }}",
    "{{ text | random }}",
    "{{ config }}",
    "{{ text | pprint }}",
    "{{ text | center(10**9) }}",
    "{{ text | indent(10**9) }}",
    "{{ text | wordwrap(0) }}",
    "{{ -1 ** 0.5 }}",
    "{{ text\u0000 }}",
    "{% for a in text recursive %}{{ loop(a) }}{% endfor %}",
    "{{ dict(a=1).__getattribute__ }}",
    "{{ (1).real }}",
    "{#",
    "{% raw %}",
]
OF_A_RECIPE = ("r.yaml", "rows.jsonl", "data.", "method.", "model", "out", "probe")
EXTENSIONS = ("jsonl", "csv", "tsv", "txt", "json", "jsonl.gz")


@dataclass(frozen=True)
class Good:
    """What is spoilt: a model folder, a run on it, an adapter from examples, and a recipe that works."""

    model: Path
    run: Path
    shown: Path


@dataclass(frozen=True)
class Case:
    """A command line, and the words of which an error must hold one: the file's name, the option or the key."""

    args: list[str]
    named: tuple[str, ...]


def make(number: int, good: Good, folder: Path) -> Case:
    """Write the files of a case into an empty folder and say what is called."""
    chance = random.Random(f"mutation {number}")
    return KINDS[number % len(KINDS)](good, folder, chance)


def kind_of(number: int) -> str:
    """The name of a case's kind."""
    return KINDS[number % len(KINDS)].__name__.strip("_")


def recipe_text(good: Good, train: str = "rows.jsonl") -> str:
    """A recipe that works."""
    return (
        f'ctxtune: 1\nmodel: {good.model}\ndata:\n  train: {train}\n  prompt: "Review: {{{{ text }}}}\\nSentiment:"\n'
        '  answer: "{{ label }}"\n  choices: [negative, positive]\n'
        'method: {name: freeze, layers: "last:1"}\ntrain: {epochs: 1, batch: 2, lr: 1.0e-3}\nforget: {probe: none}\n'
    )


def rows_as(extension: str) -> bytes:
    """The rows in one of the formats."""
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    if extension == "json":
        text = json.dumps(ROWS, indent=1)
    elif extension in ("csv", "tsv"):
        comma = "," if extension == "csv" else "\t"
        text = "".join(
            comma.join(f'"{cell}"' for cell in cells) + "\n"
            for cells in [("text", "label"), *((row["text"], row["label"]) for row in ROWS)]
        )
    elif extension == "txt":
        text = "".join(row["text"] + "\n" for row in ROWS)
    return gzip.compress(text.encode(), mtime=0) if extension.endswith("gz") else text.encode()


def _recipe(good: Good, folder: Path, chance: random.Random) -> Case:
    (folder / "rows.jsonl").write_bytes(rows_as("jsonl"))
    (folder / "r.yaml").write_bytes(spoil_text(recipe_text(good), chance))
    command = chance.choice([["recipe", "check"], ["run", "--dry-run"]])
    return Case([*command, "r.yaml"], OF_A_RECIPE)


def _recipe_value(good: Good, folder: Path, chance: random.Random) -> Case:
    import yaml

    (folder / "rows.jsonl").write_bytes(rows_as("jsonl"))
    document = spoil_json(yaml.safe_load(recipe_text(good)), chance)
    (folder / "r.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    return Case(
        ["run", "r.yaml", "--dry-run"],
        ("r.yaml", "does not exist", "cannot be read", "rows.jsonl", "data.", "method.", "model", "out", "probe"),
    )


def _template(good: Good, folder: Path, chance: random.Random) -> Case:
    (folder / "rows.jsonl").write_bytes(rows_as("jsonl"))
    template = chance.choice(TEMPLATES)
    if chance.random() < 0.3:
        template = spoil_text(template, chance).decode("utf-8", "replace").replace("\0", "") or "{{"
    option = chance.choice(["--prompt", "--answer"])
    args = ["freeze", "--model", str(good.model), "--train", "rows.jsonl", "--layers", "last:1", "--dry-run"]
    return Case([*args, option, template], ("data.prompt", "data.answer", "rows.jsonl", "--prompt", "--answer"))


def _data(good: Good, folder: Path, chance: random.Random) -> Case:
    extension = chance.choice(EXTENSIONS)
    name = f"rows.{extension}"
    raw = rows_as(extension)
    if extension.startswith("json") and chance.random() < 0.4:
        rows = spoil_json(ROWS, chance)
        text = json.dumps(rows) if extension == "json" else "".join(json.dumps(row) + "\n" for row in rows)
        raw = gzip.compress(text.encode(), mtime=0) if extension.endswith("gz") else text.encode()
    elif extension == "jsonl.gz" or chance.random() < 0.4:
        raw = spoil_bytes(raw, chance)
    else:
        raw = spoil_text(raw.decode(), chance)
    (folder / name).write_bytes(raw)
    args = ["freeze", "--model", str(good.model), "--train", name, "--layers", "last:1", "--dry-run"]
    task = ["--prompt", "{{ text }}", "--answer", "{{ text if label is not defined else label }}"]
    return Case([*args, *task], (name, "no supervised"))


def _strange_file(good: Good, folder: Path, chance: random.Random) -> Case:
    """A path that is not what it seems: a folder, a device, a loop of links, a link to another place, a huge line."""
    name = "rows.jsonl"
    path = folder / name
    deed = chance.randrange(6)
    if deed == 0:
        path.mkdir()
    elif deed == 1:
        path.symlink_to(name)
    elif deed == 2:
        path.symlink_to("/dev/zero")
    elif deed == 3:
        path.symlink_to("/etc/passwd")
    elif deed == 4:
        path.write_bytes(b'{"text": "' + b"a" * 3_000_000 + b'", "label": "x"}\n')
    else:
        path.write_bytes(gzip.compress(b'{"text": "' + b"a" * 50_000_000 + b'"}'))
        path = path.rename(folder / "rows.jsonl.gz")
    args = ["freeze", "--model", str(good.model), "--train", path.name, "--layers", "last:1", "--dry-run"]
    return Case([*args, "--prompt", "{{ text }}", "--answer", "{{ label }}"], (name,))


def _model(good: Good, folder: Path, chance: random.Random) -> Case:
    model = folder / "base"
    shutil.copytree(good.model, model)
    victim = chance.choice(
        ["config.json", "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    )
    raw = (model / victim).read_bytes()
    if victim == "config.json" and chance.random() < 0.3:
        config = json.loads(raw)
        config[chance.choice(sorted(config))] = chance.choice([10**6, 10**9, 10**30, 0, -1, 1e308])
        raw = json.dumps(config).encode()
    elif victim == "model.safetensors":
        raw = spoil_safetensors(raw, chance) if chance.random() < 0.8 else spoil_bytes(raw, chance)
    elif chance.random() < 0.8:
        raw = json.dumps(spoil_json(json.loads(raw), chance, deepest=2)).encode("utf-8", "surrogatepass")
    else:
        raw = spoil_bytes(raw, chance)
    (model / victim).write_bytes(raw)
    (folder / "rows.jsonl").write_bytes(rows_as("jsonl"))
    score = ["eval", "--model", "base", "--eval", "rows.jsonl", "--prompt", "{{ text }}", "--answer", "{{ label }}"]
    plan = ["freeze", "--model", "base", "--train", "rows.jsonl", "--layers", "last:1", "--dry-run"]
    commands = [["model", "show", "base"], [*score, "--choices", "negative,positive", "--device", "cpu"]]
    commands.append([*plan, "--prompt", "{{ text }}", "--answer", "{{ label }}"])
    return Case(chance.choice(commands), ("base", "tokenizer", "rows.jsonl", "model"))


def _model_path(good: Good, folder: Path, chance: random.Random) -> Case:
    """Something that is not a model where a model is asked for."""
    (folder / "empty").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "file.gguf").write_bytes(spoil_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 64, chance))
    (folder / "link").symlink_to(good.model / "config.json")
    names = [
        "empty",
        "loop",
        "link",
        "file.gguf",
        "/dev/null",
        "~",
        "..",
        "owner/name",
        "https://example.org/x",
        "a" * 5000,
        "\u202e",
    ]
    names += [str(value) for value in WRONG if isinstance(value, str) and "\0" not in value]
    name = chance.choice(names)
    command = chance.choice([["model", "show", name], ["generate", "hello", "--model", name]])
    return Case(command, ("model", name[:40] or "model"))


def _adapter(good: Good, folder: Path, chance: random.Random) -> Case:
    adapter = folder / "adapter"
    shutil.copytree(chance.choice([good.run / "adapter", good.shown]), adapter)
    victim = chance.choice(["adapter_model.safetensors", "adapter_model.safetensors", "adapter_config.json"])
    raw = (adapter / victim).read_bytes()
    if victim == "adapter_config.json":
        spoilt = json.dumps(spoil_json(json.loads(raw), chance)).encode("utf-8", "surrogatepass")
        raw = spoilt if chance.random() < 0.8 else spoil_bytes(raw, chance)
    else:
        raw = spoil_safetensors(raw, chance) if chance.random() < 0.8 else spoil_bytes(raw, chance)
    (adapter / victim).write_bytes(raw)
    model = ["--model", str(good.model)]
    commands = [
        ["adapter", "show", "adapter"],
        ["adapter", "verify", "adapter", *model],
        ["generate", "hello", "--adapter", "adapter", *model, "--max-tokens", "2", "--device", "cpu"],
        ["adapter", "export", "adapter", "--out", "exported"],
        ["adapter", "merge", "adapter", "--out", "merged", *model],
    ]
    return Case(chance.choice(commands), ("adapter", good.model.name))


KINDS: tuple[Callable[[Good, Path, random.Random], Case], ...] = (
    _recipe, _recipe_value, _template, _data, _data, _data, _strange_file, _model, _model, _model_path, _adapter, _adapter,
)  # fmt: skip
