"""The decoding loop against transformers' `generate`, in every family that keeps its past in its own way."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch

from ctxtune.backend.decode import Written, generate_batch, stream
from ctxtune.backend.past import Past
from ctxtune.backend.sample import Seeds
from ctxtune.errors import DataError, ModelError
from ctxtune.recipe.written import Generation

from ..conftest import make_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctxtune.backend.load import Base

CONTEXT = 128
WINDOW = 8
PROMPTS = [[5, 6, 7], [9] * 21, [8, 9, 10, 11, 40, 50, 60], [70], [100, 3, 3, 100, 5, 20, 30, 40, 50, 60, 70, 80]]


@dataclass
class Family:
    config: str
    model: str
    more: dict[str, Any]


SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2}
FAMILIES = {
    "llama": Family("LlamaConfig", "LlamaForCausalLM", GROUPED),
    "gpt2": Family("GPT2Config", "GPT2LMHeadModel", {}),
    "mistral, sliding": Family("MistralConfig", "MistralForCausalLM", {**GROUPED, "sliding_window": WINDOW}),
    "qwen3, sliding": Family("Qwen3Config", "Qwen3ForCausalLM", {
        **GROUPED, "head_dim": 8, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1,
    }),
    "gemma3, sliding": Family("Gemma3TextConfig", "Gemma3ForCausalLM", {
        **GROUPED, "head_dim": 8, "sliding_window": WINDOW, "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
    }),
    "gpt_neox": Family("GPTNeoXConfig", "GPTNeoXForCausalLM", {}),
    "opt": Family("OPTConfig", "OPTForCausalLM", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "phi3": Family("Phi3Config", "Phi3ForCausalLM", GROUPED),
}  # fmt: skip


@pytest.fixture(scope="module")
def bases() -> Callable[[str], Base]:
    """bases(family): a random model of 300 tokens, with what decoding needs to know of a base."""
    made: dict[str, Any] = {}
    tokenizer = make_tokenizer("gpt2-tied")

    def base(family: str) -> Base:
        if family not in made:
            made[family] = make(FAMILIES[family], tokenizer)
        return cast("Base", made[family])

    return base


def make(family: Family, tokenizer: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, family.config)(**SIZES, **family.more, vocab_size=len(tokenizer))
    model = getattr(transformers, family.model)(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    causal = SimpleNamespace(kind="causal", family=family.model)
    return SimpleNamespace(
        model=model, tokenizer=tokenizer, anatomy=causal, device=SimpleNamespace(name="cpu"), max_length=CONTEXT,
        vocabulary=len(tokenizer), going_on=None,
    )  # fmt: skip


def theirs(base: Base, prompt: list[int], **settings: Any) -> tuple[int, ...]:
    """What transformers writes."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = base.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **settings)  # type: ignore[operator]
    return tuple(out[0, len(prompt) :].tolist())


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_that_of_transformers_alone_and_in_batches(family: str, bases: Callable[[str], Base]) -> None:
    base = bases(family)
    expected = [theirs(base, prompt, max_new_tokens=30) for prompt in PROMPTS]
    settings = Generation(max_tokens=30)
    assert [one.tokens for one in generate_batch(base, PROMPTS, settings)] == expected
    assert [generate_batch(base, [prompt], settings)[0].tokens for prompt in PROMPTS] == expected
    assert len({len(tokens) for tokens in expected}) > 1 or all(tokens[-1] != 0 for tokens in expected)


def test_a_text_that_ends_leaves_the_others_alone(
    bases: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = bases("mistral, sliding")
    free = generate_batch(base, PROMPTS, Generation(max_tokens=30))
    # Every text gets another length: the tokens it would write at some step are made to end texts.
    ends = [free[0].tokens[2], free[2].tokens[11]]
    monkeypatch.setattr(base.model.generation_config, "eos_token_id", ends)
    found = generate_batch(base, PROMPTS, Generation(max_tokens=30))
    for one, whole in zip(found, free, strict=True):
        stop = next((at + 1 for at, token in enumerate(whole.tokens) if token in ends), 30)
        assert one.tokens == whole.tokens[:stop]
        assert one.reason == ("eos" if one.tokens[-1] in ends else "length")
    assert len({len(one.tokens) for one in found}) > 2


def test_a_penalty_is_that_of_transformers(bases: Callable[[str], Base]) -> None:
    """In a batch, too, where what stands to the left of a short prompt is no token that was seen."""
    base = bases("llama")
    expected = [theirs(base, prompt, max_new_tokens=30, repetition_penalty=1.7) for prompt in PROMPTS]
    found = [one.tokens for one in generate_batch(base, PROMPTS, Generation(max_tokens=30, repetition_penalty=1.7))]
    assert found == expected
    assert found != [one.tokens for one in generate_batch(base, PROMPTS, Generation(max_tokens=30))]


def test_batches_are_cut_by_tokens(bases: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    from ctxtune.backend import decode

    sizes = []
    whole = decode.decode
    monkeypatch.setattr(decode, "decode", lambda rows, *rest: sizes.append(len(rows)) or whole(rows, *rest))
    monkeypatch.setattr(decode, "MOST_TOKENS", 50)
    base, settings = bases("llama"), Generation(max_tokens=4)
    found = generate_batch(base, PROMPTS, settings)
    assert sizes == [2, 3]
    assert [one.tokens for one in found] == [theirs(base, prompt, max_new_tokens=4) for prompt in PROMPTS]


def test_no_prompt_no_text(bases: Callable[[str], Base]) -> None:
    assert generate_batch(bases("llama"), [], Generation()) == []


def drawn(base: Base, prompts: list[list[int]], seed: int = 3, **settings: Any) -> list[tuple[int, ...]]:
    chosen = Generation(max_tokens=12, temperature=1.5, seed=seed, **settings)
    return [one.tokens for one in generate_batch(base, prompts, chosen)]


def test_what_a_prompt_draws_depends_on_nothing_but_itself(bases: Callable[[str], Base]) -> None:
    base = bases("gpt2")
    together = drawn(base, PROMPTS)
    assert drawn(base, PROMPTS[::-1])[::-1] == together
    assert [drawn(base, [prompt])[0] for prompt in PROMPTS] == together
    assert drawn(base, PROMPTS, seed=4) != together
    twice = drawn(base, [PROMPTS[0], PROMPTS[1], PROMPTS[0]])
    assert twice[:2] == together[:2]
    assert twice[2] != twice[0]


def test_seeds_count_on_from_call_to_call(bases: Callable[[str], Base]) -> None:
    settings, seeds = Generation(max_tokens=12, temperature=1.5, seed=3), Seeds(3)
    base, prompt = bases("gpt2"), PROMPTS[0]
    one_by_one = [generate_batch(base, [prompt], settings, seeds)[0].tokens for _ in range(3)]
    assert one_by_one == drawn(base, [prompt] * 3)


def streamed(pieces: Iterator[str]) -> tuple[list[str], Written]:
    found = []
    while True:
        try:
            found.append(next(pieces))  # type: ignore[arg-type]
        except StopIteration as end:
            return found, end.value


@pytest.mark.parametrize("settings", [
    {}, {"temperature": 1.0, "top_p": 0.9}, {"stop": ["e", "\n"]}, {"stop": ["\ufffd"]},
], ids=str)  # fmt: skip
def test_a_stream_is_the_text(settings: dict[str, Any], bases: Callable[[str], Base]) -> None:
    base = bases("gpt2")
    for prompt in PROMPTS:
        chosen = Generation(max_tokens=25, **settings)
        (whole,) = generate_batch(base, [prompt], chosen)
        pieces, written = streamed(stream(base, prompt, chosen))
        assert written == whole
        assert "".join(pieces) == whole.text
        assert all(pieces)
        if not settings:
            assert len(pieces) > 3
            assert whole.text == base.tokenizer.decode(whole.tokens, skip_special_tokens=True)


def test_a_stop_string_ends_the_text_before_itself(bases: Callable[[str], Base]) -> None:
    base = bases("gpt2")
    free = generate_batch(base, PROMPTS, Generation(max_tokens=40))
    whole = free[0].text
    for at in range(2, len(whole) - 3, 5):
        stop = whole[at : at + 3]
        (found,) = generate_batch(base, PROMPTS[:1], Generation(max_tokens=40, stop=[stop]))
        assert found.text == whole[: whole.index(stop)]
        assert found.reason == "stop"
        assert found.tokens == free[0].tokens[: len(found.tokens)]
    assert free[0].reason == "length"


def test_a_special_token_can_be_the_stop_string(bases: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    base = bases("llama")
    tokenizer = make_tokenizer("gpt2-tied")
    token = generate_batch(base, PROMPTS[:1], Generation(max_tokens=9))[0].tokens[4]
    monkeypatch.setattr(base, "tokenizer", tokenizer)
    name = tokenizer.convert_ids_to_tokens(token)
    tokenizer.add_special_tokens({"additional_special_tokens": [name]})
    (found,) = generate_batch(base, PROMPTS[:1], Generation(max_tokens=9, stop=[name]))
    assert (found.reason, found.tokens[-1]) == ("stop", token)
    assert name not in found.text


def test_the_context_ends_a_text(bases: Callable[[str], Base]) -> None:
    for most, reason in ((50, "context"), (3, "length")):
        (found,) = generate_batch(bases("gpt2"), [[5] * (CONTEXT - 3)], Generation(max_tokens=most))
        assert (len(found.tokens), found.reason) == (3, reason)


@pytest.mark.parametrize(("prompt", "error", "said"), [
    ([], DataError, "is empty"),
    ([5] * CONTEXT, DataError, f"has {CONTEXT} tokens, the model reads {CONTEXT}"),
    ([5, 100_000], ModelError, "writes token 100000"),
])  # fmt: skip
def test_prompts_that_no_model_can_continue(
    prompt: list[int], error: type[Exception], said: str, bases: Callable[[str], Base]
) -> None:
    with pytest.raises(error, match=said):
        generate_batch(bases("gpt2"), [[5], prompt], Generation())


def test_a_broken_model_is_an_error() -> None:
    base = make(FAMILIES["gpt2"], make_tokenizer("gpt2-tied"))
    base.model.transformer.ln_f.weight.fill_(float("nan"))
    for temperature in (0.0, 1.0):
        with pytest.raises(ModelError, match="not a number"):
            generate_batch(base, [[5]], Generation(temperature=temperature))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_read_is_not_read_again(family: str, bases: Callable[[str], Base]) -> None:
    """Logits after going on, after going back, and after starting anew are those of a fresh reading."""
    base = bases(family)
    text = [5 + 7 * i % 250 for i in range(40)]
    past = Past(base)
    for tokens, unread in [
        (text[:20], 20),
        (text[:30], 10),
        (text[:30], 1),  # the same again: its last token must speak
        ([*text[:25], 3, 4], 2),
        (text, 15),
        ([1, *text], 41),
        ([1, *text[:5]], 1),
    ]:
        rest = past.rest(tokens)
        assert len(rest) == unread
        found = past.read([rest])
        assert past.read_tokens == [tokens]
        fresh = base.model(input_ids=torch.tensor([tokens])).logits[:, -1]
        assert (found - fresh).abs().max() <= 2e-5 * fresh.abs().max()


def test_what_was_read_in_float64_is_exact(bases: Callable[[str], Base]) -> None:
    import copy

    base = copy.copy(bases("gemma3, sliding"))
    base.model = copy.deepcopy(base.model).double()  # type: ignore[misc]
    text = [5 + 7 * i % 250 for i in range(40)]
    past = Past(base)
    for size in (10, 25, 39, 18, 40):
        found = past.read([past.rest(text[:size])])
        fresh = base.model(input_ids=torch.tensor([text[:size]])).logits[:, -1]
        assert (found - fresh).abs().max() <= 1e-12 * fresh.abs().max()


def test_a_reading_that_was_interrupted_does_no_harm(bases: Callable[[str], Base]) -> None:
    """Ctrl-C inside the forward: some layers have the new tokens, others do not."""
    base = bases("llama")
    text = [5 + 7 * i % 250 for i in range(30)]
    past = Past(base)
    past.read([past.rest(text[:12])])
    handle = base.model.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        past.read([past.rest(text[:20])])
    handle.remove()
    rest = past.rest(text)
    assert len(rest) == 18
    found = past.read([rest])
    fresh = base.model(input_ids=torch.tensor([text])).logits[:, -1]
    assert (found - fresh).abs().max() <= 2e-5 * fresh.abs().max()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_stream_goes_on_from_the_past(bases: Callable[[str], Base]) -> None:
    base, settings = bases("qwen3, sliding"), Generation(max_tokens=15)
    past, read = Past(base), []
    plain = past.read
    past.read = lambda texts: (read.append(len(texts[0])), plain(texts))[1]  # type: ignore[method-assign]
    _, first = streamed(stream(base, PROMPTS[0], settings, past=past))
    longer = [*PROMPTS[0], *first.tokens, 30, 31, 32]
    read.clear()
    _, second = streamed(stream(base, longer, settings, past=past))
    assert read[0] == 4  # the last token written had not been read, and three are new
    assert second == generate_batch(base, [longer], settings)[0]
