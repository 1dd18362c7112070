"""A conversation: turns by the chat template, answers as from a fresh reading, adapters and settings that change in between."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.adapter.attach import attached
from ctxtune.adapter.read import open_adapter
from ctxtune.backend.decode import generate_batch
from ctxtune.backend.load import load_base
from ctxtune.commands.generate import asks_of_prompts, generate
from ctxtune.commands.session import Session
from ctxtune.errors import AdapterError, CtxtuneError, DataError, ModelError, RecipeError, StorageError
from ctxtune.recipe.written import Generation

from ..conftest import same_tensors, save_chatty

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def chatty(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with room for a conversation, whose tokenizer has a chat template."""
    return save_chatty(model_folders["llama-tied"], tmp_path_factory.mktemp("chatty") / "model", 400)


def flags(model: Path | None, **settings: object) -> dict[str, object]:
    given = {f"generate.{name}": value for name, value in {"max_tokens": 9, **settings}.items()}
    return {"model": str(model) if model else None, "device": "cpu", **given}


def begin(model: Path | None, adapter: Path | None = None, **settings: object) -> Session:
    return Session(flags(model, **settings), adapter, False, lambda text: None)


def fresh(model: Path, text: str, adapter: Path | None = None, **settings: Any) -> str:
    """The answer to a rendered text by a model that has read nothing yet."""
    base = load_base(model, "cpu")
    ids = base.tokenizer(text, add_special_tokens=False)["input_ids"]
    with attached(base.model, open_adapter(adapter)) if adapter else torch.no_grad():
        return generate_batch(base, [ids], Generation(max_tokens=9, **settings))[0].text


def test_turns_are_answered_as_by_a_fresh_model(chatty: Path) -> None:
    session, text = begin(chatty, system="be good"), "<s>be good\n"
    for line in ("hello", "and then?\nyes", "漢字"):
        text += f"<u>{line}\n<a>"
        answer = "".join(session.ask(line))
        assert answer == fresh(chatty, text)
        text += f"{answer}\n"
    assert [turn["role"] for turn in session.turns] == ["user", "assistant"] * 3


def test_a_turn_costs_its_own_tokens(chatty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctxtune.backend.past import Past

    read: list[int] = []
    plain = Past.read
    monkeypatch.setattr(Past, "read", lambda self, texts: (read.append(len(texts[0])), plain(self, texts))[1])
    session = begin(chatty)
    list(session.ask("a long beginning " * 8))
    first = read[0]
    read.clear()
    list(session.ask("go on"))
    # The answer may be split into other tokens when it stands in the conversation: that much is read again.
    assert first > 60
    assert read[0] < 30


def test_an_answer_that_is_broken_off_stays_as_far_as_it_came(chatty: Path) -> None:
    session = begin(chatty, max_tokens=60)
    answer = session.ask("hello")
    begun = next(answer) + next(answer)
    answer.close()
    assert session.turns == [{"role": "user", "content": "hello"}, {"role": "assistant", "content": begun}]
    session.obey("/set max_tokens 9")
    assert "".join(session.ask("more")) == fresh(chatty, f"<u>hello\n<a>{begun}\n<u>more\n<a>")
    session.obey("/reset")
    assert "".join(session.ask("more")) == fresh(chatty, "<u>more\n<a>")


def test_a_conversation_that_has_become_too_long_is_as_it_was(chatty: Path) -> None:
    session = begin(chatty)
    list(session.ask("hello"))
    before = list(session.turns)
    with pytest.raises(DataError, match=r"the conversation has .* tokens, the model reads 400"):
        list(session.ask("x y z " * 200))
    assert session.turns == before
    list(session.ask("fine"))


@pytest.fixture
def adapters(chatty: Path, adapt: Any, tmp_path: Path) -> list[Path]:
    """Two adapters of the model, trained a little."""
    for name, layers in (("one", "last:1"), ("two", "all")):
        adapt(
            out=name, more={"model": str(chatty), "train.lr": 3e-2, "method.layers": layers, "train.seed": len(layers)}
        )
    return [tmp_path / "one", tmp_path / "two"]


def weights(session: Session) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in session.base.model.state_dict().items()}


def test_adapters_are_switched_and_taken_off(
    chatty: Path, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = begin(chatty, chat=True)
    plain = weights(session)
    text = "<u>Review: great\n<a>"
    expected = [fresh(chatty, text, place) for place in (None, *adapters)]
    assert len(set(expected)) == 3
    for _ in range(2):
        for place, answer in zip(("none", *adapters), expected, strict=True):
            session.obey(f"/adapter {place}")
            session.obey("/reset")
            assert "".join(session.ask("Review: great")) == answer
            # In memory now: the file is not read a second time.
    monkeypatch.setattr("ctxtune.adapter.attach.attach", None)
    session.obey(f"/adapter {adapters[0]}")
    assert "(on)" in str(session.obey("/adapter"))
    assert not same_tensors(weights(session), plain)
    session.obey("/adapter none")
    assert same_tensors(weights(session), plain)
    assert len(str(session.obey("/adapter")).splitlines()) == 2


def test_a_switch_in_the_middle_reads_the_conversation_anew(chatty: Path, adapters: list[Path]) -> None:
    session = begin(chatty, chat=True)
    first = "".join(session.ask("hello"))
    session.obey(f"/adapter {adapters[0]}")
    second = "".join(session.ask("more"))
    assert second == fresh(chatty, f"<u>hello\n<a>{first}\n<u>more\n<a>", adapters[0])
    session.obey("/adapter none")
    text = f"<u>hello\n<a>{first}\n<u>more\n<a>{second}\n<u>end\n<a>"
    assert "".join(session.ask("end")) == fresh(chatty, text)


def test_an_adapter_that_was_trained_again_is_read_again(chatty: Path, adapters: list[Path]) -> None:
    session = begin(chatty, adapters[0], chat=True)
    before = "".join(session.ask("Review: great"))
    shutil.rmtree(adapters[0])
    shutil.copytree(adapters[1], adapters[0])
    session.obey("/reset")
    session.obey(f"/adapter {adapters[0]}")
    assert "".join(session.ask("Review: great")) == fresh(chatty, "<u>Review: great\n<a>", adapters[1]) != before


def test_a_wrong_adapter_changes_nothing(
    chatty: Path, adapters: list[Path], model_folders: dict[str, Path], tmp_path: Path, adapt: Any
) -> None:
    adapt("llama-untied", out="other")
    session = begin(chatty, adapters[0])
    before = weights(session)
    for place, said in ((tmp_path / "other", "was made on"), (tmp_path / "nowhere", "no adapter at")):
        with pytest.raises(AdapterError, match=said):
            session.obey(f"/adapter {place}")
    assert same_tensors(weights(session), before)
    assert "(on)" in str(session.obey("/adapter"))


def test_settings(chatty: Path) -> None:
    session = begin(chatty)
    assert session.obey("/set temperature 0.5") == "temperature 0.5"
    assert session.obey("/set top-p 0.9") == "top_p 0.9"
    assert session.obey("/set stop \\n\\n") == r'stop ["\n\n"]'
    assert session.obey('/set stop ["a", "b"]') == 'stop ["a", "b"]'
    assert session.settings == Generation(max_tokens=9, temperature=0.5, top_p=0.9, stop=["a", "b"])
    shown = str(session.obey("/set"))
    assert "temperature 0.5\n" in shown
    assert "chat true" in shown
    for line, said in [
        ("/set temperature hot", "temperature"), ("/set max_tokens 0", "max_tokens"), ("/set temprature 1", "no setting"),
        ("/sett", "no command '/sett'"), ("/", "no command"), ("/save", "no file"), ("/set top_p", "top_p"),
    ]:  # fmt: skip
        with pytest.raises(RecipeError, match=said):
            session.obey(line)
    assert session.settings.temperature == 0.5
    assert session.obey("/quit") is None
    assert "/adapter" in str(session.obey("/help"))


def test_the_system_speaks_and_falls_silent(chatty: Path) -> None:
    session = begin(chatty)
    session.obey("/system be brief")
    assert "".join(session.ask("hi")) == fresh(chatty, "<s>be brief\n<u>hi\n<a>")
    session.obey("/system")
    session.obey("/reset")
    assert "".join(session.ask("hi")) == fresh(chatty, "<u>hi\n<a>")


def test_a_conversation_is_saved_as_a_row_to_learn_from(chatty: Path, tmp_path: Path) -> None:
    session, path = begin(chatty, system="be good"), tmp_path / "chats.jsonl"
    with pytest.raises(RecipeError, match="no conversation"):
        session.obey(f"/save {path}")
    for line in ("hello", "漢字"):
        list(session.ask(line))
        session.obey(f"/save {path}")
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows[1] == [{"role": "system", "content": "be good"}, *session.turns]
    assert rows[0] == rows[1][:3]
    with pytest.raises(StorageError):
        session.obey(f"/save {tmp_path / 'no' / 'where'}")


def test_without_a_template_lines_are_texts(model_folders: dict[str, Path]) -> None:
    model = model_folders["gpt2-tied"]
    session = begin(model)
    assert "each line is a text to continue" in session.greeting()
    for _ in range(2):
        assert "".join(session.ask("It was")) == fresh(model, "It was")
    assert session.turns == []
    with pytest.raises(ModelError, match="no chat template"):
        session.obey("/set chat true")
    with pytest.raises(RecipeError, match="a system's turn"):
        session.obey("/system be good")
    with pytest.raises(ModelError, match="no chat template"):
        begin(model, chat=True)
    with pytest.raises(ModelError, match="fills gaps"):
        begin(model_folders["bert-tied"])


def test_an_adapter_is_used_as_it_was_trained(chatty: Path, adapters: list[Path]) -> None:
    """On plain prompts: its lines are texts, unless a chat is asked for."""
    assert begin(chatty).chat
    session = begin(None, adapters[0])
    assert not session.chat
    session.obey("/set chat true")
    assert session.chat
    session.obey("/adapter none")
    assert session.chat


def one_shot(prompt: str, model: Path | None, adapter: Path | None = None, **settings: object) -> dict[str, Any]:
    (found,) = generate(asks_of_prompts([prompt]), flags(model, **settings), adapter, False, 1, lambda text: None)
    return found


def test_a_prompt_as_a_turn(chatty: Path, model_folders: dict[str, Path]) -> None:
    assert one_shot("hello", chatty, chat=True)["text"] == fresh(chatty, "<u>hello\n<a>")
    assert one_shot("hello", chatty, chat=True, system="x")["text"] == fresh(chatty, "<s>x\n<u>hello\n<a>")
    assert one_shot("hello", chatty)["text"] == fresh(chatty, "<s>hello")  # <s> is BOS here
    with pytest.raises(ModelError, match="no chat template"):
        one_shot("hello", model_folders["gpt2-tied"], chat=True)
    with pytest.raises(RecipeError, match="--system"):
        one_shot("hello", chatty, system="x")


def test_an_adapter_of_chats_chats(chatty: Path, adapt: Any, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "yes"}]} for i in range(8)
    ]
    train = tmp_path / "chats.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    none = {"data.prompt": None, "data.answer": None, "data.choices": None}
    adapt(more={"model": str(chatty), "data.messages": "messages", "method.layers": "all", **none}, train=train)
    run = tmp_path / "run"
    assert one_shot("1?", None, run)["text"] == fresh(chatty, "<u>1?\n<a>", run)
    assert one_shot("1?", None, run, chat=False)["text"] == fresh(chatty, "<s>1?", run)
    assert begin(None, run).chat


def test_no_error_is_unexpected(chatty: Path) -> None:
    session = begin(chatty)
    for line in ("/set seed -1", "/adapter \0", "/save \0", "/set stop [", "/system \ud800", "/set chat maybe"):
        with pytest.raises(CtxtuneError):
            session.obey(line)
        assert isinstance(session.obey("/set"), str)
