"""Whatever is typed: one line that says what is wrong, at most one that says what to do, the right exit code, no litter."""

from __future__ import annotations

import json
import os
import shutil
import stat
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEEP = "[" * 100_000
GOOD_ROW = '{"text": "a fine film", "label": "positive"}\n'
DATA = {
    "empty.jsonl": b"",
    "blank.jsonl": b"\n \n\r\n",
    "binary.jsonl": bytes(range(256)) * 8,
    "latin1.jsonl": '{"text": "café", "label": "positive"}\n'.encode("latin-1"),
    "utf16.jsonl": GOOD_ROW.encode("utf-16"),
    "bom.jsonl": b"\xef\xbb\xbf",
    "broken.jsonl": (GOOD_ROW + '{"text": "cut').encode(),
    "list.jsonl": b"[1, 2]\n",
    "number.jsonl": b"7\n",
    "deep.jsonl": DEEP.encode(),
    "digits.jsonl": b'{"text": ' + b"9" * 5000 + b', "label": "positive"}\n',
    "surrogate.jsonl": b'{"text": "\\ud800", "label": "positive"}\n',
    "nan.jsonl": b'{"text": NaN, "label": "positive"}\n',
    "no_field.jsonl": b'{"txt": "a", "label": "positive"}\n',
    "no_choice.jsonl": b'{"text": "a", "label": "neutral"}\n',
    "no_answer.jsonl": b'{"text": "a", "label": ""}\n',
    "null.jsonl": b'{"text": null, "label": "positive"}\n',
    "mixed.jsonl": b'{"text": "a", "label": "positive"}\n{"text": 3, "label": "negative"}\n',
    "long.jsonl": json.dumps({"text": "word " * 500, "label": "positive"}).encode(),
    "nul.jsonl": b'{"text": "a\x00b", "label": "positive"}\n',
    "empty.csv": b"",
    "header.csv": b"text,label\n",
    "twice.csv": b"text,text\na,b\n",
    "ragged.csv": b"text,label\na,positive,c\n",
    "quote.csv": b'text,label\n"a,positive\n',
    "nul.csv": b"text,label\na\x00,positive\n",
    "rows.parquet": b"PAR1",
    "rows.xyz": GOOD_ROW.encode(),
    "rows": GOOD_ROW.encode(),
    "good.jsonl": GOOD_ROW.encode(),
    "电影.jsonl": '{"标题": "好"}\n'.encode(),
}
RECIPES = {
    "empty.yaml": b"",
    "list.yaml": b"- 1\n",
    "word.yaml": b"freeze\n",
    "binary.yaml": bytes(range(256)),
    "tab.yaml": b"ctxtune: 1\n\tmodel: x\n",
    "tag.yaml": b"ctxtune: 1\nmodel: !!python/object/apply:os.system ['touch pwned']\n",
    "twice.yaml": b"ctxtune: 1\nmodel: a\nmodel: b\n",
    "bomb.yaml": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c + 1, c + 1, b",".join([b"*%c" % c] * 9)) for c in range(97, 105)),
    "version.yaml": b"ctxtune: 99\nmodel: a\nmethod: {name: freeze}\n",
    "typo.yaml": b"ctxtune: 1\nmodel: a\nmodle: a\nmethod: {name: freeze}\n",
    "method.yaml": b"ctxtune: 1\nmodel: a\nmethod: {name: frieze}\n",
    "deep.yaml": DEEP.encode(),
    "nan.yaml": b"ctxtune: 1\nmodel: a\nmethod: {name: freeze}\ntrain: {lr: .nan}\n",
    "null.yaml": b"ctxtune: 1\nmodel: null\nmethod: null\n",
}


@pytest.fixture(scope="module")
def mess(model_folders: dict[str, Path], adapted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of everything that one can get wrong."""
    folder = tmp_path_factory.mktemp("mess")
    for name, data in (DATA | RECIPES).items():
        (folder / name).write_bytes(data)
    for name in ("folder.jsonl", "folder.yaml", "folder"):
        (folder / name).mkdir()
    (folder / "a\nb").mkdir()
    (folder / "a\nb" / "recipe.yaml").write_bytes(b"")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("gone/away")
    os.mkfifo(folder / "pipe.jsonl")
    shutil.copytree(model_folders["llama-tied"], folder / "m-no-tokenizer")
    (folder / "m-no-tokenizer" / "tokenizer.json").unlink()
    shutil.copytree(model_folders["llama-tied"], folder / "m-config-list")
    (folder / "m-config-list" / "config.json").write_text("[]")
    shutil.copytree(adapted, folder / "finished")
    return folder


# `adapt`: ctxtune freeze with every option of a run that works; `score` and `write`: eval and generate of a good model.


# What follows overrides: the last of an option counts.
CASES = {
    "adapt --train ''": 2,
    "adapt --train nothing.jsonl": 4,
    "adapt --train empty.jsonl": 4,
    "adapt --train blank.jsonl": 4,
    "adapt --train binary.jsonl": 4,
    "adapt --train latin1.jsonl": 4,
    "adapt --train utf16.jsonl": 4,
    "adapt --train bom.jsonl": 4,
    "adapt --train broken.jsonl": 4,
    "adapt --train list.jsonl": 4,
    "adapt --train number.jsonl": 4,
    "adapt --train deep.jsonl": 4,
    "adapt --train digits.jsonl": 4,
    "adapt --train surrogate.jsonl": 4,
    "adapt --train nan.jsonl": 4,
    "adapt --train no_field.jsonl": 4,
    "adapt --train no_choice.jsonl": 4,
    "adapt --train no_answer.jsonl": 4,
    "adapt --train null.jsonl": 4,
    "adapt --train mixed.jsonl": 4,
    "adapt --train long.jsonl": 4,
    "adapt --train nul.jsonl": 4,
    "adapt --train empty.csv": 4,
    "adapt --train header.csv": 4,
    "adapt --train twice.csv": 4,
    "adapt --train ragged.csv": 4,
    "adapt --train quote.csv": 4,
    "adapt --train nul.csv": 4,
    "adapt --train rows.parquet": 4,
    "adapt --train rows.xyz": 4,
    "adapt --train rows": 4,
    "adapt --train 电影.jsonl": 4,
    "adapt --train folder.jsonl": 4,
    "adapt --train loop.jsonl": 4,
    "adapt --train pipe.jsonl": 4,
    "adapt --train /dev/null": 4,
    "adapt --train /dev/zero": 4,
    "adapt --train -": 4,
    f"adapt --train {'x' * 5000}": 4,
    "adapt --eval nothing.jsonl": 4,
    "adapt --eval -": 2,
    "adapt --set forget.probe=nothing.txt": 4,
    "adapt --set forget.probe=folder": 4,
    "adapt --model ''": 2,
    "adapt --model nothing": 3,
    "adapt --model good.jsonl": 3,
    "adapt --model loop": 3,
    "adapt --model smollm2-135m-instruct-q4": 3,
    "adapt --model smollm2-135m-instruct": 3,
    "adapt --model org/name": 3,
    "adapt --model /dev/null": 3,
    f"adapt --model {'x' * 5000}": 3,
    "adapt --prompt '{{ text'": 2,
    "adapt --prompt '{% for %}'": 2,
    "adapt --prompt '{{ nothing }}'": 4,
    "adapt --prompt '{{ text.__class__.__mro__ }}'": 2,
    "adapt --prompt '{% include \"x\" %}'": 2,
    "adapt --prompt '{{ 1/0 }}'": 4,
    "adapt --prompt '{{ text | nothing }}'": 2,
    "adapt --answer ''": 2,
    "adapt --choices one": 2,
    "adapt --choices ''": 2,
    "adapt --choices a,,b": 2,
    "adapt --choices a,a": 2,
    "adapt --layers ''": 2,
    "adapt --layers nonsense": 2,
    "adapt --layers last:0": 2,
    "adapt --layers last:-1": 2,
    "adapt --layers last:99": 2,
    "adapt --layers 3-1": 2,
    "adapt --layers 2-99": 2,
    "adapt --layers last:1+": 2,
    "adapt --layers last:1.nothing": 2,
    "adapt --layers 'last:１'": 2,
    f"adapt --layers last:{'9' * 5000}": 2,
    "adapt --lr nan": 2,
    "adapt --lr inf": 2,
    "adapt --lr -1": 2,
    "adapt --lr 0": 2,
    "adapt --lr abc": 2,
    "adapt --lr ''": 2,
    "adapt --lr 1e999": 2,
    "adapt --epochs 0": 2,
    "adapt --epochs -1": 2,
    "adapt --epochs nan": 2,
    "adapt --epochs inf": 2,
    "adapt --batch 0": 2,
    "adapt --batch -3": 2,
    "adapt --seed -1": 2,
    "adapt --seed 99999999999999999999999999": 2,
    "adapt --cache never": 2,
    "adapt --device tpu": 2,
    "adapt --device cuda": 3,
    "adapt --set ''": 2,
    "adapt --set =": 2,
    "adapt --set train.lr": 2,
    "adapt --set =1": 2,
    "adapt --set trian.lr=1": 2,
    "adapt --set train=1": 2,
    "adapt --set train.lr.deep=1": 2,
    "adapt --set train.steps=0": 2,
    "adapt --set train.steps=99999999999999999999": 2,
    "adapt --set 'train.steps=[1'": 2,
    "adapt --set train.warmup=2": 2,
    "adapt --set train.schedule=steep": 2,
    "adapt --set data.max_length=100000": 2,
    "adapt --set data.max_length=1": 2,
    "adapt --set data.on_long=burn": 2,
    "adapt --set quant=int3": 2,
    "adapt --set ctxtune=2": 2,
    "adapt --out good.jsonl": 2,
    "adapt --out good.jsonl/below": 2,
    "adapt --out /dev/null": 2,
    "adapt --out /proc/nothing": 2,
    "adapt --out full": 2,
    "adapt --out loop": 2,
    "adapt --out finished": 2,
    f"adapt --out {'x' * 300}": 2,
    "adapt --out finished --resume --layers last:2": 2,
    "freeze": 2,
    "freeze --resume": 2,
    "freeze --resume --out folder": 2,
    "freeze --resume --out nothing": 2,
    "freeze nothing": 2,
    "freeze quikstart": 2,
    "freeze ''": 2,
    "run ''": 2,
    "run nothing.yaml": 2,
    "run empty.yaml": 2,
    "run list.yaml": 2,
    "run word.yaml": 2,
    "run binary.yaml": 2,
    "run tab.yaml": 2,
    "run tag.yaml": 2,
    "run twice.yaml": 2,
    "run bomb.yaml": 2,
    "run version.yaml": 2,
    "run typo.yaml": 2,
    "run method.yaml": 2,
    "run deep.yaml": 2,
    "run nan.yaml": 2,
    "run null.yaml": 2,
    "run folder.yaml": 2,
    "run folder": 2,
    "run loop.yaml": 2,
    "run /dev/null": 2,
    "run good.jsonl": 2,
    "run pipe.jsonl": 2,
    "score --eval ''": 2,
    "score --eval nothing.jsonl": 4,
    "score --eval empty.jsonl": 4,
    "score --eval no_choice.jsonl": 4,
    "score --choices one": 2,
    "score --adapter nothing": 3,
    "score --adapter folder": 3,
    "score --adapter good.jsonl": 3,
    "score --device cuda": 3,
    "eval": 2,
    "eval --model smollm2-135m-instruct-q4": 2,
    f"write '{'word ' * 500}'": 4,
    "write x --adapter nothing": 3,
    "write x --model nothing": 3,
    "write x --model m-no-tokenizer": 3,
    "write x --device tpu": 2,
    "write x --seed 99999999999999999999999999": 2,
    "write x --temperature inf": 2,
    "generate x": 2,
    "adapter show nothing": 3,
    "adapter show ''": 3,
    "adapter show folder": 3,
    "adapter show /dev/null": 3,
    "adapter show pipe.jsonl": 3,
    "adapter show loop": 3,
    "adapter verify finished --model nothing": 3,
    "adapter verify finished --model m-config-list": 3,
    "adapter merge finished --out full": 2,
    "adapter merge finished --out good.jsonl": 2,
    "adapter merge finished --out new --dtype int8": 2,
    "adapter merge finished --out new --model nothing": 3,
    "adapter export finished --out new --to onnx": 2,
    "adapter export finished --out full": 2,
    "adapter export nothing --out new": 3,
    "adapter export finished --out new --rank 3": 2,
    "adapter export finished --out new --model nothing": 2,
    "adapter export finished --out new --to lora --model nothing": 3,
    "adapter export finished --out full --to lora": 2,
    "adapter show finished --model nothing": 2,
    "adapter diff finished nothing": 3,
    "adapter diff folder finished": 3,
    "adapter compose finished --out new": 2,
    "adapter compose finished nothing --out new": 3,
    "adapter compose finished finished --out new": 3,
    "adapter compose finished finished --out new --weights x,1": 2,
    "adapter scale finished --alpha 2 --out new": 2,
    "adapter scale nothing --alpha 0.5 --out new": 3,
    "adapter scale finished --alpha 0.5 --out full": 2,
    "eval --adapter finished --eval good.jsonl --alpha half": 2,
    "eval --eval good.jsonl --alpha 0.5": 2,
    "eval --adapter finished --eval good.jsonl --alpha grid --against base": 2,
    "model show ''": 3,
    "model show nothing": 3,
    "model show good.jsonl": 3,
    "model pull nothing": 3,
    "model pull ''": 3,
    "model pull smollm2-135m-instruct-q4 --from nothing.whl": 3,
    "model pull smollm2-135m-instruct-q4 --from good.jsonl": 3,
    "model pull smollm2-135m-instruct-q4 --from folder": 3,
    "recipe show nothing": 2,
    "recipe show ''": 2,
    "recipe show folder": 2,
    "recipe show binary.yaml": 2,
    "recipe new nothing": 2,
    "recipe new ''": 2,
    "recipe new freeze --out full/mine.txt": 2,
    "recipe new freeze --out folder": 2,
    "recipe new freeze --out good.jsonl/below.yaml": 2,
    "recipe new freeze --out nowhere": 2,
    "recipe check nothing": 2,
    "recipe check typo.yaml": 2,
    "recipe check freeze --set train.lr=": 2,
    "recipe check freeze --set train.lr=-1": 2,
    "recipe check freeze --set method.name=mask": 2,
    "recipe check freeze --set 'data.choices=[negative, 3]'": 2,
    "recipe check freeze --set data.choices=[]": 2,
}


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything in a folder, files with their size and time."""
    entries = {str(path): path.lstat() for path in folder.rglob("*")}
    return {
        path: (0, 0) if stat.S_ISDIR(entry.st_mode) else (entry.st_size, entry.st_mtime_ns)
        for path, entry in entries.items()
    }


@pytest.fixture
def inside(mess: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in the mess; what a command leaves under `new` goes away afterwards."""
    monkeypatch.chdir(mess)
    yield mess
    shutil.rmtree(mess / "new", ignore_errors=True)


@pytest.mark.parametrize("line", CASES, ids=[line[:60] for line in CASES])
def test_a_mistake_is_one_line_and_a_hint(line: str, typed: Callable[[str], Any], inside: Path) -> None:
    before = listing(inside)
    answer = typed(line)
    answer.complaint()
    assert answer.code == CASES[line]
    left = {path for path, _ in listing(inside).items() - before.items()}
    assert not {path for path in left if not path.startswith(str(inside / "new"))}, left


USAGE = (
    "nothing", "frieze", "--nothing", "adapter nothing", "adapter shw", "run", "freeze --nothing", "freeze --epocs 3",
    "freeze a b", "freeze --epochs many", "freeze --epochs ''", "freeze --batch 1.5", "freeze --batch ''",
    "freeze --seed x", "freeze --set", "freeze --resume=yes", "eval --max-tokens 3", "generate --max-tokens 0",
    "generate --temperature nan", "generate --temperature -1", "generate --seed -1", "adapter merge x",
    "adapter show", "adapter show a b", "adapter diff a", "adapter compose a", "adapter export a --out b --rank 0",
    "adapter scale a --out b",
    "cache clear --older-than -1", "cache clear --older-than nan", "model pull",
    "recipe new", "recipe check", "recipe list x", "quickstart x", f"freeze --batch {'9' * 5000}",
)  # fmt: skip


@pytest.mark.parametrize("line", USAGE, ids=[line[:60] for line in USAGE])
def test_a_command_line_that_cannot_be_read_is_one_line_and_a_hint(
    line: str, typed: Callable[[str], Any], inside: Path
) -> None:
    answer = typed(line)
    answer.complaint()
    assert answer.code == 2


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("frieze", "Did you mean 'freeze'"),
        ("quikstart", "Did you mean 'quickstart'"),
        ("adapter mrge", "Did you mean 'merge'"),
        ("recipe shwo freeze", "Did you mean 'show'"),
        ("freeze --epocs 3", "--epochs"),
        ("run quikstart", "did you mean 'quickstart'"),
        ("recipe new freze", "did you mean 'freeze'"),
        ("recipe check typo.yaml", "modle"),
        ("adapt --set trian.lr=1", "'lr' belongs under 'train'"),
        ("adapt --set train.scedule=cosine", "did you mean 'train.schedule'"),
        ("adapt --train god.jsonl", "did you mean good.jsonl"),
        ("adapt --model smolm2-135m-instruct-q4", "did you mean smollm2-135m-instruct-q4"),
        ("adapt --prompt '{{ txt }}'", "did you mean 'text'"),
    ],
)  # fmt: skip
def test_a_slip_of_the_pen_is_answered_with_what_was_meant(
    line: str, meant: str, typed: Callable[[str], Any], inside: Path
) -> None:
    answer = typed(line)
    assert answer.code in (2, 3, 4)
    assert meant in answer.err


@pytest.mark.parametrize("line", ["adapt --train no_field.jsonl", "adapt --layers nonsense", "adapt --train -"])
def test_a_mistake_leaves_nothing_behind(line: str, typed: Callable[[str], Any], inside: Path) -> None:
    before = listing(inside)
    assert typed(line).code in (2, 4)
    assert listing(inside) == before


@pytest.mark.parametrize(
    "line",
    [
        "recipe new 'a\nb'",
        "recipe check freeze --set 'a\nb=1'",
        "adapter show 'b\na'",
        "model pull 'a\nb'",
        "run '\x1b[31mred'",
        "run 'a\nb'",
        "model show 'a\nb'",
        "adapter show 'a\nb'",
        "adapt --train 'a\nb.jsonl'",
        "adapt --train '\x1b[31mred.jsonl'",
        "adapt --out 'good.jsonl/a\nb'",
    ],
    ids=repr,
)
def test_a_name_that_would_draw_on_the_terminal_is_spelled_out(
    line: str, typed: Callable[[str], Any], inside: Path
) -> None:
    assert "\x1b" not in "".join(typed(line).complaint())


def test_recipe_check_tells_every_mistake(tmp_path: Path, said: Callable[..., Any]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: m\nmethod: {name: freeze}\ntrain:\n  seed: -1\n  batsh: 2\n  lr: 0\n")
    answer = said("recipe", "check", path)
    assert (answer.code, answer.out) == (2, "")
    told = [
        "line 4: train.seed is -1",
        "line 5: unknown key 'train.batsh'; did you mean 'train.batch'?",
        "line 6: train.lr",
    ]
    assert all(
        line.startswith(f"error: {path} {what}") for line, what in zip(answer.err.splitlines(), told, strict=True)
    )
    path.write_text("model: m\nmethod: {name: freeze}\ntrain: {batsh: 2}\n")
    assert len(said("recipe", "check", path).complaint()) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("generate hi --seed 1.5", "--seed is '1.5', it should be a valid integer"),
        ("generate hi --batch 0", "--batch is '0', it should be greater than or equal to 1"),
        ("freeze --epochs many", "--epochs is 'many', it should be a valid number"),
        ("freeze --model m --train x.jsonl --layers foo", "embeddings, head, or auto alone"),
    ],
)
def test_a_value_that_was_refused_is_named(line: str, message: str, said: Callable[..., Any]) -> None:
    assert message in said(*line.split()).complaint()[0]


def test_a_table_without_names_of_columns_has_no_line_for_them() -> None:
    from io import StringIO

    from rich.console import Console

    from ctxtune.cli.console import grid

    page = StringIO()
    Console(file=page, width=40).print(grid("title", ["", ""], [["rows", 3]]))
    assert [line.strip() for line in page.getvalue().splitlines()] == ["title", "", "rows   3", ""]
