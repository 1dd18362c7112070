"""Files and folders that are whole or not there: temporary name beside the target, fsync, rename.

A killed process can leave a hidden `.NAME.PID-XXXX.tmp` behind; the next file or folder written to NAME sweeps those whose
process is gone.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ctxtune.errors import PlaceError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PLACE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP}


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, which is afterwards either the new file or untouched."""
    tmp = temporary_name(path)
    with storing(path, len(data)):
        _sweep(path)
        try:
            with tmp.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            tmp.replace(path)
        except BaseException:
            tmp.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `final` when the block ends well and is deleted when it does not.

    What `final` held before is replaced; whether that is wanted is the caller's question, before it begins.
    """
    tmp = temporary_name(final)
    with storing(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final)
        tmp.mkdir()
    try:
        yield tmp
        replace_folder(tmp, final)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def replace_folder(tmp: Path, final: Path) -> None:
    """Rename the complete folder `tmp` to `final`; an older `final` steps aside first and is deleted last."""
    with storing(final):
        for path in sorted(tmp.rglob("*")):
            if path.is_file():
                _sync_file(path)
        old = temporary_name(final)
        had_old = final.exists()
        if had_old:
            final.rename(old)
        try:
            tmp.rename(final)
        except BaseException:
            if had_old:
                old.rename(final)
            raise
        _sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def require_room(folder: Path, num_bytes: int, what: str) -> None:
    """Refuse, before any work, what the disk of the user's folder has no room for.

    Raises:
        StorageError: fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise StorageError(
            f"no room on the disk for {what} in {folder}: it takes {num_bytes:,} bytes and {free:,} are free",
            "free some space, or set CTXTUNE_HOME to a folder on another disk",
        )


def check_writable(path: Path) -> None:
    """Refuse, before any work, a place where nothing can be made.

    Raises:
        PlaceError: it says why.
        StorageError: the disk is full.
    """
    with storing(path):
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        probe = temporary_name(parent / path.name)
        probe.touch(exist_ok=False)
        probe.unlink()


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Only one process at a time goes on; the system frees the lock of a killed one."""
    import fcntl

    with storing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def storing(path: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError that names `path`, and the bytes it needs as far as known."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path, num_bytes) from error


def storage_error(error: OSError, path: Path, num_bytes: int | None = None) -> StorageError:
    """The words for a file that could not be written."""
    needs = f" ({num_bytes:,} bytes)" if num_bytes is not None else ""
    if error.errno in NO_ROOM:
        return StorageError(f"no room on the disk for {path}{needs}", "free some space, or write to another disk")
    reason = error.strerror or type(error).__name__
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return PlaceError(f"{path} may not be written: {reason}", "choose a folder that you may write to")
    if error.errno in _NO_PLACE:
        return PlaceError(f"{path} cannot be written: {reason}", "choose another place")
    return StorageError(f"{path} cannot be written{needs}: {reason}")


def temporary_name(path: Path) -> Path:
    """A new hidden name in the same folder, so that the rename never crosses disks; it holds the process id."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _sweep(final: Path) -> None:
    """Delete what killed processes left of their attempts to write `final`."""
    for path in final.parent.glob(f".{_literal(final.name)}.*-*.tmp"):
        pid = path.name.removeprefix(f".{final.name}.").partition("-")[0]
        if pid.isdecimal() and not alive(int(pid)):
            remove(path)


def remove(path: Path) -> None:
    """Delete a file or a folder, as far as that can be done."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def alive(pid: int) -> bool:
    """Whether a process of that number is running."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EBADF}:
            raise
    finally:
        os.close(handle)
