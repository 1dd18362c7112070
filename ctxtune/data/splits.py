"""Which files of a data set's repository are which split: as its card says, else by their names.

The rules are those of the library `datasets` (data_files.py): names tell a split in `data/train-00000-of-00002.parquet`, else
in folders (`test/a.csv`), else in files (`my-test.csv`); where nothing does, everything is for training. What names two splits
belongs to the first of train, validation and test: the library takes it for both, and scores rows that were learned from. A
branch that the hub has converted to parquet holds `config/split/0000.parquet`.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.data.format import format_of
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Splits = dict[str, list[str]]
"""split -> the files that it consists of, in order"""

WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SHARDED = re.compile(r"data/(\w[\w.-]*?)-\d{5}-of-\d{5}[^/]*", re.ASCII)
LABEL = re.compile(r"\w[\w.-]{0,95}", re.ASCII)
MOST_PATTERN = 256


def configurations(card: Mapping[str, Any], names: Sequence[str]) -> dict[str, Splits]:
    """Configuration -> its splits, for a repository of these files whose card says so much.

    Raises:
        DataError: the card's `configs` are not what they should be.
    """
    listed = card.get("configs")
    if not listed:
        return {"default": by_name([name for name in names if is_data(name)])}
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise DataError("the card's `configs` is no list of configurations")
    return {_label(one.get("config_name", "default")): _configured(one, names) for one in listed}


def converted(names: Iterable[str]) -> dict[str, Splits]:
    """The same of a branch that the hub has converted: `config/split/0000.parquet`."""
    found: dict[str, Splits] = {}
    for name in sorted(names):
        config, _, rest = name.partition("/")
        split, _, last = rest.partition("/")
        if last.endswith(".parquet"):
            found.setdefault(_label(config), {}).setdefault(_label(split), []).append(name)
    return found


def by_name(names: Iterable[str]) -> Splits:
    """The splits that the names of files tell, where none tells anything: all of them are for training."""
    ordered = sorted(names)
    found: Splits = {}
    for tell in (_sharded, _in_folder, _in_file):
        for name in ordered:
            if (split := tell(name)) is not None:
                found.setdefault(split, []).append(name)
        if found:
            return found
    return {"train": ordered} if ordered else {}


def is_data(name: str) -> bool:
    """Whether a file of a repository is one that is read; what begins with a dot or an underscore is hidden."""
    if any(part.startswith((".", "_")) for part in name.split("/")) or name == "dataset_infos.json":
        return False
    try:
        format_of(Path(name))
    except DataError:
        return name.endswith(".arrow")
    return not name.rpartition("/")[2].startswith(("README", "LICENSE", "requirements"))


def _sharded(name: str) -> str | None:
    match = SHARDED.fullmatch(name)
    return match[1] if match else None


def _in_folder(name: str) -> str | None:
    return _told(name.split("/")[:-1])


def _in_file(name: str) -> str | None:
    return _told([name.rpartition("/")[2]])


def _told(parts: Iterable[str]) -> str | None:
    """The split whose word stands in one of the parts by itself: between letters it is a piece of another word."""
    for split, words in WORDS.items():
        for part in parts:
            if any(word in words for word in re.split(r"[-._ 0-9]+", part)):
                return split
    return None


def _configured(one: Mapping[str, Any], names: Sequence[str]) -> Splits:
    """The splits of one entry of the card's `configs`."""
    below = one.get("data_dir")
    if below is not None and not isinstance(below, str):
        raise DataError("a `data_dir` of the card is no text")
    prefix = f"{below.strip('/')}/" if below else ""
    inside = [name for name in names if name.startswith(prefix)]
    said = one.get("data_files")
    if said is None:
        return by_name(name for name in inside if is_data(name))
    found: Splits = {}
    for split, patterns in _patterns(said):
        for pattern in patterns:
            matching = sorted(name for name in inside if matches(name, prefix + pattern))
            found.setdefault(_label(split), []).extend(matching)
    return {split: list(dict.fromkeys(some)) for split, some in found.items()}


def _patterns(said: Any) -> Iterator[tuple[Any, list[str]]]:
    """(split, patterns) of what `data_files` may be: a pattern, a list of them, or each with its split."""
    if isinstance(said, dict):
        said = [{"split": split, "path": path} for split, path in said.items()]
    for one in said if isinstance(said, list) else [said]:
        split, path = (one.get("split"), one.get("path")) if isinstance(one, dict) else ("train", one)
        patterns = path if isinstance(path, list) else [path]
        texts = [str(pattern) for pattern in patterns if isinstance(pattern, str) and len(pattern) <= MOST_PATTERN]
        if len(texts) < len(patterns):
            raise DataError("a `data_files` of the card is no pattern of names")
        yield split, [text.removeprefix("./") for text in texts]


def matches(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern, folder by folder; `**` stands for any number of them."""
    parts = name.split("/")
    reached = {0}  # how many folders of the name the pattern may have used up so far
    for piece in pattern.split("/"):
        if piece == "**":
            reached = set(range(min(reached), len(parts) + 1)) if reached else set()
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatchcase(parts[at], piece)}
    return len(parts) in reached


def _label(text: Any) -> str:
    """The name of a configuration or a split, which becomes the name of a folder."""
    if not isinstance(text, str) or LABEL.fullmatch(text) is None or ".." in text:
        raise DataError(f"{str(text)[:100]!r} is no name of a configuration or a split")
    return text
