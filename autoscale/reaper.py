"""Ends the processes of dead guests that the embedded driver leaves to whoever adopts orphans.

libvirt's QEMU processes are orphans from their start. Where one dies, libvirt tells of it only once
nothing of the process is left, and that is up to its new parent: systemd sees to it at once, the
init of some containers looks every two seconds. So we adopt them ourselves. A process that ends
leaves its guests to the machine's init again, as before.

Owns that adoption and nothing else. It must not know libvirt.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from autoscale.threads import OneLoop

_PR_SET_CHILD_SUBREAPER: Final = 36
"""prctl(2): orphans among our descendants become our children."""
GRACE_S: Final = 0.5
"""So long a dead child that is no guest may be waited for by whoever started it: libvirt's helpers
and asyncio's are, in an instant. What is left then is an orphan too."""
LOOK_S: Final = 0.02
IDLE_S: Final = 0.2
"""Between two looks while there is no child at all."""


class Reaper:
    """Of all guests whose process ids stand in a `*.pid` below one of the folders added."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._folders: set[Path] = set()
        self._stranger: tuple[int, float] | None = None
        """A dead child that is no guest, and since when it has been seen."""
        self._loop = OneLoop("reaper", adopt_orphans, self.turn)

    def watch(self, folder: Path) -> None:
        """From now on, on a thread of its own that lives as long as the process."""
        self._folders.add(folder)
        self._loop.start()

    def turn(self) -> None:
        """Wait until a child is dead; let go of it if it is a guest, or nobody else does."""
        try:
            # not let go of yet: somebody may be waiting for it
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            self._sleep(IDLE_S)
            return
        if dead is None:
            return
        pid, now = dead.si_pid, self._clock()
        if self._stranger is None or self._stranger[0] != pid:
            self._stranger = pid, now
        if self._is_guest(pid) or now - self._stranger[1] >= GRACE_S:
            self._stranger = None
            with contextlib.suppress(ChildProcessError):  # somebody did wait for it
                os.waitpid(pid, os.WNOHANG)
            return
        self._sleep(LOOK_S)

    def _is_guest(self, pid: int) -> bool:
        words = str(pid)
        for folder in tuple(self._folders):
            for path in folder.rglob("*.pid"):
                with contextlib.suppress(OSError, ValueError):  # it is being removed
                    if path.read_text(encoding="ascii").strip() == words:
                        return True
        return False


def adopt_orphans() -> None:
    """Of all processes that descend from ours. Where the kernel refuses, all stays as it was."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


guests: Final = Reaper()
"""The process has one, whatever the number of its connections."""
