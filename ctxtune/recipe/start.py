"""What a learned prompt starts from, as it is written: one of the names, or `text:` and the words.

On a command line `adapter:` and paths stand for the name `adapter` and the key `method.adapters`.
"""

NAMES = ("auto", "fewshot", "prompt", "labels", "vocab", "zero", "adapter")
TEXT = "text:"
ADAPTER = "adapter:"


def start_of(init: str) -> str:
    """The same, checked.

    Raises:
        ValueError: it is none of these.
    """
    if init in NAMES or words_of(init):
        return init
    if init.startswith(ADAPTER):
        raise ValueError("write init: adapter, and the paths as a list under adapters")
    raise ValueError(f"{init!r} is no start: write {', '.join(NAMES)}, or text: and the words")


def words_of(init: str) -> str | None:
    """The words of a start from a text."""
    return init.removeprefix(TEXT).strip() if init.startswith(TEXT) else None


def paths_of(init: str | None) -> tuple[str | None, list[str] | None]:
    """The name of a start on a command line, and the adapters that it names, split at commas."""
    if init is None or not init.startswith(ADAPTER):
        return init, None
    return ADAPTER[:-1], [path.strip() for path in init.removeprefix(ADAPTER).split(",")]


def check_goes(init: str, kind: str, adapters: list[str]) -> None:
    """Refuse a start that virtual tokens of some kind cannot have.

    Raises:
        ValueError: it is such a one.
    """
    if (init == "adapter") != bool(adapters):
        raise ValueError(
            "init adapter starts from what adapters lists: name both, on a command line --init adapter:PATH"
        )
    if (kind, init) == ("ptuning", "zero"):
        raise ValueError("ptuning adds to what it starts from, init zero is nothing")
    if (kind, init) == ("suffix", "fewshot"):
        raise ValueError(f"init {init} does not go with kind {kind}: demonstrations stand before what is asked")
    if init == "prompt" and kind != "suffix":
        raise ValueError(f"init {init} does not go with kind {kind}: the end of what is asked is where a suffix starts")


def check_before_text(init: str, kind: str, distill_from: str | None) -> None:
    """Refuse virtual tokens that running text has no place for, or that start from what it does not have.

    Raises:
        ValueError: they are such ones.
    """
    if kind == "suffix":
        raise ValueError("kind suffix stands between what is asked and its answer, and running text has neither")
    if init in ("fewshot", "labels"):
        raise ValueError(f"init {init} is made of answers, and running text has none")
    if distill_from is not None:
        raise ValueError(f"distill_from {distill_from} teaches answers, and running text has none")
