"""Ends the processes of dead guests that the embedded driver leaves to whoever adopts orphans.

libvirt's QEMU processes are orphans from their start. Where one dies, libvirt tells of it only once
nothing of the process is left, and that is up to its new parent: systemd sees to it at once, the
init of some containers looks every two seconds. So we adopt them ourselves. A process that ends
leaves its guests to the machine's init again, as before.

Owns that adoption and nothing else. It must not know libvirt, nor let go of a child that this
process started: whoever did may wait for it as late as he likes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from autoscale.threads import OneLoop

_PR_SET_CHILD_SUBREAPER: Final = 36
"""prctl(2): orphans among our descendants become our children."""
LOOK_S: Final = 0.02
"""Between two looks while a dead child is somebody's who has not waited for it yet; doubled each
time, up to"""
LONGEST_LOOK_S: Final = 0.08
IDLE_S: Final = 0.2
"""Between two looks while there is no child at all."""


class Reaper:
    """Of all guests whose process ids stand in a `*.pid` below one of the folders added."""

    def __init__(
        self,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._sleep = sleep
        self._folders: set[Path] = set()
        self._look_s = LOOK_S
        self._loop = OneLoop("reaper", adopt_orphans, self.turn)

    def watch(self, folder: Path) -> None:
        """From now on, on a thread of its own that lives as long as the process."""
        self._folders.add(folder)
        self._loop.start()

    def turn(self) -> None:
        """Wait until a child is dead, and let go of all dead guests, and of it if it is an orphan.

        The kernel names one dead child only, and the same again as long as nobody let go of it: so
        guests are asked for one by one."""
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            self._sleep(IDLE_S)
            return
        let_go = [pid for pid in self._guests() if _let_go(pid)]
        if dead is not None and is_orphan(dead.si_pid) and _let_go(dead.si_pid):
            let_go.append(dead.si_pid)
        if let_go:
            self._look_s = LOOK_S
            return
        self._sleep(self._look_s)
        self._look_s = min(2 * self._look_s, LONGEST_LOOK_S)

    def _guests(self) -> Iterator[int]:
        for folder in tuple(self._folders):
            for path in folder.rglob("*.pid"):
                with contextlib.suppress(OSError, ValueError):  # it is being removed
                    yield int(path.read_text(encoding="ascii"))


def is_orphan(pid: int) -> bool:
    """Whether a child of ours was certainly started by somebody else, as all daemons are. Whom we
    start is in our session, or leads its own; a third one somebody between us has begun."""
    try:
        return os.getsid(pid) not in (os.getsid(0), pid)
    except OSError:
        return False


def _let_go(pid: int) -> bool:
    """Whether it was a dead child."""
    if pid <= 0:  # to the kernel, a whole group
        return False
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def adopt_orphans() -> None:
    """Of all processes that descend from ours. Where the kernel refuses, all stays as it was."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


guests: Final = Reaper()
"""The process has one, whatever the number of its connections."""
