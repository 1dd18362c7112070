"""Every entry of the catalogue is pinned, whole, and can become a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctxtune.backend.catalogue import CATALOGUE, Entry
from ctxtune.backend.hub import ALLOWED, is_hub_id


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE)
def test_an_entry_is_pinned(entry: Entry) -> None:
    assert CATALOGUE[entry.name] is entry
    assert entry.name == Path(entry.name).name
    assert 0 < entry.num_bytes < entry.stored_bytes
    for file in entry.files:
        assert file.name == Path(file.name).name
        assert len(bytes.fromhex(file.hash)) == 32
        assert file.num_bytes > 0
        assert file.parts
    for origin in entry.origins:
        scheme, _, what = origin.partition(":")
        if scheme == "hub":
            repository, _, revision = what.rpartition("@")
            assert is_hub_id(repository)
            assert len(bytes.fromhex(revision)) == 20
            assert all(ALLOWED.fullmatch(file.name) for file in entry.files)
        else:
            assert (scheme, what.count("==")) == ("pip", 1)


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE)
def test_its_files_make_a_model(entry: Entry) -> None:
    """One .gguf file comes first and is converted; anything else is a folder as it is."""
    names = [file.name for file in entry.files]
    assert names[0].endswith(".gguf") or {"config.json", "tokenizer.json", "model.safetensors"} <= set(names)
    assert not any(name.endswith((".bin", ".pt", ".py", ".pkl")) for name in names)


def test_gemma_comes_with_its_terms() -> None:
    gemma = CATALOGUE["gemma3-270m-q4"]
    assert gemma.terms is not None
    assert "ai.google.dev/gemma/terms" in gemma.terms
    assert "GEMMA_TERMS.html" in [file.name for file in gemma.files]
    assert [name for name, entry in CATALOGUE.items() if entry.terms] == ["gemma3-270m-q4"]
