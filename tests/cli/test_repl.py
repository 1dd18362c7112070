"""The conversation on a real terminal, and on what only looks like one."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from ..conftest import save_chatty
from .conftest import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def chatty(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chatty(model_folders["llama-tied"], tmp_path_factory.mktemp("chatty") / "model", 100_000)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *args: str | Path) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", LEADER, *map(str, args)], stdin=slave, stdout=slave, stderr=slave,
            env=environment() | {"TERM": "dumb"}, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str, seconds: float = 150) -> str:
        """Everything up to `text`, which then has been read."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
                except OSError:  # the other end was closed
                    break
        before, found, self.seen = self.seen.partition(text)
        assert found, before
        return before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


# A new session has no terminal until its leader takes one: then Ctrl-C reaches it.
LEADER = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from ctxtune.cli.main import run
sys.argv[0] = "ctxtune"
run()
"""


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    begun: list[Terminal] = []

    def start(*args: str | Path) -> Terminal:
        begun.append(Terminal(*args))
        return begun[-1]

    yield start
    for one in begun:
        one.close()


def test_a_conversation_on_a_terminal(chatty: Path, tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    talk = terminal("generate", "--model", chatty, "--max-tokens", "5", "--device", "cpu")
    assert "a chat; /help" in talk.wait_for("> ")
    talk.type("hello\n")
    talk.wait_for("> ")
    talk.type("two \\\n")
    talk.wait_for(". ")
    talk.type("lines\n")
    talk.wait_for("> ")
    # Ctrl-C stops the answer, not the command, and what was said stays.
    talk.type("/set max_tokens 50000\n")
    talk.wait_for("> ")
    talk.type("go\n")
    talk.wait_for("go\r\n")
    time.sleep(1)
    talk.type("\x03")
    talk.wait_for("> ")
    talk.type("/nothing\n")
    assert "no command '/nothing'" in talk.wait_for("> ")
    # Ctrl-C drops a line; Ctrl-D leaves.
    talk.type("never sent")
    talk.wait_for("never sent")  # the line editor has it: before that, the terminal itself would drop it
    time.sleep(0.5)
    talk.type("\x03")
    talk.wait_for("> ")
    talk.type(f"/save {tmp_path / 'chats.jsonl'}\n")
    talk.wait_for("> ")
    talk.type("\x04")
    assert talk.process.wait(60) == 0
    turns = json.loads((tmp_path / "chats.jsonl").read_text())["messages"]
    assert [turn["content"] for turn in turns[::2]] == ["hello", "two \nlines", "go"]
    assert len(turns) == 6


def test_a_stream_on_a_terminal_is_the_text(
    chatty: Path, terminal: Callable[..., Terminal], said: Callable[..., Any]
) -> None:
    args = ["generate", "Review: great", "--model", chatty, "--max-tokens", "12", "--device", "cpu"]
    piped = said(*args, "--no-stream").out
    assert said(*args, "--stream").out == piped
    on_terminal = said(*args, terminal=True).out
    plain = "".join(c if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160) else f"\\x{ord(c):02x}" for c in piped)
    assert on_terminal == plain


def test_a_pipe_is_no_conversation(chatty: Path, said: Callable[..., Any]) -> None:
    answer = said("generate", "--model", chatty, "--json", terminal=True)
    assert answer.code == 4
    assert "no prompt" in answer.err


@pytest.mark.parametrize(("args", "code"), [
    (["x", "--jsonl"], 2), (["--stream"], 2), (["x", "--stream", "--json"], 2), (["x", "--system", "y"], 2),
    (["x", "--batch", "0"], 2), (["x", "--stop", ""], 2),
], ids=str)  # fmt: skip
def test_options_that_contradict_each_other(args: list[str], code: int, chatty: Path, said: Callable[..., Any]) -> None:
    answer = said("generate", *args, "--model", chatty)
    answer.complaint()
    assert answer.code == code


def test_rows_in_rows_out(chatty: Path, said: Callable[..., Any]) -> None:
    rows = [{"id": i, "prompt": "great " * (i % 4) + "x"} for i in range(9)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    args = ["generate", "--model", chatty, "--jsonl", "--max-tokens", "6", "--temperature", "1", "--seed", "3"]
    answers = [said(*args, "--batch", batch, stdin=data) for batch in ("1", "4", "32")]
    assert answers[0].out == answers[1].out == answers[2].out
    found = [json.loads(line) for line in answers[0].out.splitlines()]
    assert [{key: one[key] for key in ("id", "prompt")} for one in found] == rows
    assert "tokens/s" in answers[0].err
    broken = said(*args, stdin=data + b"{\n")
    assert broken.code == 4
    assert "stdin line 10" in broken.err
    assert broken.out == answers[0].out
