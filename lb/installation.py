"""LBCTL_HOME as one installation: its identity, and the lock that lets one process act in it.

Every VM carries the installation's id in its metadata; another installation's VMs are not ours.
Owns `instance` and `lock` in that folder, nothing else there.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Self

from lb.errors import LbError


class HomeInUse(LbError):
    """Another process acts in this LBCTL_HOME."""


class HomeUnusable(LbError):
    """The folder cannot be made or written."""


class Installation:
    """Holds the lock while it is open; the kernel lets go of it when the process dies."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.instance = ""
        self._lock: int | None = None

    def __enter__(self) -> Self:
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._acquire(self._lock)
            self.instance = self._identity()
        except OSError as error:
            self._release()
            raise HomeUnusable(
                f"cannot use {self.home}: {error.strerror}:"
                " set LBCTL_HOME to a folder you can write"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    def _acquire(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            self._release()
            raise HomeInUse(
                f"process {holder or '?'} already serves with {self.home}:"
                " stop it, or set another LBCTL_HOME"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _identity(self) -> str:
        path = self.home / "instance"
        if path.exists():
            known = path.read_text(encoding="ascii").strip()
            if known:
                return known
        fresh = secrets.token_hex(8)
        draft = path.with_suffix(".new")
        draft.write_text(fresh + "\n", encoding="ascii")
        draft.replace(path)
        return fresh
