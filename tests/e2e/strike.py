"""kill -9 of `lbctl up` at an instant of its own story: when the journal says that something
happened, when a file is there, or after a time.

Follows the live events as any client may. What was recorded last may be lost with the process, as
it would be with any crash.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.e2e.machine import Machine

Event = dict[str, Any]

LONGEST_S, LOOK_S = 120.0, 0.01


class Strike:
    """Kills the process of a Machine once. `at` is when, by the monotonic clock, `wall` by the
    other."""

    def __init__(self, up: Machine) -> None:
        assert up.process is not None
        self._pid = up.process.pid
        self._struck = threading.Event()
        self.event: Event | None = None
        """What it was told of last before."""
        self.at = self.wall = 0.0

    def kill(self) -> None:
        self.at, self.wall = time.monotonic(), time.time()
        os.kill(self._pid, signal.SIGKILL)
        self._struck.set()

    def wait(self, seconds: float, otherwise: str) -> None:
        """Until it has struck."""
        assert self._struck.wait(seconds), f"{otherwise} within {seconds:g} s"


class StrikeAt(Strike):
    """At the first event after `since` (None: from now on) that `step` is true of."""

    def __init__(
        self, up: Machine, step: Callable[[Event], bool], since: int | None = None
    ) -> None:
        super().__init__(up)
        self._step = step
        url = (up.home / "admin.url").read_text(encoding="ascii").strip()
        after = "" if since is None else f"?since={since}"
        self._stream = urllib.request.urlopen(
            f"{url}/api/v1/events/stream{after}", timeout=LONGEST_S
        )
        assert self._stream.readline().startswith(b"retry")
        self._thread = threading.Thread(target=self._follow, name="strike", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        with self._stream:
            try:
                for line in self._stream:
                    if line.startswith(b"data: "):
                        event = json.loads(line[6:])
                        if self._step(event):
                            self.event = event
                            self.kill()
                            return
            except OSError:
                return  # the process has ended before


class StrikeOnce(Strike):
    """As soon as `happened` is true of the world outside."""

    def __init__(self, up: Machine, happened: Callable[[], object]) -> None:
        super().__init__(up)
        self._happened = happened
        self._thread = threading.Thread(target=self._look, name="strike", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        until = time.monotonic() + LONGEST_S
        while not self._happened() and time.monotonic() < until:
            time.sleep(LOOK_S)
        if time.monotonic() < until:
            self.kill()


class StrikeAfter(Strike):
    """After so many seconds from now."""

    def __init__(self, up: Machine, seconds: float) -> None:
        super().__init__(up)
        timer = threading.Timer(seconds, self.kill)
        timer.daemon = True
        timer.start()
