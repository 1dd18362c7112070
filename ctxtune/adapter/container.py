"""LN_TUNING, PEFT's container of whole trained modules: names of tensors and the configuration beside them.

PEFT made it for layer norms, but it takes any module: `base_model.model.<module>.ln_tuning_layers.<weight|bias>` holds
the new value itself, not a difference. Tied parameters stand under every module that uses them, as PEFT copies each
module by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "base_model.model."
INFIX = ".ln_tuning_layers."
PARAMETERS = ("weight", "bias")
T = TypeVar("T")


def layer_config(modules: Iterable[str], base_name: str, causal: bool) -> dict[str, Any]:
    """adapter_config.json for the modules, named in full: a shorter name would match in other places as well."""
    return {
        "auto_mapping": None,
        "base_model_name_or_path": base_name,
        "exclude_modules": None,
        "inference_mode": True,
        "modules_to_save": None,
        "peft_type": "LN_TUNING",
        "revision": None,
        "target_modules": sorted(set(modules)),
        "task_type": "CAUSAL_LM" if causal else None,
    }


def layer_tensors(parameters: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """PEFT's tensor names for module -> {"weight": value, "bias": value}."""
    return {
        f"{PREFIX}{module}{INFIX}{name}": value
        for module, values in parameters.items()
        for name, value in values.items()
    }


def layer_names(tensors: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Tensor name -> (module, parameter) for those tensors that belong to the container."""
    names = {}
    for tensor in tensors:
        module, infix, parameter = tensor.removeprefix(PREFIX).rpartition(INFIX)
        if tensor.startswith(PREFIX) and infix and module and parameter in PARAMETERS:
            names[tensor] = (module, parameter)
    return names
