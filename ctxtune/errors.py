"""Every error a user can meet, one tree, caught once at the edge (`cli/main.py`).

    CtxtuneError            1  something this page has no better word for
    +-- RecipeError         2  a recipe, an option or a value is wrong
    +-- ModelError          3  the base model is missing, broken or not supported
    |   +-- AdapterError    3  the adapter is broken or belongs to another base
    +-- DataError           4  a row of the user's data is wrong
    +-- OutOfMemoryError    5  every fallback was tried
    +-- LostError           1  another process of the same run is gone
    +-- StorageError        1  the disk is full or a file cannot be written
    |   +-- PlaceError      2  a place that was named cannot be used: another name helps
    +-- Interrupted       130  SIGINT or SIGTERM; a checkpoint was written if a run had begun

A message is one line without a full stop. It names the file, the line, the key and the value as far as they are known;
`hint` says what to do next.
"""

from __future__ import annotations


class CtxtuneError(Exception):
    """The root: `exit_code` is what the process returns, `hint` what the user may do."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class RecipeError(CtxtuneError):
    """A recipe key, an option or a value is wrong."""

    exit_code = 2


class ModelError(CtxtuneError):
    """The base model is missing, broken or of an unsupported family."""

    exit_code = 3


class AdapterError(ModelError):
    """An adapter file is broken, or belongs to another base."""


class DataError(CtxtuneError):
    """A data file or one of its rows is wrong."""

    exit_code = 4


class OutOfMemoryError(CtxtuneError):
    """Memory ran out after every fallback."""

    exit_code = 5


class LostError(CtxtuneError):
    """Another process of the same run is gone."""


class StorageError(CtxtuneError):
    """A file cannot be written: no room, or the disk fails."""


class PlaceError(StorageError):
    """A place that was named cannot be used: no permission, something else lies there, or somebody else is writing there."""

    exit_code = 2


class Interrupted(CtxtuneError):
    """SIGINT or SIGTERM arrived."""

    exit_code = 130
