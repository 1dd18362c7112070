"""The changes of an adapter become LORA of a rank: D = U S V^T, of which the largest singular values are kept.

    B = U_r S_r^1/2,   A = S_r^1/2 V_r^T        the nearest to D of that rank (Eckart & Young 1936)
    energy kept = sum of squares of the kept singular values / sum of all

Of a mask, rows and columns of D in which nothing moves are left out first: n columns are an (N, n) matrix, and rank n is exact.
Biases are written as they are with the adapter; norms, and a classifier that the base does not have, as modules to save.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctxtune.adapter.card import model_card
from ctxtune.adapter.change import changes, tuned, tuned_module
from ctxtune.adapter.container import PREFIX
from ctxtune.adapter.folder import require_new
from ctxtune.adapter.lora import PAIRS, lora_config
from ctxtune.adapter.manifest import Change as Scores
from ctxtune.adapter.mask import CONTAINER as MASK
from ctxtune.adapter.mask import read_changes, read_mask
from ctxtune.adapter.prefix import shown
from ctxtune.adapter.read import manifest_of
from ctxtune.adapter.write import write_adapter
from ctxtune.backend.quantise import is_linear
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from ctxtune.adapter.change import Change
    from ctxtune.adapter.manifest import Manifest
    from ctxtune.adapter.read import AdapterFile
    from ctxtune.adapter.weights import Weights
    from ctxtune.backend.mask import Part

EXACT = 1 - 1e-9
"""energy kept above which the adapter's scores are those of the export"""


@dataclass(frozen=True)
class LowRanked:
    """What was written: the largest rank, how many matrices, and the share of the energy kept, of all and of the worst one."""

    num_bytes: int
    rank: int
    matrices: int
    kept: float
    worst: str
    worst_kept: float


@dataclass(frozen=True)
class _Core:
    """D of a matrix as it is stored, of shape `size`: `values` in some of its rows and columns, 0 elsewhere."""

    size: tuple[int, ...]
    rows: Tensor
    columns: Tensor
    values: Tensor


@dataclass(frozen=True)
class _Pair:
    """D is about `left` (N, r) times `right` (r, K), on the axes of the stored tensor; energies are sums of squares."""

    left: Tensor
    right: Tensor
    energy: float
    lost: float

    @property
    def rank(self) -> int:
        return self.right.shape[0]

    @property
    def kept(self) -> float:
        return 1 - self.lost / self.energy


@dataclass(frozen=True)
class _Split:
    """The parameters that an adapter changes, in every module that has them: where LoRA has room for each."""

    found: dict[str, Change]
    owner: dict[str, str]
    """name of a parameter -> the adapter's name for it, which may be that of another module"""
    matrices: list[str]
    biases: list[str]
    modules: list[str]


def export_lora(adapter: AdapterFile, weights: Weights, out: Path, rank: int | None) -> LowRanked:
    """Write an adapter as a LoRA folder of PEFT, of a rank, or of as large ones as are needed.

    Raises:
        AdapterError: it changes no matrix of its base, or is LoRA already.
        PlaceError: `out` holds something, or cannot be written.
    """
    require_new(out)
    if shown(adapter) is not None or adapter.container == "LORA":
        stands = "is LoRA already" if adapter.container == "LORA" else "stands at a text, and changes no matrix"
        raise AdapterError(f"{adapter.path} {stands}", "`ctxtune adapter export --to peft` writes it for PEFT")
    split = _split(adapter, weights)
    manifest = manifest_of(adapter)
    pairs = _pairs(adapter, weights, split, rank)
    if not pairs:
        raise AdapterError(
            f"{adapter.path} changes no matrix, and LoRA is for these",
            "`ctxtune adapter merge` writes it into its base",
        )
    tensors = _tensors(weights, split, pairs)
    kept = 1 - sum(pair.lost for pair in pairs.values()) / sum(pair.energy for pair in pairs.values())
    worst = min(pairs, key=lambda name: pairs[name].kept)
    largest = max(pair.rank for pair in pairs.values())
    numbers = sum(tensor.numel() for tensor in tensors.values())
    told = _manifest(manifest, largest if rank is None else rank, kept, numbers)
    ranks = {name.removesuffix(".weight"): pair.rank for name, pair in pairs.items()}
    turned = any(type(weights.module(name)).__name__ == "Conv1D" for name in pairs)
    config = lora_config(ranks, split.modules, bool(split.biases), turned, manifest.base.name, manifest.base.causal)
    size = write_adapter(out, tensors, told, config, model_card(told))
    return LowRanked(size, largest, len(pairs), kept, worst, pairs[worst].kept)


def _manifest(manifest: Manifest, rank: int, kept: float, numbers: int) -> Manifest:
    """Of the export: scores are the adapter's where nothing was lost."""
    scores, forgetting = (manifest.scores, manifest.forgetting) if kept > EXACT else (Scores(), Scores())
    settings = {"from": manifest.method, "rank": rank, "energy kept": round(kept, 9)}
    return replace(manifest, method="lora", settings=settings, trainable=numbers, scores=scores, forgetting=forgetting)


def _split(adapter: AdapterFile, weights: Weights) -> _Split:
    named = {change.name: change for change in changes(adapter)}
    owner = {name: name for name in named}
    for name in named:
        shared = weights.names(name)  # numbers of a mask move in whichever module they are used
        owner |= dict.fromkeys(shared, name) if adapter.container == MASK else {}
    if twins := sorted(set(named) - set(owner.values())):
        raise AdapterError(
            f"{adapter.path}: {twins[0]} and {owner[twins[0]]} are one parameter of the base", "name it once"
        )
    owner = {name: own for name, own in owner.items() if not any(True for _ in weights.module(name).children())}
    matrices: list[str] = []
    biases: list[str] = []
    modules: dict[str, None] = {}
    for name in owner:
        module, (place, _, last) = weights.module(name), name.rpartition(".")
        if weights.is_made(name) or not (is_linear(module) or isinstance(module, torch.nn.Embedding)):
            modules[place] = None
        else:
            (matrices if last == "weight" else biases).append(name)
    return _Split({name: named[own] for name, own in owner.items()}, owner, matrices, biases, list(modules))


def _pairs(adapter: AdapterFile, weights: Weights, split: _Split, rank: int | None) -> dict[str, _Pair]:
    """Name of a matrix -> its factors; not of those that have not moved."""
    made: dict[str, _Pair | None] = {}
    mask = read_mask(adapter.path, adapter.header) if adapter.container == MASK else {}
    moves = read_changes(adapter.path, adapter.header, mask)
    for name in split.matrices:
        own = split.owner[name]
        if own in made:
            continue
        if own in mask:
            weights.check(own, mask[own].size)
            core = _masked(mask[own], moves[own])
        else:
            core = _dense(weights, split.found, name)
        made[own] = _factors(core, rank) if core.values.any() else None
    return {name: pair for name in split.matrices if (pair := made[split.owner[name]]) is not None}


def _masked(part: Part, values: NDArray[np.float64]) -> _Core:
    row, column = np.divmod(part.entries(), part.size[1])
    rows, down = np.unique(row, return_inverse=True)
    columns, across = np.unique(column, return_inverse=True)
    core = np.zeros((len(rows), len(columns)), np.float32)
    core[down, across] = values.reshape(-1)
    return _Core(part.size, torch.from_numpy(rows), torch.from_numpy(columns), torch.from_numpy(core))


def _dense(weights: Weights, found: Mapping[str, Change], name: str) -> _Core:
    new = tuned(weights, found, name)
    size = tuple(new.shape)
    change = new - weights.read(name, size).to(new.dtype)
    return _Core(size, torch.arange(size[0]), torch.arange(size[1]), change.float())


def _factors(core: _Core, rank: int | None) -> _Pair:
    u, s, v = torch.linalg.svd(core.values, full_matrices=False)
    noise = s[0] * max(core.values.shape) * torch.finfo(s.dtype).eps  # as numpy.linalg.matrix_rank has it
    r = min(rank or len(s), int((s > noise).sum()))
    root, squares = s[:r].sqrt(), s.double().square()
    left, right = torch.zeros(core.size[0], r), torch.zeros(r, core.size[1])
    left[core.rows] = u[:, :r] * root
    right[:, core.columns] = root[:, None] * v[:r]
    return _Pair(left, right, float(squares.sum()), float(squares[r:].sum()))


def _tensors(weights: Weights, split: _Split, pairs: Mapping[str, _Pair]) -> dict[str, Tensor]:
    """All under the names that PEFT has for them."""
    tensors: dict[str, Tensor] = {}
    for name, pair in pairs.items():
        module, place = weights.module(name), PREFIX + name.removesuffix(".weight")
        embedding = isinstance(module, torch.nn.Embedding)
        a, b = list(PAIRS.items())[embedding]
        plain = type(module) is torch.nn.Linear  # the others are stored (in, out)
        tensors[place + a] = pair.right if plain else pair.left.t()
        tensors[place + b] = pair.left if plain else pair.right.t()
    for name in split.biases:
        place = name.removesuffix(".bias")
        within = ".base_layer" * (f"{place}.weight" in pairs)
        tensors[f"{PREFIX}{place}{within}.bias"] = tuned(weights, split.found, name)
    for place in split.modules:
        new = tuned_module(weights, split.found, place)
        tensors |= {f"{PREFIX}{place}.{last}": value for last, value in new.items()}
    return tensors
