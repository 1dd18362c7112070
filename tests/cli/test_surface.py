"""The commands and their options, frozen: a new one is an act of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TASK = {"--train", "--eval", "--prompt", "--answer", "--choices", "--messages"}
SURFACE = {
    "": {"--version", "--debug"},
    "quickstart": {"--out", "--json", "--quiet", "-q"},
    "freeze": TASK
    | {
        "recipe",
        "--model",
        "--layers",
        "--lr-decay",
        "--unfreeze",
        "--sample",
        "--epochs",
        "--batch",
        "--lr",
        "--forget-budget",
        "--cache",
        "--out",
        "--nproc",
        "--set",
        "--seed",
        "--device",
        "--dtype",
        "--quant",
    }
    | {"--resume", "--dry-run", "--json", "--quiet", "-q"},
    "pretrain": {
        "recipe",
        "--model",
        "--method",
        "--layers",
        "--replay",
        "--forget-budget",
        "--cache",
        "--quant",
        "--train",
        "--eval",
        "--arch",
        "--depth",
        "--params",
        "--minutes",
        "--vocabulary",
        "--tokenizer",
        "--optimizer",
        "--epochs",
        "--steps",
        "--batch",
        "--lr",
        "--out",
        "--nproc",
        "--nnodes",
        "--rdzv",
        "--fsdp",
        "--accelerate",
        "--set",
        "--seed",
        "--device",
        "--dtype",
        "--resume",
        "--dry-run",
        "--json",
        "--quiet",
        "-q",
    },
    "mask": TASK
    | {
        "recipe",
        "--model",
        "--learn",
        "--select",
        "--shape",
        "--density",
        "--budget",
        "--l2",
        "--l1",
        "--ewc",
        "--control",
        "--choose-only",
        "--layers",
        "--epochs",
        "--batch",
        "--lr",
        "--forget-budget",
        "--cache",
        "--out",
        "--nproc",
        "--set",
        "--seed",
        "--device",
        "--dtype",
        "--quant",
    }
    | {"--resume", "--dry-run", "--json", "--quiet", "-q"},
    "prompt": (TASK - {"--messages"})
    | {
        "recipe",
        "--model",
        "--kind",
        "--tokens",
        "--init",
        "--shots",
        "--top",
        "--distill-from",
        "--search",
        "--candidates",
        "--epochs",
        "--batch",
        "--lr",
        "--forget-budget",
        "--cache",
        "--out",
        "--nproc",
        "--set",
        "--seed",
        "--device",
        "--dtype",
        "--quant",
    }
    | {"--resume", "--dry-run", "--json", "--quiet", "-q"},
    "fewshot": (TASK - {"--messages"})
    | {
        "recipe",
        "--dry-run",
        "--model",
        "--metric",
        "--on-error",
        "--as",
        "--chat",
        "--no-chat",
        "--shots",
        "--select",
        "--order",
        "--seeds",
        "--calibrate",
        "--prior",
        "--scores",
        "--save",
        "--out",
        "--resume",
        "--cache",
        "--nproc",
        "--set",
        "--seed",
        "--device",
        "--dtype",
        "--quant",
    }
    | {"--json", "--quiet", "-q"},
    "run": {"recipe", "--out", "--nproc", "--set", "--resume", "--dry-run", "--json", "--quiet", "-q"},
    "eval": (TASK - {"--train"})
    | {
        "recipe",
        "--model",
        "--adapter",
        "--metric",
        "--save",
        "--against",
        "--alpha",
        "--nproc",
        "--set",
        "--device",
        "--dtype",
        "--quant",
        "--force",
        "--json",
        "--quiet",
        "-q",
    },
    "generate": {
        "prompt",
        "--model",
        "--adapter",
        "--max-tokens",
        "--stop",
        "--device",
        "--dtype",
        "--quant",
        "--force",
    }
    | {"--temperature", "--top-p", "--top-k", "--min-p", "--repetition-penalty", "--seed"}
    | {"--chat", "--no-chat", "--system", "--stream", "--no-stream", "--jsonl", "--batch", "--json", "--quiet", "-q"},
    "adapter": set(),
    "adapter show": {"adapter", "--model", "--against", "--json"},
    "adapter verify": {"adapter", "--model", "--json"},
    "adapter merge": {"adapter", "--out", "--model", "--dtype", "--force", "--json"},
    "adapter export": {"adapter", "--out", "--to", "--rank", "--model", "--dtype", "--force", "--json"},
    "adapter diff": {"adapter", "other", "--json"},
    "adapter scale": {"adapter", "--out", "--alpha", "--model", "--force", "--json"},
    "adapter compose": {"adapters", "--out", "--weights", "--json"},
    "model": set(),
    "model pull": {"name", "--accept-licence", "--from", "--json"},
    "model list": {"--json"},
    "model show": {"model", "--json"},
    "data": set(),
    "data pull": {"dataset", "--revision", "--json"},
    "data show": (TASK - {"--eval"}) | {"recipe", "--model", "--row", "--rows", "--tokens", "--set", "--json"},
    "data stats": TASK | {"recipe", "--model", "--set", "--json"},
    "cache": set(),
    "cache list": {"--json"},
    "cache clear": {"--older-than", "--json"},
    "recipe": set(),
    "recipe list": {"--json"},
    "recipe show": {"recipe"},
    "recipe new": {"name", "--out"},
    "recipe check": {"recipe", "--set", "--json"},
    "recipe schema": set(),
}


def walk(command: Any, *path: str) -> Iterator[tuple[str, set[str]]]:
    names = {
        name
        for param in command.params
        for name in (param.opts + param.secondary_opts if param.param_type_name == "option" else [param.name])
    }
    yield " ".join(path), names
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, *path, name)


def test_the_surface_is_what_was_decided() -> None:
    from typer.main import get_command

    from ctxtune.cli.main import app

    assert dict(walk(get_command(app))) == SURFACE
