"""Write a base with an adapter's values in it, as an ordinary model folder.

The base is read tensor by tensor and written into files of the same names; what the adapter does not touch is copied
byte for byte. An encoder without a head becomes a model with a classifier, all tensors under their names in full.
Rounding to the stored type can undo small changes (bfloat16 undid 18 % of the moved entries in one trial), so that the
caller measures KL(attached || merged) before the folder gets its name.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ctxtune.adapter.change import by_parameter, changes
from ctxtune.adapter.mask import CONTAINER as MASK
from ctxtune.adapter.prefix import shown
from ctxtune.adapter.weights import FLOATING, TORCH, open_weights
from ctxtune.adapter.write import DTYPES, raw
from ctxtune.backend.atomic import new_folder, storing, write_text
from ctxtune.backend.classes import class_names
from ctxtune.backend.folder import INDEX, WEIGHTS, read_json, weight_files
from ctxtune.backend.tensors import mapped, read_header, write_tensors
from ctxtune.errors import AdapterError, ModelError, PlaceError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ctxtune.adapter.change import Change
    from ctxtune.adapter.read import AdapterFile
    from ctxtune.adapter.weights import Place, Weights

COMPANIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja", "LICENSE",
)  # fmt: skip
"""what is copied beside the tensors; nothing that could be code"""
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MAX_KL = 1e-3
"""nats a token"""


@dataclass(frozen=True)
class Merged:
    """What was written; `kl` is KL(attached || merged) in nats a token, None if nobody measured it."""

    folder: Path
    num_bytes: int
    changed: int
    """tensors with new values"""
    untied: bool
    """embeddings and head were one and are two now"""
    kl: float | None


@dataclass(frozen=True)
class _Target:
    """One tensor to write: the base's tensor `source` with `changes`, which are for a module of class `kind`."""

    name: str
    source: str
    changes: tuple[Change, ...]
    kind: str


@dataclass(frozen=True)
class _Plan:
    """What differs from the base; `parted` if modules that shared a parameter do so no longer."""

    targets: dict[str, _Target]
    parted: bool


def merge(
    base: Path,
    adapter: AdapterFile,
    out: Path,
    dtype: str | None = None,
    force: bool = False,
    kl: Callable[[Path, AdapterFile, Path], float] | None = None,
) -> Merged:
    """Write the merged model to the new folder `out`, in the base's stored types or in `dtype`.

    `kl(base, adapter, merged)` compares the base with the adapter attached and the merged folder.

    Raises:
        AdapterError: the adapter does not fit the base, or changes nothing in it, or merging loses more than MAX_KL and
            `force` does not insist.
        PlaceError: `out` exists.
        StorageError: there is no room.
    """
    check_type(dtype)
    if shown(adapter) is not None:
        raise AdapterError(
            f"{adapter.path} stands at a text, and no number of the base changes: nothing can be merged",
            "use it with --adapter",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PlaceError(f"{out} exists already", "name a new folder")
    config = read_json(base / "config.json")
    if config.get("quantization_config"):
        raise ModelError(f"{base} is quantised: merging would round the adapter away", "name the unquantised base")
    weights = open_weights(base, adapter.classes)
    plan = _plan(weights, adapter)
    with new_folder(out) as tmp:
        num_bytes = _write_weights(weights, tmp, plan, dtype)
        if weights.anatomy.kind == "classifier":
            config = {**config, **_told_classes(weights.model)}
        _write_rest(base, tmp, config, plan, dtype)
        loss = kl(base, adapter, tmp) if kl else None
        if loss is not None and not loss <= MAX_KL and not force:
            raise AdapterError(
                f"the merged model is not the adapted one: KL(attached || merged) is {loss:.2e} nats a token, "
                f"more than {MAX_KL:g}",
                "write a wider type with --dtype float32, or insist with --force",
            )
    changed = sum(bool(target.changes) for target in plan.targets.values())
    return Merged(out, num_bytes, changed, plan.parted, loss)


def check_type(dtype: str | None) -> None:
    """Refuse a type that no model is written in; None is the caller's own.

    Raises:
        RecipeError: it is one.
    """
    if dtype is not None and dtype not in TYPES:
        raise RecipeError(f"--dtype {dtype!r} is not known", "types that work: " + ", ".join(TYPES))


def _told_classes(model: Any) -> dict[str, Any]:
    """What a configuration says of a classifier."""
    names = class_names(model.config)
    return {
        "architectures": [type(model).__name__],
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def _plan(weights: Weights, adapter: AdapterFile) -> _Plan:
    """Which tensors take which changes.

    A parameter that several modules share is stored once. If the adapter gives them different values, or only some of
    them a new one, each is written under its own name and the model is no longer tied.
    """
    wanted = {group[0].name: group for group in by_parameter(changes(adapter))}
    groups = weights.groups
    if adapter.container == MASK:  # numbers of a parameter move, whichever modules use it
        wanted |= {name: wanted[own] for names in groups for own in names if own in wanted for name in names}
    known = {name for names in groups for name in names}
    for name, group in wanted.items():
        if name not in known:
            raise AdapterError(
                f"{adapter.path}: tensor {group[0].tensor!r} is for {name}, which the model does not have",
                "the adapter was made for another base",
            )
    kinds = {name: type(weights.module(name)).__name__ for name in wanted}
    touched = [names for names in groups if set(names) & set(wanted)]
    parted = any(_parts(weights, names, wanted, kinds) for names in touched)
    targets = [
        _Target(home, source, wanted.get(taken, ()), kinds.get(taken, ""))
        for names in groups
        if names in touched or (parted and len(names) > 1)
        for home, source, taken in _homes(weights, names, wanted, parted)
    ]
    return _Plan({target.name: target for target in targets}, parted)


def _parts(weights: Weights, names: list[str], wanted: dict[str, tuple[Change, ...]], kinds: dict[str, str]) -> bool:
    """True if modules that share a parameter would no longer agree about it.

    A module that holds a parameter beside other modules does not compute with it itself, and PEFT cannot replace it.
    """
    users = [name for name in names if not any(True for _ in weights.module(name).children())]
    if len(users) < 2:
        return False
    if not set(users) <= set(wanted):
        return True
    place = weights.places[weights.source(names)]
    values = [_updated(place, _Target("", "", wanted[name], kinds[name])) for name in users]
    return not all(torch.equal(value, values[0]) for value in values[1:])


def _homes(
    weights: Weights, names: list[str], wanted: dict[str, tuple[Change, ...]], parted: bool
) -> Iterator[tuple[str, str, str]]:
    """(name to write, tensor to start from, name whose changes it takes) for each place of one parameter."""
    first = next((name for name in names if name in wanted), "")
    for name in names:
        own = name if name in wanted or (parted and len(names) > 1) else first
        home = weights.homes.get(name)
        if home is not None:
            yield home, home, own
        elif parted or len(names) == 1:
            yield name, weights.source(names), own


def _updated(place: Place, target: _Target) -> torch.Tensor:
    """The new value, before it is rounded to the type it is written in."""
    value = place.read()
    exact = torch.promote_types(value.dtype, torch.float32)
    for change in target.changes:
        value = change.update(value, target.kind, exact)
    return value


def _write_weights(weights: Weights, out: Path, plan: _Plan, dtype: str | None) -> int:
    """Write each file of the base anew, and the index if there is one; returns the bytes."""
    base, stored = weights.folder, weights.places
    total, table = 0, {}
    for path in weight_files(base):
        here = {name: place.info.dtype for name, place in stored.items() if place.file == path}
        for name, target in plan.targets.items():
            if target.source in here:
                here[name] = stored[target.source].info.dtype
        layout = {}
        for name, kind in here.items():
            place = stored[plan.targets[name].source if name in plan.targets else name]
            layout[name] = (DTYPES[TYPES[dtype]] if dtype and kind in FLOATING else kind, place.info.shape)
        with mapped(path) as view:

            def data(name: str, view: memoryview = view, layout: Any = layout) -> memoryview:
                return _data(name, stored, plan, layout[name][0], view)

            total += write_tensors(out / path.name, layout, read_header(path).metadata, data)
        table.update(dict.fromkeys(layout, path.name))
    if not (base / WEIGHTS).is_file():
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(table.items()))}
        write_text(out / INDEX, json.dumps(index, indent=2) + "\n")
    return total


def _data(name: str, stored: dict[str, Place], plan: _Plan, kind: str, view: memoryview) -> memoryview:
    target = plan.targets.get(name)
    if target is None and stored[name].info.dtype == kind and stored[name].value is None:
        info = stored[name].info
        return view[info.begin : info.end]
    target = target or _Target(name, name, (), "")
    return raw(_updated(stored[target.source], target).to(TORCH[kind]))


def _write_rest(base: Path, out: Path, config: dict[str, Any], plan: _Plan, dtype: str | None) -> None:
    """The configuration, and the tokenizer's files as they are."""
    if plan.parted:
        config = {**config, "tie_word_embeddings": False}
    if dtype:
        config = {**{key: value for key, value in config.items() if key != "torch_dtype"}, "dtype": dtype}
    write_text(out / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    for name in COMPANIONS:
        if (base / name).is_file():
            with storing(out / name):
                shutil.copyfile(base / name, out / name)
