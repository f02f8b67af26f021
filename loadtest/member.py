"""A worker process of a crew: runs its share of the test as it is told through a pipe.

Owns the process's own side: what it ignores, what it reports, and that it ends with its crew. Only
values go through the pipe. To it: `Begin`, then any number of `Do`. From it: "ready", a `Report`
each second, and at the end its `Result`, or the line of an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection as Pipe
from typing import Literal

from loadtest.connect import Address
from loadtest.engine import LoadTest, Order
from loadtest.errors import ShiftError
from loadtest.priority import take_realtime
from loadtest.result import Result, Second
from loadtest.signals import TAKEN
from loadtest.target import Settings
from loadtest.timeline import Cause, Share
from loadtest.worker import prepare_process, uvloop_runner

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Begin:
    """The start, the same for all: on the machine's monotonic clock, and in Unix time."""

    at: float
    unix: float


@dataclass(frozen=True, slots=True)
class Do:
    """What to do `t` seconds after the start; `interrupt` and `abandon` at once."""

    what: Literal["enter", "rate", "finish", "interrupt", "abandon"]
    t: float = 0.0
    index: int = 0
    rate: float = 0.0
    cause: Cause = "control"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A second's row, and since the start: send lags as an HdrHistogram, connections."""

    row: Second
    lag: str
    active: int
    idle: int


def work(settings: Settings, addresses: Sequence[Address], share: Share, pipe: Pipe) -> None:
    """The process's target."""
    # Ctrl-C, and a service manager's SIGTERM, reach the whole group; what it means is for the crew
    # to say, once for all.
    for number in TAKEN:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TAKEN)  # the crew blocked them for our start
    prepare_process(settings.max_in_flight // share.of + 1)
    if settings.realtime:
        take_realtime()
    with uvloop_runner() as runner:
        result = runner.run(_Member(settings, addresses, share, pipe).run())
    if result is not None:
        with contextlib.suppress(OSError):  # the crew is gone
            pipe.send(result)
    pipe.close()


class _Member:
    def __init__(
        self, settings: Settings, addresses: Sequence[Address], share: Share, pipe: Pipe
    ) -> None:
        self._pipe = pipe
        self._test = LoadTest(settings, addresses, self._report, share=share)
        self._begin: asyncio.Future[Begin | None] | None = None
        self._alone = False

    async def run(self) -> Result | None:
        """None if the crew is gone before the end: nobody wants the result."""
        loop = asyncio.get_running_loop()
        self._begin = loop.create_future()
        loop.add_reader(self._pipe.fileno(), self._told)
        try:
            self._say("ready")
            begin = await self._begin
            if begin is None:
                return None
            result = await self._test.run((begin.at, begin.unix))
        finally:
            loop.remove_reader(self._pipe.fileno())
        return None if self._alone else result

    def _report(self, row: Second) -> None:
        if self._alone:
            return
        active, idle = self._test.connections
        self._say(Report(row, self._test.ledger.lag.encode(), active, idle))

    def _say(self, word: str | Report) -> None:
        # A crew that is gone is `_told` of by the pipe's end, in the loop's next round.
        with contextlib.suppress(OSError):
            self._pipe.send(word)

    def _told(self) -> None:
        try:
            word = self._pipe.recv()
        except (EOFError, OSError):
            # Load without an owner is an attack.
            self._alone = True
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            word = Do("abandon")
        if self._begin is not None and not self._begin.done():
            self._begin.set_result(word if isinstance(word, Begin) else None)
        elif word.what == "interrupt":
            self._test.interrupt()
        elif word.what == "abandon":
            self._test.abandon()
        else:
            self._test.at(word.t, self._order(word))

    def _order(self, do: Do) -> Order:
        timeline = self._test.timeline
        if do.what == "finish":
            return lambda t: self._test.finish(do.reason, t)
        if do.what == "enter":
            change = partial(timeline.enter, index=do.index, cause=do.cause)
        else:
            change = partial(timeline.set_rate, rate=do.rate, cause=do.cause)

        def carry_out(t: float) -> None:
            try:
                change(t)
            except ShiftError as refused:  # the plan ended while it was on its way
                log.warning("shift not done: %s", refused)

        return carry_out
