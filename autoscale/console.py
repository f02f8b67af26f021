"""The guests' console files: one a VM, for the operator when a boot fails.

Owns that folder, and the end of libvirt's own log of each VM. It must not know libvirt: QEMU writes
the files by itself.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from pathlib import Path

TAIL_BYTES = 16384
_OF_OURS = re.compile(r".+-[0-9a-f]{6}")
"""A VM's name as `fleet` gives it."""


class Consoles:
    """`FOLDER/HOST@VM.log`, made before a VM starts and removed after it ended; with it goes
    `LOGS/VM.log`, libvirt's own of it, which would stay for ever."""

    def __init__(self, folder: Path, host: str, logs: Path | None = None) -> None:
        self._folder = folder
        self._logs = logs
        self._prefix = f"{host}@"
        self._prepared: set[str] = set()

    def prepare(self, vm: str) -> str:
        """The path QEMU shall write to; its folder exists after this."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._prepared.add(vm)
        return str(self._path(vm))

    def tail(self, vm: str, lines: int) -> str:
        """The last lines, empty where there is no file."""
        try:
            with self._path(vm).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.replace("\r", "").splitlines()[-lines:])

    def remove(self, vm: str) -> None:
        self._prepared.discard(vm)
        with contextlib.suppress(OSError):  # a file left over is no reason to fail
            self._path(vm).unlink(missing_ok=True)
            if self._logs is not None:
                (self._logs / f"{vm}.log").unlink(missing_ok=True)

    def sweep(self, there: Collection[str]) -> None:
        """Remove the files of those that are neither there nor being started by this process."""
        for path in list(self._folder.glob("*.log")):
            host, _, vm = path.stem.rpartition("@")
            if f"{host}@" == self._prefix and vm not in there and vm not in self._prepared:
                self.remove(vm)
        # libvirt's own of an earlier release's VMs, which let them lie
        for path in list(self._logs.glob("*.log")) if self._logs is not None else ():
            if _OF_OURS.fullmatch(path.stem) and path.stem not in {*there, *self._prepared}:
                self.remove(path.stem)

    def _path(self, vm: str) -> Path:
        return self._folder / f"{self._prefix}{vm}.log"
