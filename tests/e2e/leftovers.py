"""What a home must not hold once `lbctl up` has ended and retired its VMs: one check for all tests.

Saved guests stay: that is what they are for. It must not clean up anything itself.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from pathlib import Path

from autoscale.embedded import root_folder

SAVED = {"guest", "sha256"}
KEPT_PID = "driver.pid"
"""libvirt never removes its own; it is the lock on it that counts."""


def assert_nothing_left(home: Path, addresses: Collection[str] = ()) -> None:
    """No process, no file half-written or of a VM, nobody who listens at one of these addresses."""
    # with what is left: pytest spells out only what test files assert
    assert not (left := processes(home)), left
    assert not (found := files(home)), found
    assert not (open_ := [at for at in sorted(addresses) if listens(at)]), open_


def processes(home: Path) -> dict[int, str]:
    """Everything that runs for this home: QEMU names it in its command line, lbctl and whatever it
    might start in its environment."""
    found = {}
    # with what follows in either place: another home may begin like this one
    signs = [os.fsencode(home) + end for end in (b"/", b"\0")]
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            told = command + (entry / "environ").read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if any(sign in told for sign in signs):
            found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def files(home: Path) -> list[str]:
    """Those that should be gone, by their path below the home."""
    found = [
        *_all(home / "console"),
        *_all(home / "agent"),
        *(path for path in (home / "disks").rglob("*") if not path.is_dir()),
        *_unfinished(home),
        *_of_saved_guests(home / "saved"),
        *_of_domains(root_folder(home)),
    ]
    return sorted(str(path.relative_to(home)) for path in found)


def _all(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _unfinished(home: Path) -> list[Path]:
    """Drafts beside what they were to replace, a journal that was not closed, the address of a
    process that has ended."""
    signs = (".new", ".tmp", ".draft", ".part", "-wal", "-shm")
    return [
        path
        for path in home.rglob("*")
        if path.name.endswith(signs) or path.name.startswith(".") or path.name == "admin.url"
    ]


def _of_saved_guests(folder: Path) -> list[Path]:
    """What is not a whole saved guest."""
    saved = [path for host in _all(folder) for path in _all(host)]
    return [p for p in saved if not p.is_dir() or {file.name for file in p.iterdir()} != SAVED]


def _of_domains(root: Path) -> list[Path]:
    """What libvirt keeps of domains that run."""
    state, lib = root / "run" / "qemu", root / "lib" / "qemu"
    return [
        *state.glob("*.xml"),
        *(path for path in state.glob("*.pid") if path.name != KEPT_PID),
        *lib.glob("domain-*"),
        *_all(lib / "channel" / "target"),
        *_all(lib / "save"),
        *_all(lib / "ram"),
        *_all(root / "log" / "qemu"),
    ]


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
