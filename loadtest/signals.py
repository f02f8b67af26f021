"""Unix signals to a running test: SIGINT and SIGTERM end it, SIGUSR1 and SIGUSR2 shift it.

SIGUSR1 enters the next phase in the plan's order, SIGUSR2 the previous one. In the last phase
SIGUSR1 does nothing, in the first SIGUSR2 does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from loadtest.timeline import Cause

log = logging.getLogger(__name__)

TAKEN = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Steerable(Protocol):
    """The part of a running test that signals reach."""

    def step(self, steps: int, cause: Cause) -> bool:
        """Forward or back; False if there is no such phase."""

    def interrupt(self) -> None:
        """Ends soon, with the result so far."""


@contextmanager
def handling(test: Steerable) -> Iterator[None]:
    """Signals reach `test` within; only in the main thread's loop."""
    loop = asyncio.get_running_loop()

    def step(steps: int) -> None:
        if not test.step(steps, "signal"):
            log.warning("no phase to shift to: already in the %s", "last" if steps > 0 else "first")

    loop.add_signal_handler(signal.SIGINT, test.interrupt)
    loop.add_signal_handler(signal.SIGTERM, test.interrupt)
    loop.add_signal_handler(signal.SIGUSR1, step, 1)
    loop.add_signal_handler(signal.SIGUSR2, step, -1)
    try:
        yield
    finally:
        for number in TAKEN:
            loop.remove_signal_handler(number)
