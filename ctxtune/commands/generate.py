"""The story of generating: load -> attach -> continue each prompt -> hand the texts out as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctxtune.commands.evaluate import load_with, open_given, resolve
from ctxtune.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path


def generate(
    prompts: Iterable[str],
    flags: Mapping[str, object],
    adapter: Path | None,
    force: bool,
    max_tokens: int,
    temperature: float,
    seed: int,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """For each prompt, in order: {prompt, text, tokens}. Temperature 0 takes the likeliest token every time.

    Raises:
        DataError: a prompt is empty, or leaves no room in the model's context.
        ModelError, AdapterError: as in `load_with`; a masked model cannot continue a text.
    """
    import torch

    opened = open_given(adapter)
    base = load_with(resolve(None, flags, [], opened, adapter).recipe, opened, force, say)
    if base.anatomy.kind != "causal":
        raise ModelError(
            f"a {base.anatomy.family} model fills gaps, it does not continue a text", "choose a causal model"
        )
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    pad = base.tokenizer.pad_token_id if base.tokenizer.pad_token_id is not None else base.tokenizer.eos_token_id
    for number, prompt in enumerate(prompts, 1):
        if not _is_text(prompt):
            raise DataError(f"prompt {number} is not text: it holds half a character")
        ids = base.tokenizer(prompt, return_tensors="pt")["input_ids"].to(base.device.name)
        if ids.numel() and int(ids.max()) >= base.vocabulary:
            raise ModelError(
                f"the tokenizer writes token {int(ids.max())}, the model knows {base.vocabulary} tokens",
                "the folder's tokenizer belongs to another model",
            )
        room = base.max_length - ids.shape[1]
        if ids.shape[1] == 0 or room < 1:
            fault = "is empty" if ids.shape[1] == 0 else f"has {ids.shape[1]} tokens, the model reads {base.max_length}"
            raise DataError(f"prompt {number} {fault}")
        with torch.no_grad():
            out = base.model.generate(  # type: ignore[operator]
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=min(max_tokens, room),
                pad_token_id=pad,
                **sampling,
            )
        new = out[0, ids.shape[1] :]
        yield {"prompt": prompt, "text": base.tokenizer.decode(new, skip_special_tokens=True), "tokens": len(new)}


def _is_text(prompt: str) -> bool:
    """Bytes of the command line that are no UTF-8 arrive as halves of surrogate pairs."""
    return not any("\ud800" <= letter <= "\udfff" for letter in prompt)
