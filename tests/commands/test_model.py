"""What `model list` and `model show` say, from headers alone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ctxtune.backend.catalogue import CATALOGUE
from ctxtune.backend.fingerprint import fingerprint
from ctxtune.commands import model as command

from .test_pull import write_model

if TYPE_CHECKING:
    from pathlib import Path

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


@pytest.mark.parametrize("words", [["list", "--json"], ["show", "MODEL", "--json"]])
def test_no_torch(words: list[str], tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    code = (
        "import sys; from ctxtune.cli.model import app; app(sys.argv[1:], standalone_mode=False); "
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    words = [str(tmp_path / "model") if word == "MODEL" else word for word in words]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
