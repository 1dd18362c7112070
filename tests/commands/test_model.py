"""What `model list` and `model show` say, from headers alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from ctxtune.backend.catalogue import CATALOGUE
from ctxtune.backend.fingerprint import fingerprint
from ctxtune.commands import model as command

from ..backend.test_gguf import write as write_gguf
from ..conftest import KINDS
from .test_pull import write_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base

NAME = "smollm2-135m-instruct-q4"


def test_list(tmp_path: Path) -> None:
    assert {row.name: row.folder for row in command.list_models()} == dict.fromkeys(CATALOGUE)
    folder = tmp_path / "home" / "models" / NAME
    write_model(folder)
    row = next(row for row in command.list_models() if row.name == NAME)
    assert row.folder == folder
    assert row.num_bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_show(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    shown = command.show(str(tmp_path / "model"))
    assert (shown.family, shown.layers, shown.width, shown.heads, shown.kv_heads) == ("llama", 2, 8, 4, 2)
    assert (shown.vocabulary, shown.context, shown.tied_embeddings) == (16, 64, True)
    assert (shown.parameters, shown.stored_types) == (136, {"F32": 128, "F16": 8})
    assert (shown.chat_template, shown.licence, shown.fingerprint) == (False, None, None)
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"chat_template": "{{ x }}"}')
    expected = fingerprint(tmp_path / "model")
    shown = command.show(str(tmp_path / "model"))
    assert (shown.chat_template, shown.fingerprint) == (True, expected)
    write_model(tmp_path / "home" / "models" / NAME)
    assert command.show(NAME).licence == "Apache-2.0"
    other = tmp_path / "home" / "models" / "by-hand"
    write_model(other)
    assert command.show(str(other)).licence is None


def test_a_gguf_file_is_shown_from_its_header(tmp_path: Path) -> None:
    """Nothing is converted, and the numbers are those of the folder that would be made of it."""
    write_gguf(tmp_path / "tiny.gguf")
    shown = command.show(str(tmp_path / "tiny.gguf"))
    assert (shown.family, shown.supported, shown.architecture, shown.layers) == ("llama", "yes", "llama", 1)
    assert (shown.width, shown.heads, shown.kv_heads, shown.vocabulary, shown.context) == (64, 4, 2, 32, 128)
    assert (shown.tied_embeddings, shown.chat_template, shown.licence, shown.fingerprint) == (True, False, None, None)
    assert shown.stored_types == {"F32": 3 * 64, "Q4_1": shown.parameters - 3 * 64}
    assert shown.memory["fp32"] == 4 * shown.parameters
    assert shown.num_bytes == (tmp_path / "tiny.gguf").stat().st_size
    assert not (tmp_path / "home" / "converted").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_that_of_the_model(
    kind: str, model_folders: dict[str, Path], open_base: Callable[[str], Base]
) -> None:
    shown = command.show(str(model_folders[kind]))
    base = open_base(kind)
    assert shown.supported == "yes"
    assert shown.memory["fp32"] == sum(parameter.nbytes for parameter in base.model.parameters())
    blocks = base.anatomy.block_list(base.model)
    last = sum(parameter.numel() for block in blocks[-4:] for parameter in block.parameters())
    assert shown.training_extra == 12 * last
    named = [(name, p) for block in blocks for name, p in block.named_parameters() if p.dim() == 2]
    matrices = [p for _, p in named]
    eight = [p.numel() + 4 * p.shape[0] for p in matrices]
    values = [name.endswith((".v_proj.weight", ".value.weight")) for name, _ in named]
    four = [p.numel() * (1 / 2 + 2 / 32) for p in matrices]
    small = {"int8": eight, "nf4": [e if value else f for e, f, value in zip(eight, four, values, strict=True)]}
    for name, sizes in small.items():
        assert shown.memory[name] == shown.memory["fp32"] - sum(p.nbytes for p in matrices) + sum(sizes)


def test_a_family_that_is_not_in_the_table(model_folders: dict[str, Path], open_base: Callable[[str], Base]) -> None:
    shown = command.show(str(model_folders["olmo2-untied"]))
    assert shown.supported == "yes, found by structure, checked when it is loaded"
    assert (shown.family, shown.layers, shown.kv_heads) == ("olmo2", 4, 2)
    blocks = open_base("olmo2-untied").anatomy.block_list(open_base("olmo2-untied").model)
    assert shown.training_extra == 12 * sum(param.numel() for param in blocks.parameters())


WRONG = {
    "a family nobody knows": ({"model_type": "lama"}, {}, "no: .*config.json: .*lama"),
    "a family that lacks a part": (
        {"model_type": "mamba"},
        {},
        "no: model family 'mamba' is not supported: .* no attention",
    ),
    "a family with a refusal": ({"model_type": "t5"}, {}, "no: model family 't5' is not supported"),
    "pickled weights": ({}, {"pytorch_model.bin": b"x", "model.safetensors": None}, "no: model folder .* can run code"),
    "no tokenizer": ({}, {"tokenizer.json": None}, r"no: model folder .* lacks tokenizer\.json"),
}


@pytest.mark.parametrize(("config", "files", "said"), WRONG.values(), ids=WRONG)
def test_what_is_not_supported_is_shown_with_the_reason(
    config: dict[str, Any], files: dict[str, bytes | None], said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    write_model(folder)
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, **config}))
    for name, data in files.items():
        (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
    shown = command.show(str(folder))
    assert re.match(said, shown.supported)
    assert (shown.layers, shown.width) == (2, 8)


def test_an_encoder_without_a_head_learns_to_choose(model_folders: dict[str, Path]) -> None:
    shown = command.show(str(model_folders["bert-headless"]))
    assert re.match("yes, to choose: .* learns a classifier over data.choices", shown.supported)
    assert command.show(str(model_folders["bert-tied"])).supported == "yes"


def test_a_family_found_by_structure_needs_its_head(model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(model_folders["distilbert-tied"], tmp_path / "encoder")
    tensors = load_file(folder / "model.safetensors")
    left = {name: value for name, value in tensors.items() if not name.startswith("vocab_")}
    assert len(left) < len(tensors)
    save_file(left, folder / "model.safetensors", {"format": "pt"})
    assert re.match("no: .* without the head that fills a mask", command.show(str(folder)).supported)


def test_the_licence_of_a_model_card(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\nlicense: mit\n")
    assert command.show(str(tmp_path / "model")).licence == "apache-2.0"
    (tmp_path / "model" / "README.md").write_text("license: mit\n")
    assert command.show(str(tmp_path / "model")).licence is None


@pytest.mark.parametrize("words", [["list", "--json"], ["show", "MODEL", "--json"], ["show", "GGUF", "--json"]])
def test_no_torch(words: list[str], tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    code = (
        "import sys; from ctxtune.cli.model import app; app(sys.argv[1:], standalone_mode=False); "
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    write_gguf(tmp_path / "tiny.gguf")
    places = {"MODEL": str(tmp_path / "model"), "GGUF": str(tmp_path / "tiny.gguf")}
    words = [places.get(word, word) for word in words]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
