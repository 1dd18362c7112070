"""An anatomy found in the structure of a model, for families that are not in the table.

The model is built on the meta device, without numbers. Its blocks are the one list that is as long as the configuration
says and holds attention and feed-forward parts; its backbone is run with every block replaced by one that passes its
states on, (2, 3, D): what is called before the first block leads in, what is called behind the last one leads out. A part
that is missing, or could be two things, is refused by name. Whether the anatomy is right is another matter: exact.py.
"""

from __future__ import annotations

import copy
import inspect
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ctxtune.backend.anatomy import FAMILIES, Anatomy, unsupported
from ctxtune.backend.folder import weight_files
from ctxtune.backend.library import one_line
from ctxtune.backend.skeleton import build, converted
from ctxtune.backend.tensors import read_header
from ctxtune.backend.trunk import Speaking, said_by_block

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ctxtune.backend.anatomy import Kind

_ATTENTION = re.compile("attn|attention", re.IGNORECASE)
_FEED_FORWARD = re.compile(r"mlp|ffn|^ff$|feed_?forward|^fc\d?$|intermediate|^output$|moe", re.IGNORECASE)
_OTHER_SIDE = re.compile("cross_?att|encoder_?att", re.IGNORECASE)
# What a model may compute of its config alone, such as masks and the frequencies of its positions.
_MOST_BUFFERS = 1 << 30


class _Lacking(Exception):
    """What a structure lacks, in words."""


def find_anatomy(config: Any, folder: Path) -> Anatomy:
    """The anatomy of a family that is not in the table, by its structure alone.

    Raises:
        ModelError: transformers knows no such model, or its structure lacks a part; the message names it.
    """
    family = config.model_type
    try:
        kind = _kind(config)
        tensors = sum(len(read_header(path).tensors) for path in weight_files(folder))
        # Files may hold less than the model has where modules share; a config that asks for a thousand times more is refused.
        model = build(copy.deepcopy(config), kind, folder, most_parameters=1000 + 4 * tensors)
        return _derived(model, family, kind)
    except _Lacking as lacking:
        raise unsupported(family, str(lacking)) from lacking.__cause__


def _derived(model: nn.Module, family: str, kind: Kind) -> Anatomy:
    try:
        return _derive(model, family, kind)
    except (_Lacking, MemoryError):
        raise
    except Exception as error:  # a model may not say what others do, such as where its embeddings are
        raise _Lacking(f"its structure cannot be read: {one_line(error)}") from error


def _kind(config: Any) -> Kind:
    """Whether the files are those of a causal or of a masked model: some families have both."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    family, named = config.model_type, getattr(config, "architectures", None)
    if config.is_encoder_decoder:
        raise _Lacking((FAMILIES["t5"].refusal or ("",))[0])
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family)
    masked = MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(family)
    if masked is not None and (causal is None or named == [masked]):
        return "masked"
    if causal is None:
        raise _Lacking("transformers has no model of it that predicts tokens or fills gaps")
    return "causal"


def _derive(model: Any, family: str, kind: Kind) -> Anatomy:
    config = model.config.get_text_config()
    for key in ("num_hidden_layers", "hidden_size", "vocab_size"):
        if type(getattr(config, key, None)) is not int:
            raise _Lacking(f"its configuration does not say {key}")
    blocks = _blocks(model, config.num_hidden_layers)
    parts = _parts_of_all(model, blocks)
    _check_parameters(model)
    backbone = _backbone(model, blocks)
    around = _around(model, blocks)
    trace = _traced(model, backbone, blocks, around)
    if trace.shapes[0] != (2, 3, config.hidden_size):
        raise _Lacking(f"states of 2 x 3 tokens have shape {trace.shapes[0]}, hidden_size is {config.hidden_size}")
    if unused := [name for name in around if name not in trace.before and name not in trace.after]:
        raise _Lacking(f"it does not use {', '.join(unused)} for text")
    embeddings = tuple(name for name in around if name in trace.before)
    _check_embeddings(model, embeddings)
    norm = next(iter(trace.after), None)
    norm = norm if norm is not None and _is_norm(around[norm]) else None
    head = _head(model, [name for name in trace.after if not name.startswith(f"{backbone}.")])
    return Anatomy(
        family=family,
        kind=kind,
        backbone=backbone,
        embeddings=embeddings,
        blocks=blocks,
        norm=norm,
        head=head,
        attn=tuple(parts.attn),
        mlp=tuple(parts.mlp),
        norms=tuple(parts.norms),
        outward=tuple(name for name in trace.after if name not in (norm, head)),
        tuples=trace.tuples,
        derived=True,
    )


def _check_parameters(model: nn.Module) -> None:
    """What an adapter can hold, and files store as the model has it: weights and biases of modules without modules in them."""
    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    held = {
        id(param)
        for module in leaves
        for name, param in module.named_parameters(recurse=False)
        if name in ("weight", "bias")
    }
    for name, param in model.named_parameters():
        if id(param) not in held:
            experts = "a mixture of experts is not read yet: " if "expert" in name else ""
            raise _Lacking(
                f"{experts}{name} is not the weight or the bias of a module, and an adapter holds nothing else"
            )
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    if buffers > _MOST_BUFFERS:
        raise _Lacking(f"its configuration asks for {buffers:,} bytes beside the weights")
    if change := converted(model):
        raise _Lacking(f"transformers changes its tensors as it reads them: {change}")


def _blocks(model: nn.Module, count: int) -> str:
    """The name of the list of blocks."""
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and any(True for _ in module.parameters())
    }
    outer: list[str] = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if not outer:
        raise _Lacking(f"no list of {count} blocks, which num_hidden_layers promises")
    good: list[str] = [name for name in outer if all(_parts(block).attn and _parts(block).mlp for block in lists[name])]
    if len(good) > 1 or (not good and len(outer) > 1):
        raise _Lacking(f"several lists could be the {count} blocks: {', '.join(good or outer)}")
    return (good or outer)[0]


@dataclass
class _Parts:
    """The kinds of modules in a block, by name; `loose` are of no kind."""

    attn: dict[str, None] = field(default_factory=dict)
    mlp: dict[str, None] = field(default_factory=dict)
    norms: dict[str, None] = field(default_factory=dict)
    loose: dict[str, None] = field(default_factory=dict)


def _parts_of_all(model: nn.Module, blocks: str) -> _Parts:
    """The parts of all blocks together: some have what others lack, but none is without attention or feed-forward part."""
    together = _Parts()
    for index, block in enumerate(model.get_submodule(blocks).children()):
        parts, place = _parts(block), f"{blocks}.{index}, a {type(block).__name__},"
        for kind, found in (("attention", parts.attn), ("feed-forward part", parts.mlp)):
            if not found:
                names = ", ".join(name for name, module in block.named_children() if _has_numbers(module))
                raise _Lacking(f"{place} holds no {kind}, only {names}")
        if parts.loose:
            raise _Lacking(f"{place} holds what is no attention, feed-forward part or norm: {', '.join(parts.loose)}")
        if strange := next(filter(_OTHER_SIDE.search, parts.attn), None):
            raise _Lacking(f"{place} attends to another model's states as well: {strange}")
        for kind in ("attn", "mlp", "norms"):
            getattr(together, kind).update(getattr(parts, kind))
    return together


def _parts(block: nn.Module) -> _Parts:
    parts = _Parts()
    for kind, name in _sorted(block, "", ""):
        getattr(parts, kind)[name] = None
    return parts


def _sorted(module: nn.Module, prefix: str, kind: str) -> Iterator[tuple[str, str]]:
    """(kind, name) of what lies in a module: the largest modules of one kind in which no norm stands."""
    for own, child in module.named_children():
        name = prefix + own
        if not _has_numbers(child):
            continue
        if _is_norm(child):
            yield "norms", name
            continue
        here = kind or _kind_of_part(own, child)
        if here and not any(_is_norm(inner) and _has_numbers(inner) for inner in child.modules()):
            yield here, name
        elif any(_has_numbers(inner) for inner in child.children()):
            yield from _sorted(child, f"{name}.", here)
        else:
            yield "loose", name


def _kind_of_part(name: str, module: nn.Module) -> str:
    """By its name in the block; where that says nothing, by its class."""
    for said in (name, type(module).__name__):
        for kind, pattern in (("attn", _ATTENTION), ("mlp", _FEED_FORWARD)):
            if pattern.search(said):
                return kind
    return ""


def _has_numbers(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _is_norm(module: nn.Module) -> bool:
    """Some norms have no numbers of their own."""
    return "norm" in type(module).__name__.lower() and not any(map(_has_numbers, module.children()))


def _above(name: str) -> list[str]:
    """The modules in which one lies, the innermost first; the model itself is the empty name."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, -1, -1)]


def _backbone(model: nn.Module, blocks: str) -> str:
    """The innermost module around the blocks that takes tokens."""
    for name in _above(blocks)[:-1]:
        if "input_ids" in inspect.signature(model.get_submodule(name).forward).parameters:
            return name
    raise _Lacking(f"no module around {blocks} takes tokens")


def _around(model: nn.Module, blocks: str) -> dict[str, nn.Module]:
    """What stands beside the blocks and the modules they lie in: the largest modules, in the model's order."""
    chain = [blocks, *_above(blocks)]
    return {
        name: module
        for name, module in model.named_modules()
        if name not in chain and name.rpartition(".")[0] in chain[1:] and (_has_numbers(module) or _is_norm(module))
    }


@dataclass
class _Trace:
    """What a backbone called, in its order, and the shapes of what went into the blocks and out of the end."""

    tuples: bool
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    before: dict[str, None] = field(default_factory=dict)
    after: dict[str, None] = field(default_factory=dict)


class _Passing(nn.Module):
    """A block that hands its states on, as they are or in a tuple."""

    def __init__(self, block: nn.Module, trace: _Trace) -> None:
        super().__init__()
        object.__setattr__(self, "block", block)
        self.trace = trace

    def __getattr__(self, name: str) -> Any:
        return said_by_block(self, name)

    def forward(self, hidden: Tensor, *_: object, **__: object) -> Tensor | tuple[Tensor]:
        self.trace.after.clear()
        self.trace.shapes.append(tuple(hidden.shape))
        return (hidden,) if self.trace.tuples else hidden


def _traced(model: Any, backbone: str, blocks: str, around: dict[str, nn.Module]) -> _Trace:
    """The model's own forward on three tokens twice. Blocks hand on states; where that does not fit, tuples of them.

    A backbone that takes the first of a tuple takes the first text of a batch where it is handed states.
    """
    said = ""
    ids = torch.zeros(2, 3, dtype=torch.long, device="meta")
    # Other kinds of attention look into the mask, and a warning looks for pads: tokens and mask have no numbers.
    model.set_attn_implementation("eager")
    vars(model.config)["pad_token_id"] = None
    for mask, tuples in ((None, False), (None, True), (torch.ones_like(ids), False), (torch.ones_like(ids), True)):
        trace = _Trace(tuples)
        try:
            with torch.no_grad(), _watched(model, blocks, around, trace):
                hidden = model.get_submodule(backbone)(input_ids=ids, attention_mask=mask)[0]
                trace.shapes.append((*hidden.shape[:-1], trace.shapes[0][-1]))
                Speaking(model, backbone)(hidden.flatten(0, 1))
        except Exception as error:  # another library's code, on tensors without numbers: anything may come of it
            said = said or one_line(error)
            continue
        if len(set(trace.shapes)) == 1 and len(trace.shapes[0]) == 3:
            return trace
    raise _Lacking(f"what {backbone} calls cannot be followed without numbers" + (f": {said}" if said else ""))


@contextmanager
def _watched(model: nn.Module, blocks: str, around: dict[str, nn.Module], trace: _Trace) -> Iterator[None]:
    places: Any = model.get_submodule(blocks)
    own = list(places)

    def note(name: str) -> None:
        (trace.after if trace.shapes else trace.before)[name] = None

    hooks = [module.register_forward_pre_hook(lambda *_, name=name: note(name)) for name, module in around.items()]
    try:
        for index, block in enumerate(own):
            places[index] = _Passing(block, trace)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for index, block in enumerate(own):
            places[index] = block


def _check_embeddings(model: Any, found: Iterable[str]) -> None:
    words = model.get_input_embeddings()
    if not any(words is inner for name in found for inner in model.get_submodule(name).modules()):
        raise _Lacking("no input embeddings are called before its blocks")


def _head(model: Any, outside: list[str]) -> str:
    """The module outside the backbone in which the output embeddings lie."""
    words = model.get_output_embeddings()
    heads = [name for name in outside if any(words is inner for inner in model.get_submodule(name).modules())]
    if not heads:
        raise _Lacking("no output embeddings are called behind its blocks")
    return heads[0]
