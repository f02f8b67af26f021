"""What the tests of the waiting line share: a line before ready backends, and requests in it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection

from autoscale.model import EventKind, Reason, ScaleEvent
from lb.backend import Backend
from lb.balance import policy_named
from lb.config import HealthConfig, QueueConfig
from lb.pool import Lease, Pool, Report
from lb.waiting import WaitingLine
from tests.proxy_harness import PATIENCE_S

PATIENT = QueueConfig(max_wait=PATIENCE_S)


def make(*names: str, limit: int = 1, queue: QueueConfig = PATIENT) -> tuple[Pool, WaitingLine]:
    """A pool of ready backends that take `limit` requests each, and the line before them."""
    pool = Pool(
        "web",
        policy_named("least_requests"),
        HealthConfig(fall=1),
        clock=lambda: 100.0,
        rng=random.Random(1),
        max_in_flight=limit,
    )
    for name in names:
        join(pool, name)
    return pool, WaitingLine(pool, queue)


def join(pool: Pool, name: str) -> None:
    pool.apply(ScaleEvent(EventKind.JOIN, "web", name, Reason.CPU_OVERLOAD, address=f"{name}:80"))
    probe(pool, name)


def probe(pool: Pool, name: str, ok: bool = True) -> None:
    pool.observe(Report(name, f"{name}:80", ok))


def backend(pool: Pool, name: str) -> Backend:
    found = pool.get(name)
    assert found is not None
    return found


async def settle() -> None:
    """Long enough for everything that can run to run; nothing here waits for the outside."""
    for _ in range(10):
        await asyncio.sleep(0)


class Requests:
    """Requests that hold what they get until they are told to end; `served` in order of turn."""

    def __init__(self, line: WaitingLine) -> None:
        self._line = line
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.served: list[str] = []
        self.on: dict[str, str] = {}

    async def come(
        self, *names: str, exclude: Collection[Backend] = (), client: bytes = b""
    ) -> None:
        for name in names:
            self.start(name, exclude=exclude, client=client)
        await settle()

    def start(
        self, name: str, exclude: Collection[Backend] = (), client: bytes = b""
    ) -> asyncio.Task[None]:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = task = asyncio.ensure_future(self._run(name, exclude, client))
        return task

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
            await self.tasks[name]
        await settle()

    async def _run(self, name: str, exclude: Collection[Backend], client: bytes) -> None:
        with await self._line.lease(exclude=exclude, client=client) as lease:
            self.served.append(name)
            self.on[name] = lease.backend.name
            await self._ends[name].wait()


async def both_busy(pool: Pool, requests: Requests) -> None:
    """Request 1 runs on backend a, request 2 on backend b."""
    await requests.come("1", exclude=[backend(pool, "b")])
    await requests.come("2", exclude=[backend(pool, "a")])
    assert requests.on == {"1": "a", "2": "b"}


NAMES = ("a", "b", "c")
LIMIT = 2


class CountingPool(Pool):
    """Keeps every lease it gave, and counts those that came back."""

    def __init__(self) -> None:
        super().__init__(
            "web",
            policy_named("least_requests"),
            HealthConfig(fall=1),
            clock=lambda: 100.0,
            rng=random.Random(1),
            max_in_flight=LIMIT,
        )
        self.given: list[Lease] = []
        self.came_back = 0
        self.asked = 0
        self.notices: list[Callable[[], None]] = []

    def lease(
        self,
        *,
        exclude: Collection[Backend] = (),
        key: bytes | None = None,
        prefer: str | None = None,
    ) -> Lease:
        self.asked += 1
        if self.notices:
            # as it does when it finds that an ejection has ended
            self.notices.pop()()
        lease = super().lease(exclude=exclude, key=key, prefer=prefer)
        self.given.append(lease)
        return lease

    def release(self, backend: Backend) -> None:
        self.came_back += 1
        super().release(backend)
