"""What a mask adapter leaves behind when it is taken off, what its file costs, and whether PEFT says the same with its export.

    python tests/benchmarks/mask_undo.py --model MODEL --out RESULTS [--steps 3] [--shapes columns rows entries]

MODEL is a Llama folder. For it and for a copy of it in bfloat16 a mask of each shape is trained for a few steps on the bundled
film reviews. In memory, in float32 and in the base's own type, every byte of the model is compared before the adapter is
attached, with it, and after it is detached; on disk the merged folder is compared with the base, once the base's numbers stand
again in the places of the mask. The logits of plain PEFT with the export are compared with those of the adapter attached by
ctxtune, on the same plain base in float32 (as in peft_twins.py). One JSON line for a type and shape; lines that are there
already are not computed again. To reach: no byte differs, 2.1 bytes a trained number of columns and rows, 4.5 of entries,
logits within 2e-4.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from distill import ctxtune
from freeze_accuracy import TASK
from lines import kept
from peft import PeftModel
from peft_twins import BUNDLED, largest, load, logits, token_rows
from safetensors.torch import load_file, save_file

from ctxtune.adapter.attach import attach
from ctxtune.adapter.mask import read_mask
from ctxtune.adapter.read import open_adapter
from ctxtune.backend.load import load_base

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ctxtune.backend.mask import Mask

BYTES = {"columns": 2.1, "rows": 2.1, "entries": 4.5}
"""shape -> of the file's tensors, a trained number, at most"""
BAR = 2e-4


def in_bfloat16(model: Path, folder: Path) -> Path:
    """A copy of a model with its numbers in 16 bits."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors", "ctxtune.json"))
    for file in model.glob("*.safetensors"):
        narrow = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(file).items()}
        save_file(narrow, folder / file.name, {"format": "pt"})
    return folder


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.uint8)


def all_bits(model: nn.Module) -> dict[str, Tensor]:
    """Every byte of a model's parameters and buffers."""
    return {name: bits(tensor).clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def restored_in_memory(model: Path, adapter: Path, dtype: str) -> bool:
    """Whether attaching changes something, and detaching leaves no byte of it."""
    base = load_base(model, dtype=dtype)
    before = all_bits(base.model)
    taken = attach(base.model, open_adapter(adapter))
    moved = not same(before, all_bits(base.model))
    taken.detach()
    return moved and same(before, all_bits(base.model))


def restored_on_disk(model: Path, merged: Path, mask: Mask) -> bool:
    """Whether a merged folder is the base again, byte for byte, with the base's numbers in the places of the mask."""
    moved = False
    for file in model.glob("*.safetensors"):
        own, new = load_file(file), load_file(merged / file.name)
        if own.keys() != new.keys():
            return False
        for name, tensor in own.items():
            found = new[name].reshape(-1).clone()
            if name in mask:
                places = torch.from_numpy(mask[name].entries())
                moved |= not torch.equal(found[places], tensor.reshape(-1)[places])
                found[places] = tensor.reshape(-1)[places]
            if found.dtype is not tensor.dtype or not torch.equal(bits(found), bits(tensor.reshape(-1))):
                return False
    return moved


def difference_to_peft(model: Path, adapter: Path, exported: Path) -> float:
    """The largest of all logits."""
    rows, base = token_rows(model), load(model, torch.float32)
    theirs = logits(PeftModel.from_pretrained(base, exported).eval(), rows)
    base = load(model, torch.float32)
    attach(base, open_adapter(adapter))
    return largest(logits(base, rows), theirs)


def measured(args: argparse.Namespace, dtype: str, shape: str) -> dict[str, Any]:
    """Train, merge, export, compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model if dtype == "float32" else in_bfloat16(args.model, folder / "base")
        facts = ctxtune(
            "mask", "--model", str(model), "--train", str(BUNDLED), *TASK, "--shape", shape, "--batch", "4", "--lr", "1e-2",
            "--set", f"train.steps={args.steps}", "--set", "train.schedule=constant", "--set", "forget.probe=none",
            "--out", str(folder / "run"), "--quiet",
        )  # fmt: skip
        adapter = folder / "run" / "adapter"
        merge = ctxtune("adapter", "merge", str(adapter), "--out", str(folder / "merged"), "--force")
        ctxtune("adapter", "export", str(adapter), "--out", str(folder / "peft"))
        opened = open_adapter(adapter)
        tensors = sum(tensor.nbytes for tensor in load_file(opened.path).values())
        return {
            "trainable": facts["trainable"],
            "tensor_bytes_each": round(tensors / facts["trainable"], 3),
            "file_bytes_each": round(opened.path.stat().st_size / facts["trainable"], 3),
            "detached": {kind: restored_in_memory(model, adapter, kind) for kind in {"float32", dtype}},
            "unmerged": restored_on_disk(model, folder / "merged", read_mask(opened.path, opened.header)),
            "merge_kl": merge["kl"],
            "off_peft": difference_to_peft(model, adapter, folder / "peft"),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--types", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--shapes", nargs="+", default=list(BYTES), choices=BYTES)
    args = parser.parse_args()
    for dtype in args.types:
        for shape in args.shapes:
            one = kept(args.out, {"dtype": dtype, "shape": shape}, partial(measured, args, dtype, shape))
            restored = all(one["detached"].values()) and one["unmerged"]
            reached = restored and one["tensor_bytes_each"] <= BYTES[shape] and one["off_peft"] <= BAR
            print(json.dumps({**one, "reached": reached}), flush=True)


if __name__ == "__main__":
    main()
