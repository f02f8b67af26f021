"""Counts the QEMU processes of a home, over and over: how many there were at most, and what they
held.

It only looks at /proc: it sees what libvirt has forgotten.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.machine import qemus

_NAME = re.compile(rb"guest=([^,\0]+)")
_PORT = re.compile(rb"hostfwd=tcp:([0-9.]+):([0-9]+)-")
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Guest:
    """One QEMU process."""

    pid: int
    vm: str
    addresses: tuple[str, ...]
    """Where it listens for the guest."""


def guests(home: Path) -> list[Guest]:
    """Those that run now."""
    found = []
    for pid in qemus(home):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if name := _NAME.search(command):
            ports = _PORT.findall(command)
            listens = tuple(f"{ip.decode()}:{port.decode()}" for ip, port in ports)
            found.append(Guest(pid, name[1].decode(), listens))
    return found


def guest_of(home: Path, vm: str) -> Guest | None:
    """The process that runs this VM."""
    return next((guest for guest in guests(home) if guest.vm == vm), None)


class Census(threading.Thread):
    """Looks until it is told to end."""

    def __init__(self, home: Path) -> None:
        super().__init__(name="census", daemon=True)
        self._home = home
        self._over = threading.Event()
        self.most = 0
        """So many were there at once."""
        self.addresses: set[str] = set()
        """Where any of them listened."""

    def run(self) -> None:
        while not self._over.wait(LOOK_S):
            seen = guests(self._home)
            # by name: QEMU forks on its way into the background, and is two for an instant
            self.most = max(self.most, len({guest.vm for guest in seen}))
            self.addresses.update(a for guest in seen for a in guest.addresses)

    @classmethod
    @contextmanager
    def of(cls, home: Path) -> Iterator[Census]:
        census = cls(home)
        census.start()
        try:
            yield census
        finally:
            census._over.set()
            census.join(10)
