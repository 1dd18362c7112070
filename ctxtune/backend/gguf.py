"""A .gguf file becomes a folder of safetensors, once: reading GGUF takes transformers 20 s each time.

The folder holds float32: the dequantised values (block scale times a small integer, plus an offset) have no exact form
in 16 bits, and rounding them would adapt another model than the one that was named.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ctxtune.backend.anatomy import FAMILIES, anatomy_of
from ctxtune.backend.atomic import new_folder, storage_error, write_text
from ctxtune.backend.folder import NOTE, check_folder, read_json, weight_files
from ctxtune.backend.gguf_header import GGUFHeader, read_gguf_header
from ctxtune.backend.tensors import mapped, read_header
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

ARCHITECTURES = {
    "gemma3": "gemma3_text", "gpt2": "gpt2", "llama": "llama", "mistral": "mistral", "phi3": "phi3", "qwen2": "qwen2",
    "qwen3": "qwen3",
}  # fmt: skip
"""GGUF's names of the families that transformers reads from it, and transformers' own"""
SIZES = (
    ("embedding_length", "token_embd.weight", 1),
    ("vocab_size", "token_embd.weight", 0),
    ("feed_forward_length", "blk.0.ffn_down.weight", 1),
)
"""a key of the header, and the tensor and the axis where its value shows"""
LEFT_BEHIND = {
    "config.json": ("_model_name_or_path", "_name_or_path"),
    "tokenizer_config.json": ("is_local", "local_files_only"),
}
"""keys that say where the model lay while it was converted"""


def convert(gguf: Path, out: Path, note: Mapping[str, Any], beside: Sequence[Path] = ()) -> None:
    """Write the model and the tokenizer of `gguf` as the folder `out`, which appears when it is complete.

    `note` says where it came from and is kept in the folder, as are the files `beside` it.

    Raises:
        ModelError: the file is broken, or of a family that transformers cannot read from GGUF.
        StorageError: no room.
    """
    check_gguf(gguf)
    model, tokenizer = _read(gguf)
    with new_folder(out) as folder:
        try:
            with redirect_stderr(io.StringIO()):
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
            for path in beside:
                shutil.copy(path, folder / path.name)
        except OSError as error:
            raise storage_error(error, out) from error
        except SafetensorError as error:  # how safetensors reports that a write failed
            raise storage_error(_system_error(error), out) from error
        for name, keys in LEFT_BEHIND.items():
            _drop(folder / name, keys)
        write_text(folder / NOTE, json.dumps(note, indent=2, ensure_ascii=False) + "\n")
        check_folder(folder)
        _same_tensors(model, folder)


def check_gguf(path: Path) -> GGUFHeader:
    """The header of a .gguf file whose model can be used here.

    Raises:
        ModelError: the file is broken, of a family that is not supported, or its sizes contradict its tensors.
    """
    header = read_gguf_header(path)
    family = ARCHITECTURES.get(header.architecture)
    if family is None:
        known = ", ".join(sorted(name for name, family in ARCHITECTURES.items() if family in FAMILIES))
        raise ModelError(
            f"{path}: GGUF architecture {header.architecture[:40]!r} is not supported", f"those that work: {known}"
        )
    anatomy_of(family)
    _check_sizes(path, header)
    return header


def _check_sizes(path: Path, header: GGUFHeader) -> None:
    """The keys by which transformers builds the model must be those of the tensors: a billion layers are not tried."""
    layers = {name.split(".")[1] for name in header.tensors if name.startswith("blk.")}
    facts = {"block_count": len(layers)}
    for key, name, axis in SIZES:
        if name in header.tensors and len(header.tensors[name].shape) == 2:
            facts[key] = header.tensors[name].shape[axis]
    for key, true in facts.items():
        told = header.keys.get(f"{header.architecture}.{key}", true if key == "vocab_size" else None)
        if told != true:
            raise ModelError(
                f"{path}: {header.architecture}.{key} is {str(told)[:40]}, and the tensors say {true:,}",
                "fetch it again, or convert it again",
            )
    heads = header.keys.get(f"{header.architecture}.attention.head_count")
    if type(heads) is not int or not 1 <= heads <= facts.get("embedding_length", 0):
        raise ModelError(f"{path}: {header.architecture}.attention.head_count is {str(heads)[:40]}")


def _read(gguf: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ctxtune.backend.library import hush

    hush()
    where = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        with redirect_stderr(io.StringIO()):  # the reader draws a bar of its own
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, struct.error) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{gguf} cannot be read as a GGUF model: {reason}") from error
    # The weights are plain float32 now; what is left of the quantiser only keeps transformers from saving them.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer


def _drop(path: Path, keys: tuple[str, ...]) -> None:
    fields = {key: value for key, value in read_json(path).items() if key not in keys}
    write_text(path, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")


def _same_tensors(model: nn.Module, folder: Path) -> None:
    """Compare what was written with what is in memory, bit for bit."""
    import torch

    in_memory = model.state_dict()
    for path in weight_files(folder):
        header = read_header(path)
        with mapped(path) as view:
            for name, info in header.tensors.items():
                # A copy: torch wants memory that it could write to.
                stored = torch.frombuffer(bytearray(view[info.begin : info.end]), dtype=torch.uint8)
                if not torch.equal(stored, in_memory[name].contiguous().flatten().view(torch.uint8)):
                    raise ModelError(f"{path}: tensor {name!r} was not written as it was read")


def _system_error(error: SafetensorError) -> OSError:
    """The operating system's error inside `Error while serializing: I/O error: ... (os error 28)`."""
    code = str(error).rpartition("os error ")[2].rstrip(")} \n")
    return OSError(int(code), str(error)) if code.isdecimal() else OSError(str(error))
