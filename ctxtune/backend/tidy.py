"""What a process that never ends has to give back: objects that hold each other, and free pages between those in use.

A run has its end before Python would look for such objects (the command line has it look seldom), and the C library keeps what
was freed: pieces of other sizes come to lie between. 20,000 questions to a model of a megabyte took 60 MB in that way.
"""

from __future__ import annotations

import ctypes
import functools
import gc
from typing import Any


def settle() -> None:
    """What is there now stays: it is not looked at again."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Free what only holds itself, and return free pages to the system, where its C library can (glibc)."""
    gc.collect()
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
