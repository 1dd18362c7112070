"""What a result is compared with: an earlier one's rows in a file, another adapter on the same base, or the base itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.evals.items import Item

BASE = "base"


@dataclass(frozen=True)
class Rival:
    """Its rows where they are known already; else they are scored in this run, with `adapter` or with none."""

    name: str
    items: list[Item] | None = None
    adapter: AdapterFile | None = None

    def compared(self, ours: Sequence[Item], theirs: Sequence[Item]) -> dict[str, Any]:
        """The differences as facts, this result minus the rival's; `left_out` are scores that mean another thing there."""
        from ctxtune.evals.calibrate import parted
        from ctxtune.evals.paired import compare

        found = {name: asdict(one) for name, one in compare(ours, theirs, self.name).items()}
        differences, calibrations = parted(found)
        left_out = [name for name in ours[0].scores if name in theirs[0].scores and name not in found]
        return {"name": self.name, "differences": differences, "calibrations": calibrations, "left_out": left_out}


def open_rival(named: str | None, adapter: Path | None) -> Rival | None:
    """Look at what `--against` names, before a model is loaded.

    Raises:
        RecipeError: `base` was named, and it is the base itself that is scored.
        DataError, AdapterError: the file holds no scored rows, or no adapter.
    """
    from ctxtune.adapter.read import open_adapter

    if named is None:
        return None
    if named == BASE:
        if adapter is None:
            raise RecipeError("--against base compares an adapter with its base", "name the adapter: --adapter FOLDER")
        return Rival(BASE)
    if Path(named).is_dir() or named.endswith(".safetensors"):
        return Rival(named, adapter=open_adapter(Path(named)))
    from ctxtune.evals.items import read_items

    return Rival(named, items=read_items(named))
