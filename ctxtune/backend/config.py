"""The configuration of a model folder, checked before anything of its size is made, and the anatomy of its family.

No torch, but for a family that is not in the table: its modules are looked into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctxtune.backend.anatomy import FAMILIES, Anatomy, anatomy_of
from ctxtune.backend.classes import name_classes
from ctxtune.backend.folder import read_json, weight_files
from ctxtune.backend.library import hush, one_line
from ctxtune.backend.tensors import read_header
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


MOST_CLASSES = 100_000


def read_config(folder: Path, classes: Sequence[str] | None = None) -> tuple[Any, Anatomy]:
    """The configuration of a model folder, and the anatomy of its family.

    An encoder whose files hold no head tells `classes` apart; they mean nothing to any other model.

    Raises:
        ModelError: config.json is broken, of a family that is not supported, or of an encoder that nobody gave classes.
    """
    from transformers import AutoConfig

    hush()
    tensors = {name for path in weight_files(folder) for name in read_header(path).tensors}
    _check_counts(folder, len(tensors))
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers checks a config by computing with it: any error can come of a wrong one
        raise ModelError(f"{folder}/config.json: {one_line(error)}") from error
    row = anatomy_of(config.model_type) if config.model_type in FAMILIES else _found(config, folder)
    text = config.get_text_config()
    if row.kind == "causal" and getattr(text, "use_bidirectional_attention", None):
        raise ModelError(
            f"{folder}/config.json: use_bidirectional_attention makes this {row.family} an encoder without a task",
            "name a model that predicts tokens",
        )
    if row.is_headless(tensors):
        row = row.classifying()
        name_classes(config, row, classes, tensors, folder)
    return config, row


def _found(config: Any, folder: Path) -> Anatomy:
    from ctxtune.backend.structure import find_anatomy

    return find_anatomy(config, folder)


def _check_counts(folder: Path, tensors: int) -> None:
    """Refuse a config of no layer, of more than there are tensors, or of a billion classes: all would be built unseen."""
    config = read_json(folder / "config.json")
    # transformers makes up a name for each of them.
    if isinstance(classes := config.get("num_labels"), int | float) and not classes <= MOST_CLASSES:
        raise ModelError(f"{folder / 'config.json'}: num_labels is {classes:,}, more than {MOST_CLASSES:,} classes")
    for key in ("num_hidden_layers", "n_layer", "num_layers"):
        layers = config.get(key)
        if isinstance(layers, int | float) and not 1 <= layers <= tensors:
            raise ModelError(
                f"{folder / 'config.json'}: {key} is {layers:,}, and the weights hold {tensors:,} tensors",
                "the files belong to different models, or one of them is broken",
            )
