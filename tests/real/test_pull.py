"""The model is fetched once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from .conftest import MODEL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Ended

pytestmark = pytest.mark.real


def test_a_second_pull_does_not_fetch(model: Path, ctxtune: Callable[..., Ended], tmp_path: Path) -> None:
    before = [(path.name, path.stat().st_mtime_ns, path.stat().st_ino) for path in sorted(model.iterdir())]
    # A home without the model cannot get it this way, so that the test would fail if a second pull fetched.
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    new = ctxtune("model", "pull", MODEL, more={**nowhere, "CTXTUNE_HOME": str(tmp_path)})
    assert (new.code, new.out) == (3, "")
    assert "cannot be fetched" in new.err
    again = ctxtune("model", "pull", MODEL, "--json", more=nowhere)
    assert again.code == 0, again.err
    assert again.json["folder"] == str(model)
    assert not again.json["fresh"]
    assert [(path.name, path.stat().st_mtime_ns, path.stat().st_ino) for path in sorted(model.iterdir())] == before
