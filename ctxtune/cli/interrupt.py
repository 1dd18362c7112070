"""What Ctrl-C does while nothing runs that could tell of it: during the imports, and on the way out."""

import os
import signal


def ends_at_once() -> None:
    """From here on Ctrl-C ends the process without a word: nothing was begun, or all is done."""
    if _heard():
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))


def raises() -> None:
    """From here on it is a KeyboardInterrupt."""
    if _heard():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _heard() -> bool:
    """Not under nohup, nor where a script has put the command into the background."""
    return signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
