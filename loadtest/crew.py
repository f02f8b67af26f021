"""One load test by several processes, for several cores: starts them, steers them, adds them up.

Owns the processes and the test's one timeline, by which shifts are judged. Each worker takes every
N-th arrival of the same plan and is told of a shift with the moment at which it holds, a little
ahead; so together they send when one alone would. A worker that dies ends the test: what would be
left is another plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import random
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import SpawnProcess
from typing import Any, Literal

from loadtest.connect import Address
from loadtest.errors import LoadtestError
from loadtest.ledger import by_count
from loadtest.member import Begin, Do, Report, work
from loadtest.merge import merge_results, merge_rows, second_of
from loadtest.outcome import plan_result
from loadtest.result import Counts, Result, Second, WorkerResult
from loadtest.signals import TAKEN
from loadtest.stats import Tally, merged
from loadtest.status import Figures, status_of
from loadtest.target import Settings
from loadtest.timeline import Cause, Share, Timeline

log = logging.getLogger(__name__)

_START_S = 30.0
# From "all are ready" to the first moment of the plan.
_COUNTDOWN_S = 0.05
# How far ahead of its moment a shift is told: many times a loop's round, and nobody waits for it.
_AHEAD_S = 0.02
# For a worker to hand over its result after an interrupt's two seconds, and to end.
_GRACE_S = 10.0


class Crew:
    """One run; steered as a `LoadTest` is."""

    def __init__(
        self,
        settings: Settings,
        addresses: Sequence[Address],
        on_second: Callable[[Second], None] | None = None,
    ) -> None:
        self.settings = settings
        rng = random.Random(settings.seed)
        self.timeline = Timeline(settings.plan, settings.arrivals, rng, None)
        self.series: list[Second] = []
        self._addresses = addresses
        self._on_second = on_second
        self._members: list[_Member] = []
        self._started = 0.0
        self._latency = Tally()
        self._over = False
        self._stir = asyncio.Event()
        self._interrupted_at: float | None = None

    def now(self) -> float:
        """Seconds since the start; before it, 0."""
        return max(time.monotonic() - self._started, 0.0) if self._started else 0.0

    async def run(self) -> Result:
        """Once only. Raises LoadtestError if the workers do not start."""
        loop = asyncio.get_running_loop()
        of = self.settings.workers
        try:
            for index in range(of):
                member = _Member(self.settings, self._addresses, Share(index, of))
                self._members.append(member)
                loop.add_reader(member.pipe.fileno(), self._hear, member)
            await self._all_ready()
            self._started = time.monotonic() + _COUNTDOWN_S
            self._tell(Begin(self._started, time.time() + _COUNTDOWN_S))
            while not all(member.ended for member in self._members):
                await self._wait()
            self._over = True
            self._show_rows()
            return self._result()
        finally:
            self._over = True
            for member in self._members:
                loop.remove_reader(member.pipe.fileno())
            await asyncio.to_thread(_end_all, self._members)

    # steering

    def shift(self, phase: str, cause: Cause) -> None:
        """Enters the phase now. Raises ShiftError."""
        t = self._soon()
        self.timeline.shift(t, phase, cause)
        self._tell(Do("enter", t, index=self.timeline.index, cause=cause))

    def step(self, steps: int, cause: Cause) -> bool:
        """To the next phase (1) or the previous one (-1); False if there is none."""
        t = self._soon()
        if not self.timeline.step(t, steps, cause):
            return False
        self._tell(Do("enter", t, index=self.timeline.index, cause=cause))
        return True

    def set_rate(self, rate: float, cause: Cause) -> None:
        """The current phase's rate from now on, of all together. Raises ShiftError."""
        t = self._soon()
        self.timeline.set_rate(t, rate, cause)
        self._tell(Do("rate", t, rate=rate, cause=cause))

    def finish(self, reason: str = "finish") -> None:
        """Sends nothing more; answers on their way are waited for (`timeout` bounds that)."""
        t = self._soon()
        if not self.timeline.finished:
            self.timeline.finish(t)
            self._tell(Do("finish", t, reason=reason))

    def interrupt(self) -> None:
        """Ends with the result so far: within 2 s, called again at once."""
        self._stop("interrupt")

    def abandon(self) -> None:
        """Ends at once."""
        self._stop("abandon")

    def _stop(self, how: Literal["interrupt", "abandon"]) -> None:
        if self._interrupted_at is None:
            self._interrupted_at = self.now()
        if self._started:
            self.timeline.finish(self._soon())
            self._tell(Do(how))
        self._stir.set()

    def figures(self) -> Figures:
        """Everything counted up to the last complete second of all workers."""
        rows = self.series
        reports = [member.report for member in self._members if member.report is not None]
        counted = ("intended", "sent", "completed", "errors", "dropped")
        sums = {name: sum(getattr(row, name) for row in rows) for name in counted}
        errors = by_count(row.error_kinds for row in rows)
        failed = sum(count for kind, count in errors.items() if not kind.startswith("http_"))
        in_flight = rows[-1].in_flight if rows else 0
        counts = Counts(**sums, failed=failed, unfinished=in_flight)
        return Figures(
            counts=counts,
            in_flight=in_flight,
            errors=errors,
            dropped={"max_in_flight": counts.dropped} if counts.dropped else {},
            rate=self.timeline.rate(self.now()),
            latency=self._latency,
            lag=merged(Tally.decode(report.lag) for report in reports),
            active=sum(report.active for report in reports),
            idle=sum(report.idle for report in reports),
        )

    def status(self) -> dict[str, Any]:
        """What `GET /v1/status` answers; docs/loadtest.md has the fields."""
        now = self.now()
        self.timeline.due(now, 1)
        last = self.series[-1] if self.series else None
        figures = self.figures()
        return status_of(self.settings, self.timeline, figures, last, now, over=self._over)

    def _soon(self) -> float:
        """A moment a little ahead, up to which the timeline is now."""
        t = max(self.now() + _AHEAD_S, self.timeline.since)
        self.timeline.due(t, 1)
        return t

    # the workers

    def _tell(self, word: Begin | Do) -> None:
        for member in self._members:
            if not member.ended:
                member.tell(word)

    async def _all_ready(self) -> None:
        patience = time.monotonic() + _START_S
        while not all(member.ready for member in self._members):
            if time.monotonic() > patience or any(member.ended for member in self._members):
                raise LoadtestError("the workers do not start")
            if self._interrupted_at is not None:
                break
            await self._wait()
        if self._interrupted_at is not None:
            raise LoadtestError("interrupted before the first request")

    async def _wait(self) -> None:
        """Until somebody said something, half a second at most; ends those that say nothing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await self._stir.wait()
        self._stir.clear()
        since = self._interrupted_at
        if since is not None and self.now() > since + _GRACE_S:
            for member in self._members:
                if not member.ended:
                    member.process.kill()

    def _hear(self, member: _Member) -> None:
        try:
            word = member.pipe.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(member.pipe.fileno())
            member.ended = True
            if member.result is None and not self._over:
                log.warning("worker %s died", member.share.index)
                if self._started:
                    self.finish("worker_lost")
            self._stir.set()
            return
        if word == "ready":
            member.ready = True
        elif isinstance(word, Report):
            member.rows.append(word.row)
            member.report = word
            self._show_rows()
        else:
            member.result = word
            member.ended = True
            self._show_rows()
        self._stir.set()

    def _show_rows(self) -> None:
        """Adds up every second that all workers are past."""
        while True:
            waiting = [member.rows[0] for member in self._members if member.rows]
            if not waiting:
                return
            second = min(second_of(row) for row in waiting)
            if any(member.may_still_report(second) for member in self._members):
                return
            rows: list[Second] = []
            for member in self._members:
                while member.rows and second_of(member.rows[0]) == second:
                    rows.append(member.rows.popleft())
            row = merge_rows(rows)
            self.series.append(row)
            if row.latency_us:
                self._latency.add(Tally.decode(row.latency_us))
            if self._on_second is not None:
                self._on_second(row)

    # the end

    def _result(self) -> Result:
        named = [(f"worker {m.share.index}", m.result) for m in self._members if m.result]
        if not named:
            raise LoadtestError("all workers died")
        whole = merge_results(named)
        self.timeline.due(whole.duration_s, 1)
        lost = [member for member in self._members if member.result is None]
        return replace(
            whole,
            plan=plan_result(self.settings),
            shifts=list(self.timeline.shifts),
            stopped_by="worker_lost" if lost else whole.stopped_by,
            trustworthy=whole.trustworthy and not lost,
            reasons=[
                *whole.reasons,
                *(f"worker {m.share.index} died: what it did is missing" for m in lost),
            ],
            workers=[
                replace(m.result.workers[0], name=str(m.share.index))
                if m.result
                else WorkerResult(str(m.share.index), 0, 0, 0.0, 0.0, 0.0, lost=True)
                for m in self._members
            ],
        )


class _Member:
    """One worker, as the crew sees it."""

    def __init__(self, settings: Settings, addresses: Sequence[Address], share: Share) -> None:
        self.share = share
        self.ready = False
        self.ended = False
        self.result: Result | None = None
        self.report: Report | None = None
        self.rows: deque[Second] = deque()
        spawn = multiprocessing.get_context("spawn")
        self.pipe: Pipe
        self.pipe, theirs = spawn.Pipe()
        self.process: SpawnProcess = spawn.Process(
            target=work, args=(settings, addresses, share, theirs), name=f"loadtest {share.index}"
        )
        with _signals_wait():
            self.process.start()
        theirs.close()  # so that its end is the pipe's end

    def tell(self, word: Begin | Do) -> None:
        try:
            self.pipe.send(word)
        except OSError:
            log.debug("worker %d is gone", self.share.index)

    def may_still_report(self, second: int) -> bool:
        """Can a row of that second or one before still come?"""
        if self.ended:
            return False
        return self.report is None or second_of(self.report.row) < second


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Ours come afterwards. A process that is started within keeps them waiting until it is ready
    for them: a Ctrl-C half-way through its imports would end it with a traceback."""
    resource_tracker.ensure_running()  # started later it would let them in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_all(members: Sequence[_Member]) -> None:
    """Waits for the processes, kills those that stay, closes the pipes. Blocks."""
    for member in members:
        member.pipe.close()  # a worker that still runs sees it and ends
    for member in members:
        member.process.join(2.0)
        if member.process.is_alive():
            member.process.kill()
            member.process.join()
        member.process.close()
