"""Which classes a classifier tells apart: those that its files name, else the choices of a recipe. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from ctxtune.backend.anatomy import Anatomy

TASK = "ForSequenceClassification"
"""how transformers ends the names of such models"""


def name_classes(
    config: Any, anatomy: Anatomy, classes: Sequence[str] | None, tensors: Collection[str], folder: Path
) -> None:
    """Let the configuration of an encoder say which classes its classifier tells apart.

    Raises:
        ModelError: nobody lists them; or the files hold a classifier of other classes, or a head of another task.
    """
    if any(name.startswith(f"{anatomy.head}.") for name in tensors):
        _check_stored(config, classes, folder)
    elif classes is None:
        raise ModelError(
            f"{folder}: the files hold an encoder without the head that fills a mask: it can only learn to choose",
            "list the choices, the same for all rows: --choices a,b,c",
        )
    else:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: number for number, name in enumerate(classes)}


def _check_stored(config: Any, classes: Sequence[str] | None, folder: Path) -> None:
    told = (
        str(config.architectures[0]) if isinstance(config.architectures, list | tuple) and config.architectures else ""
    )
    if not told.endswith(TASK):
        raise ModelError(
            f"{folder}: the head in the files is that of {told[:80] or 'an unnamed model'}, not one that tells choices apart",
            "name the encoder it was made from",
        )
    own = class_names(config)
    unnamed = own == [f"LABEL_{number}" for number in range(len(own))]
    if classes is not None and (len(classes) != len(own) if unnamed else list(classes) != own):
        listed = ", ".join(own[:8]) + (", ..." if len(own) > 8 else "")
        raise ModelError(
            f"{folder}: the classifier in the files tells {len(own)} classes apart: {listed}; data.choices lists others",
            "list the same in the same order, or name the encoder it was made from",
        )


def class_names(config: Any) -> list[str]:
    """The classes of a configuration, in the order of the logits."""
    return [str(name) for _, name in sorted(config.id2label.items())]
