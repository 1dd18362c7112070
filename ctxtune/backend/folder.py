"""A base model on disk: find its folder by name and say what is missing from it, without loading anything."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.backend.catalogue import CATALOGUE
from ctxtune.backend.home import models
from ctxtune.backend.hub import cached, folder_name, is_hub_id
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
NOTE = "ctxtune.json"
"""where a folder that ctxtune made came from; no part of the model"""


def resolve_model(text: str, say: Callable[[str], None] = lambda text: None) -> Path:
    """The folder that `text` means, a whole model; a .gguf file is made into one, once."""
    place = locate(text)
    if not place.is_dir():
        from ctxtune.backend.converted import converted

        return converted(place, say)
    check_folder(place)
    return place


def locate(text: str) -> Path:
    """What `text` means: an existing folder or .gguf file, else a pulled name, else a hub id that is on this machine.

    Nothing in it is read, and no hub is asked.
    """
    if not text or "\0" in text:
        raise ModelError("no model is named", "name a folder, or a model from `ctxtune model list`")
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            return path.resolve()
        exists = path.exists()
    except OSError as error:  # a name longer than the system allows, a loop of links, a folder that may not be read
        raise ModelError(f"model {text[:200]!r} cannot be read: {error.strerror}") from error
    if is_gguf(path):
        if exists:
            return path
        raise ModelError(f"model {text[:200]!r} is not there", "name a .gguf file that exists")
    if text in CATALOGUE:
        return _pulled(text)
    if exists:
        raise ModelError(f"model {text!r} is a file", "name a .gguf file, or a folder with config.json")
    if is_hub_id(text):
        return _of_hub(text)
    raise ModelError(f"model {text[:200]!r} is neither a folder nor a known name", _nearest(text))


def _of_hub(repository: str) -> Path:
    """The folder of a model that was pulled by its hub id, or that another program left in the hub's own cache."""
    folder = models(make=False) / folder_name(repository)
    found = folder if folder.is_dir() else cached(repository)
    if found is None:
        raise ModelError(
            f"model {repository!r} is neither a folder nor on this machine yet", f"ctxtune model pull {repository}"
        )
    return found


def is_gguf(path: Path) -> bool:
    """Whether a name is that of a .gguf file."""
    return path.suffix.lower() == ".gguf"


def _pulled(name: str) -> Path:
    folder = models(make=False) / name
    if not folder.is_dir():
        raise ModelError(f"model {name!r} is not on this machine yet", f"ctxtune model pull {name}")
    return folder


def _nearest(text: str) -> str:
    near = difflib.get_close_matches(text, CATALOGUE, n=2, cutoff=0.4)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    return "name a folder with config.json, or a model from `ctxtune model list`"


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a complete model, and name everything that it lacks."""
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        if (folder / "pytorch_model.bin").is_file() or (folder / "pytorch_model.bin.index.json").is_file():
            raise ModelError(
                f"model folder {folder} holds its weights as pytorch_model.bin, which can run code when it is read",
                "convert it to safetensors once, with a tool and a source that you trust",
            )
        missing.append(f"{WEIGHTS} (or {INDEX})")
    if missing:
        raise ModelError(f"model folder {folder} lacks {', '.join(missing)}", "name a complete model folder")
    weight_files(folder)


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a whole model."""
    try:
        check_folder(folder)
    except ModelError:
        return False
    return True


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, all of which exist."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    table = read_json(folder / INDEX).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise ModelError(f"{folder / INDEX} has no weight_map")
    names = sorted(set(table.values()))
    strange = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if strange:
        raise ModelError(f"{folder / INDEX} names {strange[0]!r}, which is not a safetensors file beside it")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"model folder {folder} lacks {', '.join(missing)}, named in {INDEX}")
    return [folder / name for name in names]


def read_json(path: Path, error: type[ModelError] = ModelError) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}") from problem
    except (ValueError, RecursionError) as problem:
        raise error(f"{path} is not valid JSON: {problem}") from problem
    if not isinstance(fields, dict):
        raise error(f"{path} is not a JSON object")
    return fields
