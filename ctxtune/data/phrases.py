"""A text in words is changed phrase by phrase, as GrIPS does it (Prasad et al. 2022): delete, swap, add back.

Phrases end at punctuation and begin at small words that join: no parser is asked, and no model that paraphrases. The white
space at the end of the text stays: it parts the text from what follows.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

_JOINTS = "and|or|but|if|that|which|who|whose|whether|because|with|of|for|as|in|to"
_ENDS = re.compile(
    rf"(?<=[.,;:!?。，；：？！、])\s+|(?<=[。，；：？！、])(?=\S)|\s+(?=(?:{_JOINTS})\b)|\n+", re.IGNORECASE
)


def phrases(text: str) -> list[str]:
    """The phrases of a text, in their order, without the white space between them."""
    return [part for part in _ENDS.split(text.strip()) if part]


def edited(text: str, gone: tuple[str, ...], chance: Random) -> tuple[str, tuple[str, ...]]:
    """The text after one edit drawn by lot, and the phrases that are `gone` from it since the search began.

    delete   one phrase goes
    swap     two phrases change places
    add      a phrase that is gone stands again, anywhere

    The last phrase stays. What has one, or none, is left as it is, if nothing is gone.
    """
    parts = phrases(text)
    kinds = ["delete", "swap"] * (len(parts) > 1) + ["add"] * bool(gone)
    if not kinds:
        return text, gone
    kind = chance.choice(kinds)
    if kind == "delete":
        gone = (*gone, parts.pop(chance.randrange(len(parts))))
    elif kind == "swap":
        one, other = chance.sample(range(len(parts)), 2)
        parts[one], parts[other] = parts[other], parts[one]
    else:
        place = chance.randrange(len(gone))
        parts.insert(chance.randrange(len(parts) + 1), gone[place])
        gone = gone[:place] + gone[place + 1 :]
    return " ".join(parts) + text[len(text.rstrip()) :], gone
