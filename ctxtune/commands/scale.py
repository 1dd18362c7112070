"""A share of an adapter is written as an adapter: read it -> check it and its base -> scale it -> write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxtune.adapter.read import check_base, check_bytes, name_of_base, open_adapter
from ctxtune.backend.fingerprint import fingerprint
from ctxtune.backend.folder import resolve_model
from ctxtune.commands.interpolate import share_of
from ctxtune.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LEAST = 1e-6


def scale(
    place: Path, alpha: str, out: Path, model: str | None, force: bool, say: Callable[[str], None]
) -> tuple[float, int]:
    """Write W + alpha (W' - W); returns alpha and the size of the file.

    Whole values lie between those of the base and the adapter's: the base is `model`, else the one that the adapter names.

    Raises:
        RecipeError: alpha is no number above 0 and up to 1.
        AdapterError: the adapter is damaged, or has no shares; the base is another one, and `force` does not insist.
        PlaceError: `out` holds something.
    """
    share = share_of(alpha, "write a number such as 0.5; at 0 it is the base", least=_LEAST)
    adapter = open_adapter(place)
    from ctxtune.adapter.scale import WHOLE, check_scalable
    from ctxtune.adapter.scale import scale as write_share
    from ctxtune.adapter.weights import open_weights

    check_scalable(adapter)
    check_bytes(adapter)
    if adapter.container != WHOLE:
        if model is not None:
            raise RecipeError(f"--model: {adapter.path} holds changes, which need no base", "leave it out")
        return share, write_share(adapter, share, None, out)
    folder = resolve_model(model or name_of_base(adapter))
    if warning := check_base(adapter, fingerprint(folder), force):
        say(warning)
    return share, write_share(adapter, share, open_weights(folder, adapter.classes), out)
