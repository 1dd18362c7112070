"""Conversations as tokens: by hand in the styles of known families, and against the marks of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.data.chat import ChatSpec, encode_asked, encode_chats, require_template, template_hash
from ctxtune.data.messages import Conversation
from ctxtune.data.read import Row
from ctxtune.data.render import compile_template
from ctxtune.errors import DataError, ModelError

from .chats import CHATML, GEMMA, LLAMA3, QWEN, chat_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from ctxtune.data.encode import Encoded

STYLES = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "qwen": QWEN}
LONG = 1 << 20


def turns(*said: str, system: str | None = None) -> list[dict[str, Any]]:
    """A user and an assistant in turn."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, *({"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said))]


def rows_of(*conversations: list[dict[str, Any]], tools: Any = None) -> list[Row]:
    return [Row({"messages": one, "tools": tools}, "chats.jsonl", i) for i, one in enumerate(conversations, 1)]


def spec_of(tokenizer: Any, **changes: Any) -> ChatSpec:
    values: dict[str, Any] = {
        "tokenizer": tokenizer,
        "messages": compile_template("{{ messages }}", "data.messages"),
        "tools": compile_template("{{ tools | default(none) }}", "data.tools"),
        "learn": "all",
        "max_length": LONG,
    }
    return ChatSpec(**{**values, **changes})


def learned(tokenizer: PreTrainedTokenizerFast, one: Encoded) -> list[str]:
    """The runs of learned tokens as texts."""
    runs: list[list[int]] = []
    for place, (row, label) in enumerate(zip(one.rows, one.labels, strict=True)):
        if place and row == one.rows[place - 1] + 1:
            runs[-1].append(label)
        else:
            runs.append([label])
    return [tokenizer.decode(run) for run in runs]


def whole(tokenizer: PreTrainedTokenizerFast, one: Encoded) -> str:
    """All that is fed, and the last label."""
    return str(tokenizer.decode([*one.ids, one.labels[-1]]))


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return {name: chat_tokenizer(template) for name, template in STYLES.items()}


TALK = turns("What was it?", "It was great.", "And the dog? ", "  lazy, as the fox", system="Be brief.")


@pytest.mark.parametrize(
    ("style", "text", "said"),
    [
        (
            "chatml",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat was it?<|im_end|>\n<|im_start|>assistant\n"
            "It was great.<|im_end|>\n<|im_start|>user\nAnd the dog? <|im_end|>\n<|im_start|>assistant\n"
            "  lazy, as the fox<|im_end|>",
            ["It was great.<|im_end|>", "  lazy, as the fox<|im_end|>"],
        ),
        (
            "llama3",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nWhat was it?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nIt was great.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nAnd the dog?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nlazy, as the fox<|eot_id|>",
            ["It was great.<|eot_id|>", "lazy, as the fox<|eot_id|>"],
        ),
        (
            "gemma",
            "<s><start_of_turn>user\nBe brief.\n\nWhat was it?<end_of_turn>\n<start_of_turn>model\nIt was great.<end_of_turn>\n"
            "<start_of_turn>user\nAnd the dog?<end_of_turn>\n<start_of_turn>model\nlazy, as the fox<end_of_turn>",
            ["It was great.<end_of_turn>", "lazy, as the fox<end_of_turn>"],
        ),
    ],
)
def test_families_by_hand(style: str, text: str, said: list[str], tokenizers: Any) -> None:
    tokenizer = tokenizers[style]
    done = encode_chats(rows_of(TALK), spec_of(tokenizer))
    (one,) = done.examples
    assert whole(tokenizer, one) == text
    assert learned(tokenizer, one) == said
    last = encode_chats(rows_of(TALK), spec_of(tokenizer, learn="last")).examples
    assert [learned(tokenizer, one) for one in last] == [said[-1:]]
    assert last[0].ids == one.ids
    assert (done.dropped, done.truncated, done.split) == (0, 0, 0)


CONVERSATIONS = [
    turns("a", "b"),
    TALK,
    turns("the quick", "brown fox\n\njumps", "over", "schön 😀 日本 ", "", "dog", system="x"),
    [*turns("a", "b", "c", "d"), {"role": "user", "content": "nobody answers"}],
    turns("<|im_end|>", "it was <|im_start|> good"),
]


@pytest.mark.parametrize("style", ["chatml", "llama3", "gemma"])
def test_the_mask_is_that_of_transformers(style: str, tokenizers: Any) -> None:
    """Where a template marks what the assistant says, its marks and the steps agree."""
    tokenizer = tokenizers[style]
    done = encode_chats(rows_of(*CONVERSATIONS), spec_of(tokenizer))
    for messages, one in zip(CONVERSATIONS, done.examples, strict=True):
        made = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
        places = [i for i, mark in enumerate(made["assistant_masks"]) if mark]
        assert [row + 1 for row in one.rows] == places
        assert list(one.labels) == [made["input_ids"][i] for i in places]
        assert list(one.ids) == made["input_ids"][: places[-1]]


@pytest.mark.parametrize("style", STYLES)
def test_what_is_learned_follows_what_is_read_in_use(style: str, tokenizers: Any) -> None:
    """The tokens before a reply are those of the prompt that `generate` will have, and the reply ends its turn."""
    tokenizer = tokenizers[style]
    for messages in CONVERSATIONS[:2]:
        (one,) = encode_chats(rows_of(messages), spec_of(tokenizer, learn="last")).examples
        asked = tuple(messages[: max(i for i, m in enumerate(messages) if m["role"] == "assistant")])
        prompt = encode_asked(tokenizer, Conversation(asked), "here")
        assert list(one.ids[: one.rows[0] + 1]) == prompt
        assert prompt == tokenizer.apply_chat_template(list(asked), add_generation_prompt=True, return_dict=False)
        assert one.labels[-1] in {
            tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
        }


THOUGHT = turns("a", "<think>\nso\n</think>\n\nb", "c", "<think>\nthus\n</think>\n\nd")


def test_a_template_that_rewrites_earlier_turns(tokenizers: Any) -> None:
    """Each reply stands behind the words that the model will have before it: without what was thought earlier."""
    tokenizer = tokenizers["qwen"]
    done = encode_chats(rows_of(THOUGHT, turns("a", "b", "c", "d")), spec_of(tokenizer))
    first, second, third = done.examples
    start, end = "<|im_start|>assistant\n", "<|im_end|>"
    assert whole(tokenizer, first) == f"<|im_start|>user\na{end}\n{start}<think>\nso\n</think>\n\nb{end}"
    assert learned(tokenizer, first) == [f"<think>\nso\n</think>\n\nb{end}"]
    asked = f"<|im_start|>user\na{end}\n{start}b{end}\n<|im_start|>user\nc{end}\n{start}"
    assert whole(tokenizer, second) == f"{asked}<think>\nthus\n</think>\n\nd{end}"
    assert learned(tokenizer, second) == [f"<think>\nthus\n</think>\n\nd{end}"]
    assert learned(tokenizer, third) == [f"b{end}", f"d{end}"]
    assert [row.line for row in done.row_of] == [1, 1, 2]
    assert (done.split, done.supervised_tokens) == (1, sum(len(one.labels) for one in done.examples))


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]}
CALLED = [
    {"role": "user", "content": "1 + 1?"}, CALL, {"role": "tool", "content": "2"}, {"role": "tool", "content": "two"},
    {"role": "assistant", "content": "It is 2."},
]  # fmt: skip


def test_tools_are_offered_called_and_answered(tokenizers: Any) -> None:
    tokenizer = tokenizers["qwen"]
    (one,) = encode_chats(rows_of(CALLED, tools=TOOLS), spec_of(tokenizer)).examples
    assert whole(tokenizer, one) == (
        '<|im_start|>system\n# Tools\n{"type": "function", "function": {"name": "add", "parameters": {}}}\n<|im_end|>\n'
        "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response>\n<tool_response>\ntwo\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nIt is 2.<|im_end|>"
    )
    first, second = learned(tokenizer, one)
    assert first.strip() == '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
    assert second == "It is 2.<|im_end|>"


@pytest.mark.parametrize(
    ("messages", "tools", "said"),
    [(CALLED, None, "leaves out that reply 1 calls 'add'"), (TALK, TOOLS, "leaves out the tool 'add'")],
)
def test_a_template_that_knows_no_tools(messages: Any, tools: Any, said: str, tokenizers: Any) -> None:
    with pytest.raises(DataError) as caught:
        encode_chats(rows_of(messages, tools=tools), spec_of(tokenizers["chatml"]))
    assert str(caught.value) == f"chats.jsonl line 1: the model's chat template {said}"


def talk_of(count: int, words: int = 6) -> list[dict[str, Any]]:
    said = [f"{'question' if i % 2 == 0 else 'answer'} {i}" + " dog" * words for i in range(2 * count)]
    return turns(*said, system="Be brief.")


@pytest.mark.parametrize("style", ["chatml", "llama3"])
@pytest.mark.parametrize("learn", ["all", "last"])
def test_truncation_drops_the_earliest_exchanges(style: str, learn: str, tokenizers: Any) -> None:
    tokenizer = tokenizers[style]
    messages = talk_of(6)
    for kept in range(1, 6):
        shorter = [messages[0], *messages[1 + 2 * (6 - kept) :]]
        (expected,) = encode_chats(rows_of(shorter), spec_of(tokenizer, learn=learn)).examples
        for room in (0, 3):
            spec = spec_of(tokenizer, learn=learn, max_length=len(expected.ids) + room, on_long="truncate")
            done = encode_chats(rows_of(messages), spec)
            assert (done.examples, done.truncated, done.dropped) == ([expected], 1, 0)
    (full,) = encode_chats(rows_of(messages), spec_of(tokenizer, learn=learn)).examples
    spec = spec_of(tokenizer, learn=learn, max_length=len(full.ids), on_long="truncate")
    assert encode_chats(rows_of(messages), spec).truncated == 0


def test_truncation_where_the_template_rewrites(tokenizers: Any) -> None:
    tokenizer = tokenizers["qwen"]
    full = encode_chats(rows_of(THOUGHT), spec_of(tokenizer)).examples
    (short,) = encode_chats(rows_of(THOUGHT[2:]), spec_of(tokenizer)).examples
    limit = max(len(full[0].ids), len(short.ids))
    assert limit < len(full[1].ids)
    done = encode_chats(rows_of(THOUGHT), spec_of(tokenizer, max_length=limit, on_long="truncate"))
    assert (done.examples, done.truncated) == ([full[0], short], 1)


def test_a_tool_and_its_answer_stay_together(tokenizers: Any) -> None:
    tokenizer = tokenizers["qwen"]
    messages = [*turns("long " * 30, "yes"), *CALLED]
    (expected,) = encode_chats(rows_of(CALLED), spec_of(tokenizer)).examples
    for room in (0, 9):
        spec = spec_of(tokenizer, max_length=len(expected.ids) + room, on_long="truncate")
        assert encode_chats(rows_of(messages), spec).examples == [expected]


def test_too_long(tokenizers: Any) -> None:
    tokenizer = tokenizers["chatml"]
    rows = rows_of(turns("a", "b"), talk_of(3), turns("c", "d"))
    sizes = [len(one.ids) for one in encode_chats(rows, spec_of(tokenizer)).examples]
    limit = max(sizes[0], sizes[2])
    with pytest.raises(DataError, match=rf"chats\.jsonl line 2: {sizes[1]} tokens are more than {limit}") as caught:
        encode_chats(rows, spec_of(tokenizer, max_length=limit))
    assert "truncate" in str(caught.value.hint)
    done = encode_chats(rows, spec_of(tokenizer, max_length=limit, on_long="drop"))
    assert ([row.line for row in done.row_of], done.dropped, done.truncated) == ([1, 3], 1, 0)
    (last,) = encode_chats(rows_of([talk_of(3)[0], *talk_of(3)[-2:]]), spec_of(tokenizer)).examples
    said = rf"line 2: its last exchange alone has {len(last.ids)} tokens, more than fit into {limit}"
    with pytest.raises(DataError, match=said):
        encode_chats(rows, spec_of(tokenizer, max_length=limit, on_long="truncate"))
    with pytest.raises(DataError, match="line 1: its last exchange alone has"):
        encode_chats(rows_of(turns("dog " * 50, "b")), spec_of(tokenizer, max_length=limit, on_long="truncate"))


# The prompt ends in words that the finished turn does not have.
FORCED = QWEN.replace(
    "{{ '<|im_start|>assistant\n' }}{% endif %}", "{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
SILENT = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (FORCED, "does not begin reply 1 with the words in which it asks for it"),
        (SILENT, "no supervised tokens: the model's chat template leaves reply 1 out"),
        ("{{ messages[9].content }}", "refuses the conversation: list object has no element 9"),
        ("{{ raise_exception('only pairs\nof turns') }}", "refuses the conversation: only pairs of turns"),
        ("{% for", "refuses the conversation: "),
        ("{{ messages.__class__.__mro__ }}", "refuses the conversation: access to attribute '__class__'"),
        ("{{ 'a' + 1 }}", "refuses the conversation: "),
    ],
)
def test_templates_that_cannot_be_learned_from(template: str, said: str) -> None:
    assert FORCED != QWEN
    with pytest.raises(DataError) as caught:
        encode_chats(rows_of(turns("a", "b")), spec_of(chat_tokenizer(template)))
    assert str(caught.value).startswith("chats.jsonl line 1: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_template_decides_which_turns_there_may_be(tokenizers: Any) -> None:
    twice = [*turns("a"), *turns("b", "c")]
    with pytest.raises(
        DataError, match="line 1: the model's chat template refuses the conversation: Conversation roles"
    ):
        encode_chats(rows_of(twice), spec_of(tokenizers["gemma"]))
    assert len(encode_chats(rows_of(twice), spec_of(tokenizers["chatml"])).examples) == 1


def test_a_turn_without_a_sign_ends_with_its_white_space() -> None:
    tokenizer = chat_tokenizer("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
                               "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")  # fmt: skip
    (one,) = encode_chats(rows_of(turns("a", "the fox", "c", "it was")), spec_of(tokenizer)).examples
    assert whole(tokenizer, one) == "user: a\nassistant: the fox\nuser: c\nassistant: it was\n"
    assert learned(tokenizer, one) == [" the fox\n", " it was\n"]  # a token that lies across the border is learned


def test_a_tokenizer_without_a_template() -> None:
    bare = chat_tokenizer(None)
    with pytest.raises(ModelError, match="the tokenizer has no chat template") as caught:
        require_template(bare)
    assert "data.prompt" in str(caught.value.hint)
    with pytest.raises(ModelError):
        encode_asked(bare, Conversation(()), "here")


def test_the_hash_is_that_of_the_template() -> None:
    one, other = chat_tokenizer(CHATML), chat_tokenizer(LLAMA3)
    assert template_hash(one) == template_hash(chat_tokenizer(CHATML)) != template_hash(other)
