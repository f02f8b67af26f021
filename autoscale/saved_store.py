"""The guests that are saved whole on one host: their files and checksums, and copies made of them.

Owns the folder `HOST/KEY/{guest,sha256}` and what lies beside it meanwhile: `HOST/.KEY` while one
is being written, `HOST/VM.copy` (a FIFO, or a file for a later libvirt) while a copy starts. A
folder without a dot is whole: it came there by a rename. It must not know libvirt.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from autoscale import saved_guest, saved_stream
from autoscale.saved_guest import NewGuest, SavedGuest, UnknownSaveFormat
from autoscale.snapshots import service_of

_GUEST, _SUM = "guest", "sha256"
_Stamp = tuple[int, int, int]


class Damaged(Exception):
    """A saved guest that is not what was saved, or not there; the message says which."""


class SavedStore:
    """One host's. Its calls block, and may come from several threads at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._verified: dict[str, _Stamp] = {}
        self._busy: set[Path] = set()
        self._lock = threading.Lock()

    def keys(self) -> frozenset[str]:
        return frozenset(
            path.parent.name
            for path in self._folder.glob(f"*/{_SUM}")
            if not path.parent.name.startswith(".") and (path.parent / _GUEST).is_file()
        )

    def write(self, key: str, save: Callable[[str], object], wanted: Callable[[], bool]) -> None:
        """Let `save` write to the path it is given, and keep that as its service's only one.

        Raises UnknownSaveFormat, OSError and whatever `save` does; nothing is left of it then, and
        also where it is not `wanted` any more. Those saved before are gone only after it.
        """
        aside = self._folder / f".{key}"
        with self._at_work(aside):
            aside.mkdir(parents=True, mode=0o700)
            guest = aside / _GUEST
            save(str(guest))
            _read(guest)
            (aside / _SUM).write_text(saved_stream.checksum(guest), encoding="ascii")
            if not wanted():
                return
            self.discard(key)
            aside.rename(self._folder / key)
            self._verified[key] = _stamp(self._folder / key / _GUEST)
        for other in self.keys() - {key}:
            if service_of(other) == service_of(key):
                self.discard(other)

    def keep(self, services: Collection[str]) -> None:
        """What is saved for any other service goes."""
        for key in self.keys():
            if service_of(key) not in services:
                self.discard(key)

    def discard(self, key: str) -> None:
        """Gone already is success; copies that are being started of it go on."""
        self._verified.pop(key, None)
        shutil.rmtree(self._folder / key, ignore_errors=True)

    @contextlib.contextmanager
    def copy(self, key: str, new: NewGuest, *, by_fifo: bool) -> Iterator[str]:
        """A path that reads as the guest saved under `key` with another identity, to be restored
        from meanwhile. Raises Damaged, UnknownSaveFormat, OSError."""
        saved = self._folder / key / _GUEST
        path = self._folder / f"{new.name}.copy"
        try:
            self._verify(key, saved)
            guest = _read(saved)
        except OSError as error:
            raise Damaged(f"{saved} cannot be read: {error.strerror}") from error
        head = saved_guest.head(saved_guest.renamed(guest, new))
        with self._at_work(path):
            if by_fifo:
                with saved_stream.Feed(path, head, saved, guest.stream_at):
                    yield str(path)
            else:
                saved_stream.copy(saved, head, path)
                yield str(path)

    def sweep(self) -> None:
        """Remove what a process that was killed had begun."""
        for path in (*self._folder.glob(".*"), *self._folder.glob("*.copy")):
            if path not in self._busy:
                _remove(path)

    def _verify(self, key: str, saved: Path) -> None:
        """Its checksum: once, and again where the file is another one than it was then."""
        stamp = _stamp(saved)
        if self._verified.get(key) == stamp:
            return
        told = (saved.parent / _SUM).read_text(encoding="ascii", errors="replace").strip()
        if saved_stream.checksum(saved) != told:
            raise Damaged(f"{saved} is not what was saved: its checksum is another one")
        self._verified[key] = stamp

    @contextlib.contextmanager
    def _at_work(self, path: Path) -> Iterator[None]:
        """Nothing stands at `path` before and after."""
        with self._lock:
            if path in self._busy:
                raise FileExistsError(f"{path} is being written already")
            self._busy.add(path)
        try:
            _remove(path)
            yield
        finally:
            _remove(path)
            self._busy.discard(path)


def _read(path: Path) -> SavedGuest:
    with path.open("rb") as file:
        fixed = file.read(saved_guest.FIXED_BYTES)
        length = saved_guest.head_bytes(fixed)
        guest = saved_guest.parse(fixed + file.read(length - len(fixed)))
        if os.fstat(file.fileno()).st_size <= guest.stream_at:
            raise UnknownSaveFormat("nothing follows its head")
    return guest


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
