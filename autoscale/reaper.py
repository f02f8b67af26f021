"""Ends the processes of dead guests that the embedded driver leaves to whoever adopts orphans.

libvirt's QEMU processes are orphans from their start. Where one dies, libvirt tells of it only once
nothing of the process is left, and that is up to its new parent: systemd sees to it at once, the
init of some containers looks every two seconds. So we adopt them ourselves. A process that ends
leaves its guests to the machine's init again, as before.

Owns that adoption and nothing else. It must not know libvirt, nor let go of a child that somebody
in this process started and may wait for.
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
GRACE_S: Final = 30.0
"""A dead child that nobody waited for in so long is nobody's: QEMU leaves one as it turns daemon,
who is not told from a child of ours by anything else."""
IDLE_S: Final = 0.2
"""Between two looks while there is no child at all."""


class Reaper:
    """Of all guests whose process ids stand in a `*.pid` below one of the folders added."""

    def __init__(
        self,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._clock = clock
        self._dead_since: dict[int, float] = {}
        self._folders: set[Path] = set()
        self._look_s = LOOK_S
        self._loop = OneLoop("reaper", adopt_orphans, self.turn)

    def watch(self, folder: Path) -> None:
        """From now on, on a thread of its own that lives as long as the process."""
        self._folders.add(folder)
        self._loop.start()

    def turn(self) -> None:
        """Wait until a child is dead, and let go of all dead guests and orphans.

        The kernel names one dead child only, and the same again as long as nobody let go of it: so
        each child is asked. libvirt waits for those behind it: while it looks at what a QEMU can
        do, two of them die, the daemon and who led its session."""
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            self._sleep(IDLE_S)
            return
        # Before anything else: libvirt looks as soon as a QEMU's monitor closes, and the next time
        # a fifth of a second later.
        if dead is not None and is_orphan(dead.si_pid) and _let_go(dead.si_pid):
            self._look_s = LOOK_S
            return
        orphans = (pid for pid in _children() if is_orphan(pid) or self._is_nobodys(pid))
        if [pid for pid in (*self._guests(), *orphans) if _let_go(pid)]:
            self._look_s = LOOK_S
            return
        self._sleep(self._look_s)
        self._look_s = min(2 * self._look_s, LONGEST_LOOK_S)

    def _is_nobodys(self, pid: int) -> bool:
        """Whether it has been dead for long, and nobody waited for it."""
        try:
            dead = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            dead = False
        if not dead:
            self._dead_since.pop(pid, None)
            return False
        return self._clock() - self._dead_since.setdefault(pid, self._clock()) >= GRACE_S

    def _guests(self) -> Iterator[int]:
        for folder in tuple(self._folders):
            for path in folder.rglob("*.pid"):
                with contextlib.suppress(OSError, ValueError):  # it is being removed
                    yield int(path.read_text(encoding="ascii"))


def _children() -> list[int]:
    """Of all our threads, dead ones included."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError):  # the thread has ended
            found += [int(pid) for pid in path.read_text(encoding="ascii").split()]
    return found


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
