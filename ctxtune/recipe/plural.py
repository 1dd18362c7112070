"""A count with its noun: 1 row, 2,000 rows."""


def counted(count: int, noun: str) -> str:
    """Of nouns whose plural is an s."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
