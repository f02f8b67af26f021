"""The load of `bench reaction`: the open-loop load tester in a process of its own, which also keeps
which replica answered each request, and when.

Owns that process and the two rates it goes between. What its answers mean, `reaction_figures` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import re
import signal
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection as Pipe
from typing import Any

import uvloop

from bench.parts.reaction_figures import Sent
from loadtest.connect import Address, resolve
from loadtest.connection import Connection, Exchange
from loadtest.engine import LoadTest
from loadtest.plan import Plan
from loadtest.pool import ConnectionPool
from loadtest.target import Settings

LOW, HIGH = "low", "high"
TIMEOUT_S = 60.0
LONGEST_S = 3600.0
ANSWERS_S = 20.0
_REPLICA = re.compile(rb"\r\nx-replica:[ \t]*([^\r\n]*)", re.IGNORECASE)


def replica_of(head: bytes) -> str:
    """Who says that it answered; empty where nobody does."""
    found = _REPLICA.search(head)
    return found.group(1).decode("latin-1").strip() if found else ""


# ── in the process ───────────────────────────────────────────────────────────────────────────────


class _NamingPool(ConnectionPool):
    """Sees who answered."""

    replica = ""
    """Of the answer that is being told."""

    def answered(self, connection: Connection, exchange: Exchange, status: int) -> None:
        self.replica = replica_of(connection.head)
        super().answered(connection, exchange, status)


class Recorder(LoadTest):
    """Keeps every request's fate, in Unix seconds."""

    POOL = _NamingPool

    def __init__(self, settings: Settings, address: Address) -> None:
        super().__init__(settings, address)
        self._offset = time.time() - time.monotonic()
        self._kept: list[Sent] = []

    def answered(self, exchange: Exchange, status: int) -> None:
        assert isinstance(self._pool, _NamingPool)  # noqa: S101
        self._keep(exchange, status, self._pool.replica)
        super().answered(exchange, status)

    def failed(self, exchange: Exchange, kind: str) -> None:
        self._keep(exchange, 0, "")
        super().failed(exchange, kind)

    def _keep(self, exchange: Exchange, status: int, replica: str) -> None:
        phase = self.timeline.visits[exchange.visit].phase.name
        self._kept.append(
            Sent(self._unix(exchange.intended), self.unix_now(), status, replica, phase)
        )

    def unix_now(self) -> float:
        return self._unix(self.now())

    def _unix(self, t: float) -> float:
        return self._offset + self._started + t

    def since(self, unix: float) -> list[Sent]:
        """What was sent from then on, by the time of sending; older ones are forgotten."""
        self._kept = [sent for sent in self._kept if sent.at >= unix]
        visits = self.timeline.visits
        waiting = [
            Sent(self._unix(e.intended), None, 0, "", visits[e.visit].phase.name)
            for e in self._on_way
            if self._unix(e.intended) >= unix
        ]
        return sorted(self._kept + waiting)


def _process(pipe: Pipe, settings: Settings) -> None:
    """Send until told to finish, or until nobody listens to us any more."""

    async def send() -> None:
        test = Recorder(settings, await resolve(settings.target))

        def hear() -> None:
            try:
                what, told = pipe.recv()
            except EOFError:
                test.abandon()
                asyncio.get_running_loop().remove_reader(pipe.fileno())
                return
            if what == "shift":
                test.shift(told, "control")
                pipe.send(test.unix_now())
            elif what == "since":
                pipe.send(test.since(told))
            else:
                test.abandon()
                pipe.send(None)

        asyncio.get_running_loop().add_reader(pipe.fileno(), hear)
        result = await test.run()
        with contextlib.suppress(OSError):
            pipe.send(result.reasons)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(send())


# ── before it ────────────────────────────────────────────────────────────────────────────────────


class Load:
    """A running load."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    async def shift(self, phase: str) -> float:
        """From now on LOW or HIGH; the Unix time of that."""
        return float(await self._ask("shift", phase))

    async def since(self, unix: float) -> list[Sent]:
        """All that was sent from then on, in order. What was before is forgotten for good."""
        found: list[Sent] = await self._ask("since", unix)
        return found

    async def finish(self) -> list[str]:
        """End it. Why the load tester would not believe itself."""
        await self._ask("finish", None)
        doubts: list[str] = await asyncio.to_thread(self._answer)
        return doubts

    async def _ask(self, what: str, told: object) -> Any:
        self._pipe.send((what, told))
        return await asyncio.to_thread(self._answer)

    def _answer(self) -> Any:
        if not self._pipe.poll(ANSWERS_S):
            raise SystemExit("reaction: the load tester does not answer")
        return self._pipe.recv()


@contextlib.asynccontextmanager
async def loading(url: str, low: float, high: float) -> AsyncIterator[Load]:
    """Even arrivals, `low` requests a second at first. Gone at the end, whatever happens."""
    plan = Plan.parse(f"{LOW}={low:.2f}@trigger,{HIGH}={high:.2f}@trigger")
    settings = Settings(url, plan, timeout=TIMEOUT_S, max_seconds=LONGEST_S)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_process, args=(theirs, settings), daemon=True
    )
    process.start()
    theirs.close()
    try:
        yield Load(ours)
    finally:
        ours.close()
        process.terminate()
        await asyncio.to_thread(process.join, 5.0)
        if process.is_alive():
            process.kill()
            await asyncio.to_thread(process.join)
        process.close()
