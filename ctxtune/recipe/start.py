"""What a learned prompt starts from, as it is written: one of the names, or `text:` and the words."""

NAMES = ("auto", "fewshot", "prompt", "labels", "vocab", "zero")
TEXT = "text:"


def start_of(init: str) -> str:
    """The same, checked.

    Raises:
        ValueError: it is none of these.
    """
    if init in NAMES or words_of(init):
        return init
    raise ValueError(f"{init!r} is no start: write {', '.join(NAMES)}, or text: and the words")


def words_of(init: str) -> str | None:
    """The words of a start from a text."""
    return init.removeprefix(TEXT).strip() if init.startswith(TEXT) else None


def check_goes(init: str, kind: str) -> None:
    """Refuse a start that virtual tokens of some kind cannot have.

    Raises:
        ValueError: it is such a one.
    """
    if (kind, init) == ("ptuning", "zero"):
        raise ValueError("ptuning adds to what it starts from, init zero is nothing")
    if init == ("fewshot" if kind == "suffix" else "prompt"):
        raise ValueError(f"init {init} does not go with kind {kind}: demonstrations stand before what is asked")
