from __future__ import annotations

from typing import Any

import pytest

from ctxtune.data.messages import Conversation, conversation_of
from ctxtune.data.read import Row
from ctxtune.data.render import compile_template
from ctxtune.errors import DataError

ASK = {"role": "user", "content": "What?"}
SAY = {"role": "assistant", "content": "That."}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def read(messages: object, tools: object = None, template: str = "{{ messages }}", **fields: object) -> Conversation:
    row = Row({"messages": messages, "tools": tools, **fields}, "chats.jsonl", 4)
    return conversation_of(
        row, compile_template(template, "data.messages"), compile_template("{{ tools | default(none) }}", "data.tools")
    )


def test_messages_are_taken_as_they_are() -> None:
    named = {**SAY, "name": "bob", "reasoning_content": "so"}
    assert read([ASK, named]) == Conversation((ASK, named))
    assert read([ASK, SAY], [TOOL]).tools == (TOOL,)
    assert read([ASK, SAY], []).tools is None


def test_sharegpt_names() -> None:
    turns = [("system", "Be brief."), ("human", "What?"), ("gpt", "That.")]
    given = [{"from": who, "value": said} for who, said in turns]
    assert read(given).messages == ({"role": "system", "content": "Be brief."}, ASK, SAY)


def test_a_conversation_out_of_other_fields() -> None:
    template = "{{ [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}] }}"
    assert read(None, template=template, question="What?", answer="That.") == Conversation((ASK, SAY))


def test_json_text_as_it_stands_in_tables() -> None:
    assert read('[{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]') == read([ASK, SAY])
    assert read([ASK, SAY], '[{"name": "add"}]').tools == ({"name": "add"},)


def test_nulls_parts_and_arguments_are_put_right() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    given = [
        {**ASK, "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "at?"}], "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "add", "content": "2"},
        {**SAY, "tool_calls": []},
    ]
    asked, called, _, said = read(given).messages
    assert asked == ASK
    assert called["content"] == ""
    assert called["tool_calls"] == [{**call, "function": {"name": "add", "arguments": {"a": 1}}}]
    assert said["content"] == "That."
    assert given[1]["content"] is None  # the row itself stays as it was read


def test_what_a_conversation_knows_of_itself() -> None:
    system = {"role": "system", "content": "Be brief."}
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": {}}]}
    talk = read([system, ASK, call, {"role": "tool", "content": "2"}, SAY, ASK, SAY, ASK], [TOOL])
    assert (talk.head, talk.replies, talk.offered, talk.called(2), talk.called(4)) == (
        1,
        [2, 4, 6],
        ["add"],
        ["add"],
        [],
    )
    assert talk.part(5, 7) == Conversation((system, ASK, SAY), (TOOL,))
    assert talk.part(0, 3).messages == talk.messages[:3]


@pytest.mark.parametrize(
    ("messages", "said", "hint"),
    [
        (None, "chats.jsonl line 4: field 'messages' is null", ""),
        ([], "data.messages is an empty list, not a list of objects", '"role": "user"'),
        (7, "data.messages is int, not a list of objects", ""),
        ({"role": "user"}, "data.messages is dict, not a list", ""),
        ("What?", "data.messages is a text, and not that of a list in JSON", ""),
        ("[" * 100_000, "is a text, and not that of a list in JSON", ""),
        (["What?", "That."], "data.messages[0] is str, not an object", ""),
        ([ASK], "no supervised tokens: the assistant never speaks", ""),
        ([SAY], "the assistant speaks first", "remove that turn"),
        ([ASK, {"role": "assisstant", "content": "a"}], "data.messages[1]: the role 'assisstant'", "mean 'assistant'"),
        ([ASK, {"role": 3, "content": "a"}], "data.messages[1]: the role 3", "roles are system"),
        ([ASK, {"content": "a"}], "data.messages[1]: a message without a role", "roles are"),
        ([ASK, {"from": "bing", "value": "a"}], "data.messages[1]: from 'bing'", "known are human, gpt"),
        ([ASK, {"role": "assistant", "content": " "}], "data.messages[1]: the assistant says nothing", "fill it in"),
        ([ASK, {"role": "assistant"}], "data.messages[1]: the assistant says nothing", ""),
        ([ASK, {"role": "assistant", "content": 4}], "data.messages[1]: the content is no text", ""),
        ([{"role": "user", "content": [{"type": "image"}]}, SAY], "data.messages[0]: the content is no text", "images"),
        ([ASK, {**SAY, "tool_calls": "x"}], "data.messages[1] is a text, and not that of a list", ""),
        ([ASK, {**SAY, "tool_calls": [{"function": {}}]}], "tool_calls: a call without a name", '"arguments"'),
        ([ASK, {**SAY, "tool_calls": [{"function": []}]}], "tool_calls: a call without a name", ""),
        ([ASK, {**SAY, "tool_calls": [{"name": "a", "arguments": "{"}]}], "the arguments of 'a' are broken JSON", ""),
        ([ASK, SAY] * 501, "1,002 messages are more than 1,000", "cut the conversation"),
    ],
)
def test_wrong_messages_name_the_line(messages: object, said: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        read(messages)
    assert str(caught.value).startswith("chats.jsonl line 4")
    assert said in str(caught.value)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        (7, "data.tools is int, not a list"),
        ([7], "data.tools[0] is int"),
        ([{"type": "function"}], "a tool without a name"),
    ],
)
def test_wrong_tools_name_the_line(tools: Any, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read([ASK, SAY], tools)
    assert str(caught.value).startswith("chats.jsonl line 4")
    assert said in str(caught.value)
