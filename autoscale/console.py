"""The guests' console files: one a VM, for the operator when a boot fails.

Owns that folder. It must not know libvirt: QEMU writes the files by itself.
"""

from __future__ import annotations

import os
from pathlib import Path

TAIL_BYTES = 16384


class Consoles:
    """`FOLDER/NAME.log`, made before a VM starts and removed after it ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self, vm: str) -> str:
        """The path QEMU shall write to; its folder exists after this."""
        self._folder.mkdir(parents=True, exist_ok=True)
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
        self._path(vm).unlink(missing_ok=True)

    def _path(self, vm: str) -> Path:
        return self._folder / f"{vm}.log"
