"""Vectors at the input become words of the model: an ordinary checkpoint, for programs that know no soft prompts.

Each vector is a row of the embeddings, under a token of its own, which the tokenizer writes before every text or behind it
(its post-processor does, and its chat template). The model must never say such a token. With a head that is tied to the
embeddings it would: up to 95 % of the probability went to the new rows in a trial. So the head is untied, and its new rows are

    w = -c m      m a direction of all final states h on a probe      log p(new | h) <= -c m.h - log sum_old exp(z)

with c as large as the least m.h asks for; a head with a bias gets w = 0 and a bias far below. The logits of the old words
stay what they were, bit for bit.

Shapes: P vectors, D width of the embeddings, V words, N rows of final states of width D'.
"""

from __future__ import annotations

import json
import math
import stat
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from ctxtune.backend.library import one_line
from ctxtune.backend.prefix import embedding_of
from ctxtune.data.prompt import names
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from ctxtune.backend.load import Base

LEAST = 1e-9  # the share that all new words together may have on the probe, with a factor of 1,000 to spare
_TURNS = 1000
_MARGIN = 0.02  # least cosine that is looked for
_FAR = -1e4  # a bias that leaves nothing in float32


def add_words(base: Base, vectors: Tensor, states: Tensor) -> list[int]:
    """Give a model in float32 words for these vectors (P, D); returns their ids. `states` (N, D') are those of a probe.

    Raises:
        ModelError: the model has no head of its own kind, or its final states have no direction in common.
    """
    model: Any = base.model
    called = names(len(vectors))
    if taken := [name for name in called if name in base.tokenizer.get_vocab()]:
        raise ModelError(
            f"the tokenizer has a token {taken[0]!r} already", "bake into the model that the adapter was made on"
        )
    embedding, head = embedding_of(model), model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ModelError(f"a head of class {type(head).__name__} cannot be given words", "use the adapter in PEFT")
    first = len(base.tokenizer)
    with torch.no_grad():
        rows = vectors / _scale(embedding)
        shown, bias = _unsaid(head, states, len(vectors))
        words = max(first + len(vectors), embedding.num_embeddings)
        spoken = nn.Parameter(_placed(head.weight.detach().clone(), shown, first, words), requires_grad=False)
        embedding.weight = nn.Parameter(_placed(embedding.weight.detach(), rows, first, words), requires_grad=False)
        head.weight, head.out_features = spoken, words
        if bias is not None:
            head.bias = nn.Parameter(_placed(head.bias.detach(), bias, first, words), requires_grad=False)
    embedding.num_embeddings = words
    config = model.config
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        part.vocab_size, part.tie_word_embeddings = words, False
    base.tokenizer.add_tokens([_token(name) for name in called])
    ids: list[int] = base.tokenizer.convert_tokens_to_ids(called)
    if ids != list(range(first, first + len(called))):
        raise ModelError("the tokenizer's numbers have holes: new words would take the place of others", "use PEFT")
    return ids


def _token(name: str) -> Any:
    from transformers import AddedToken

    return AddedToken(name, special=True, normalized=False)


def _scale(embedding: nn.Embedding) -> float:
    """What the model multiplies embedded tokens by (Gemma does)."""
    row = int(embedding.weight.norm(dim=1).argmax())  # a pad's row may be 0
    weight = embedding.weight[row]
    found = float(embedding(torch.tensor([row], device=weight.device))[0] @ weight / (weight @ weight))
    return 1.0 if abs(found - 1) < 1e-5 else found  # one is one: a last bit more is a noise of 1e-4 in the logits


def _placed(known: Tensor, new: Tensor, first: int, words: int) -> Tensor:
    """`new` rows from `first` on, in a table of so many; rows that no word has had until now may lie between, as zeros."""
    table = known.new_zeros(words, *known.shape[1:])
    table[: len(known)] = known
    table[first : first + len(new)] = new
    return table


def _unsaid(head: nn.Linear, states: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
    """Rows of the head (P, D'), and a bias where it has one, under which none of the new words is ever said."""
    if head.bias is not None:
        return head.weight.new_zeros(count, head.in_features), head.bias.new_full((count,), _FAR)
    shared = _direction(states)
    along = states @ shared
    known = torch.cat([part @ head.weight.T for part in states.split(64)]).logsumexp(-1)
    needed = float(((math.log(count / LEAST) - known) / along).max())
    return (-2 * max(needed, 0.0) * shared).expand(count, -1), None


def _direction(states: Tensor) -> Tensor:
    """A direction along which all states (N, D') point: their mean, turned towards the one that points there least until all do
    (the perceptron, Rosenblatt 1958; by its least angle, as in Minover, Krauth & Mezard 1987).

    Raises:
        ModelError: there is none, as far as so many turns tell.
    """
    ways = functional.normalize(states, dim=1)
    found = ways.mean(0) * _TURNS**0.5
    for _ in range(_TURNS):
        along = ways @ found
        if float(along.min()) > _MARGIN * float(found.norm()):
            break
        found = found + ways[int(along.argmin())]
    if float((ways @ found).min()) <= 0:
        raise ModelError(
            "the model's final states have no direction in common: new words could be said", "use --adapter"
        )
    return functional.normalize(found, dim=0)


def write_baked(base: Base, ids: Sequence[int], folder: Path, dtype: torch.dtype, behind: bool) -> None:
    """Write model and tokenizer, which puts the words before every text or `behind` it; nothing of it is code."""
    model: Any = base.model
    generation = model.generation_config
    generation.suppress_tokens = sorted({*(generation.suppress_tokens or ()), *ids})
    try:
        model.to(dtype).save_pretrained(folder)
    except ValueError as error:  # what its own generation_config.json says contradicts itself
        raise ModelError(
            f"the model cannot be written: {one_line(error)}", "mend its generation_config.json"
        ) from error
    called, tokenizer = names(len(ids)), base.tokenizer
    told = tokenizer.chat_template
    if told:
        several = isinstance(told, dict)
        tokenizer.chat_template = (
            {name: _in_chat(one, called, behind) for name, one in told.items()}
            if several
            else _in_chat(told, called, behind)
        )
    tokenizer.save_pretrained(folder)
    _write_words(folder / "tokenizer.json", called, ids, behind)
    mode = stat.S_IMODE((folder / "config.json").stat().st_mode)
    for file in folder.glob("*.safetensors"):  # that library writes for the owner alone
        file.chmod(mode)


def _in_chat(template: str, called: Sequence[str], behind: bool) -> str:
    """A chat template with the words before a conversation, or behind it where the model is to speak."""
    words = "{{ " + json.dumps("".join(called)) + " }}"
    return f"{template}{{% if add_generation_prompt %}}{words}{{% endif %}}" if behind else words + template


def _write_words(path: Path, called: Sequence[str], ids: Sequence[int], behind: bool) -> None:
    """Let the tokenizer's post-processor write the words: in the place of the special tokens that stood before a text, or
    behind a text and with these."""
    told = json.loads(path.read_text(encoding="utf-8"))
    words = [{"SpecialToken": {"id": name, "type_id": 0}} for name in called]
    known = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in zip(called, ids, strict=True)}
    old = told.get("post_processor") or {}
    parts = old.get("processors", [old])
    front: list[Any] = words
    if behind:
        framed: dict[str, Any] = next((one for one in parts if one.get("type") == "TemplateProcessing"), {"single": []})
        front = list(takewhile(lambda piece: "Sequence" not in piece, framed["single"]))
        known = {**framed.get("special_tokens", {}), **known}
    one, two = ([{"Sequence": {"id": name, "type_id": 0}}] for name in "AB")
    back = words if behind else []
    template = {
        "type": "TemplateProcessing", "single": [*front, *one, *back], "pair": [*front, *one, *two, *back],
        "special_tokens": known,
    }  # fmt: skip
    kept = [one for one in parts if one.get("type") == "ByteLevel"]
    told["post_processor"] = {"type": "Sequence", "processors": [*kept, template]} if kept else template
    path.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
