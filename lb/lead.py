"""What the first process tells the other workers of its pools, and what it makes of their reports.

Owns the versions of what is told, and the sums: what a worker counted is added to the first
process's own counters, so whoever reads those reads the sum. Starts no process and knows no socket:
a peer is whatever takes a message.

A backend that drains is idle once every peer has applied a state in which it drains *and* reports
nothing running there. Until then it counts as running one more request: it may get one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lb import counted
from lb.backend import Backend, Lifecycle
from lb.change import Aspect, Change, Report
from lb.counted import Count, Elsewhere
from lb.pool_state import PoolState, states_of
from lb.request_metrics import RequestMetrics
from lb.site import Site
from lb.tally import MOST, Tally
from lb.worker_link import Message, pack

_LOST: Final = 256
"""So many that left dead are told of: a worker hears of each within one turn of the loop."""
_QUICK_S: Final = 0.001
_REST: Final = 10
"""A state that took longer than that to tell is followed by a rest ten times as
long: of 10,000 backends one takes 80 ms, and while they all come up each would be a new one."""
_UNROUTED: Final = 0
"""The serial of what belongs to no service."""


@dataclass(slots=True, eq=False)
class Peer:
    """One of the other workers. `send` hands it a packed message."""

    number: int
    send: Callable[[bytes], None]
    applied: int = 0
    """The newest version that it has applied."""
    totals: dict[int, Count] = field(default_factory=dict)
    """As last told, by a service's serial."""
    now: dict[int, Elsewhere] = field(default_factory=dict)
    backend_totals: dict[int, Count] = field(default_factory=dict)
    """As last told, by a backend's id."""
    running: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Known:
    """One service, and what was told of it."""

    serial: int
    site: Site
    end: Callable[[], None] = lambda: None
    by_name: dict[str, int] = field(default_factory=dict)
    ids: dict[Backend, int] = field(default_factory=dict)
    well_at: dict[int, float] = field(default_factory=dict)
    doubted: dict[int, float] = field(default_factory=dict)
    """When a peer last met a closed door there, where no good probe has followed yet."""
    dead: set[int] = field(default_factory=set)
    lost: deque[int] = field(default_factory=lambda: deque(maxlen=_LOST))
    # as last built
    version: int = 0
    edition: int = -1
    awaited_s: float = 0.0


class Lead:
    """`unrouted` counts what belongs to no service, `tally` what runs on each backend on all
    workers; None: there is one alone."""

    def __init__(
        self,
        unrouted: RequestMetrics,
        clock: Callable[[], float] = time.monotonic,
        tally: Tally | None = None,
    ) -> None:
        self.version = 0
        self.peers: list[Peer] = []
        self.dropped = 0
        """Lines of the access log that other workers lost."""
        self._clock = clock
        self._tally = tally
        self._slots: dict[object, int] = {}
        self._free_slots = list(range(MOST)) if tally is not None else []
        self._unrouted = unrouted
        self._services: dict[str, _Known] = {}
        self._serial = _UNROUTED
        self._next_id = 0
        self._backends: dict[int, tuple[_Known, Backend]] = {}
        self._closed: dict[int, int] = {}
        """The version from which on nobody sends it anything, by backend."""
        self._changed: dict[_Known, int] = {}
        """The version that the next state of it will have."""
        self._free_at = 0.0
        """When the next states may be told, after some that took long."""
        self._news = asyncio.Event()

    def close(self) -> None:
        """No worker comes any more."""
        if self._tally is not None:
            self._tally.close()

    # ── services ─────────────────────────────────────────────────────────────────────────────

    def follow(self, site: Site) -> None:
        """Tell the peers of this service's pool from now on."""
        self._serial += 1
        known = self._services[site.name] = _Known(self._serial, site)
        for backend in site.pool:
            self._identify(known, backend)
        known.end = site.pool.subscribe(lambda change: self._flipped(known, change))
        site.pool.on_probed = lambda report: self._probed(known, report)
        self._mark(known)

    def forget(self, name: str) -> None:
        """It is served no more: the peers are to end what they still have of it."""
        known = self._services.pop(name)
        known.end()
        known.site.pool.on_probed = lambda _report: None
        self._changed.pop(known, None)
        for number in [n for n, (whose, _) in self._backends.items() if whose is known]:
            self._forget_backend(number)
        for peer in self.peers:
            peer.totals.pop(known.serial, None)
            peer.now.pop(known.serial, None)
        self._tell(pack({"kind": "drop", "service": name}))

    def settings(self, message: Message) -> Message:
        """The same as a message with a version, the services' serials and the states of all pools:
        whoever gets it needs nothing that was told before."""
        # A state's version is given out before it is told. What changes after these settings must
        # not go by one that they carry already: it would be taken for known.
        self._flush()
        self.version += 1
        pools = [self._state(known).as_message() for known in self._services.values()]
        serials = {name: known.serial for name, known in self._services.items()}
        return {
            **message,
            "kind": "settings",
            "version": self.version,
            "serials": serials,
            "pools": pools,
        }

    # ── peers ────────────────────────────────────────────────────────────────────────────────

    def join(self, peer: Peer) -> None:
        """It was just sent the settings."""
        self.peers.append(peer)
        self._recount_all()

    def part(self, peer: Peer) -> None:
        """It is dead: nothing runs there any more. What it counted stays counted."""
        if peer in self.peers:
            self.peers.remove(peer)
            if self._tally is not None:
                self._tally.died(peer.number)
            self._recount_all()
            self._news.set()

    async def applied(self, version: int, patience_s: float) -> bool:
        """Wait until every peer has applied this version. False: not all did in time."""
        try:
            async with asyncio.timeout(patience_s):
                while any(peer.applied < version for peer in self.peers):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    # ── telling ──────────────────────────────────────────────────────────────────────────────

    def beat(self) -> None:
        """Find what changed without a flip: weights, and how long it is worth waiting."""
        for known in self._services.values():
            site = known.site
            if known.edition != site.pool.edition or known.awaited_s != site.line.awaited():
                self._mark(known)
            for backend in site.pool:
                if not backend.available:
                    self._put(backend)

    def slot_of(self, backend: object) -> int | None:
        """Where all workers count what runs on this one; None: nowhere."""
        return self._slots.get(backend)

    def _put(self, backend: Backend) -> None:
        """What ends on one that may not be picked, its policy is not told of."""
        if self._tally is not None and (slot := self._slots.get(backend)) is not None:
            self._tally.put(slot, backend.in_flight)

    def _flush(self) -> None:
        """Tell the peers all that changed."""
        if not self._changed:
            return
        began = self._clock()
        changed, self._changed = self._changed, {}
        for known in changed:
            self._tell(pack(self._state(known).as_message()))
        took_s = self._clock() - began
        self._free_at = began + took_s * _REST if took_s > _QUICK_S else 0.0

    def _tell(self, packed: bytes) -> None:
        for peer in self.peers:
            peer.send(packed)

    def _mark(self, known: _Known) -> int:
        """Its state has changed; returns the version that says so. It is told in the next turn of
        the loop, so many changes at once are one message."""
        if known not in self._changed:
            self.version += 1
            known.version = self.version
            if self.peers:
                if not self._changed:
                    self._flush_soon()
                self._changed[known] = self.version
        return known.version

    def _flush_soon(self) -> None:
        loop, wait_s = asyncio.get_running_loop(), self._free_at - self._clock()
        if wait_s > 0:
            loop.call_later(wait_s, self._flush)
        else:
            loop.call_soon(self._flush)

    def _state(self, known: _Known) -> PoolState:
        pool = known.site.pool
        known.edition = pool.edition
        known.awaited_s = known.site.line.awaited()
        return PoolState(
            known.version,
            known.site.name,
            known.awaited_s,
            states_of(pool, known.ids.__getitem__, known.well_at, self.slot_of, known.dead),
            tuple(known.lost),
        )

    def _identify(self, known: _Known, backend: Backend) -> None:
        self._next_id += 1
        number = self._next_id
        known.ids[backend] = known.by_name[backend.name] = number
        self._backends[number] = (known, backend)
        if self._free_slots:
            self._slots[backend] = self._free_slots.pop()

    def _flipped(self, known: _Known, change: Change) -> None:
        backend = known.site.pool.get(change.backend)
        if backend is not None and backend not in known.ids:
            self._identify(known, backend)
        number = known.by_name.get(change.backend)
        if number is None or change.aspect is Aspect.EJECTION:
            return  # each worker judges by what its own requests met
        version = self._mark(known)
        self._put(self._backends[number][1])
        if change.aspect is Aspect.HEALTH:
            if change.dead:
                known.dead.add(number)
            else:
                known.dead.discard(number)
            return
        if change.after in (Lifecycle.DRAINING, Lifecycle.GONE):
            self._closed[number] = version
        else:
            self._closed.pop(number, None)
        if change.after == Lifecycle.GONE:
            if change.dead:
                known.lost.append(number)
            del known.by_name[change.backend]
            known.ids.pop(self._backends[number][1])
        self._recount(number)

    # ── doubts ───────────────────────────────────────────────────────────────────────────────

    def doubt(self, message: Mapping[str, Any]) -> None:
        """A peer's requests met closed doors."""
        for text, (at, refused) in message["backends"].items():
            found = self._backends.get(int(text))
            if found is not None:
                known, backend = found
                known.doubted[int(text)] = at
                known.site.pool.doubt(backend, refused)

    def _probed(self, known: _Known, report: Report) -> None:
        number = known.by_name.get(report.backend)
        if number is None or not report.ok:
            return
        at = known.doubted.get(number)
        if at is not None and at <= report.asked_at:
            del known.doubted[number]
            known.well_at[number] = report.asked_at
            self._mark(known)

    # ── reports ──────────────────────────────────────────────────────────────────────────────

    def report(self, peer: Peer, message: Mapping[str, Any]) -> None:
        """Take over what a peer has counted, and what it has now."""
        now = self._clock()
        before, peer.applied = peer.applied, message["version"]
        by_serial = {known.serial: known for known in self._services.values()}
        for text, part in message["services"].items():
            serial = int(text)
            if serial == _UNROUTED:
                growth = _take(peer.totals, serial, part["totals"])
                self.dropped += int(growth.pop("dropped", 0))
                counted.add_to_requests(self._unrouted, growth, now)
                peer.now[serial] = Elsewhere(**part["now"])
                self._sum_up(self._unrouted, serial)
            elif (known := by_serial.get(serial)) is not None:
                self._take_service(peer, known, part, now)
        seen = set()
        for text, part in message["backends"].items():
            number = int(text)
            if (found := self._backends.get(number)) is not None:
                known, backend = found
                growth = _take(peer.backend_totals, number, part["totals"])
                where = known.site.pool.counted_at(backend)
                counted.add_to_backend(backend, where, growth, now)
                if part["answered_at"] is not None:
                    backend.answered_at = max(backend.answered_at, part["answered_at"])
                peer.running[number] = part["running"]
                seen.add(number)
        for number, version in tuple(self._closed.items()):
            if before < version <= peer.applied:
                seen.add(number)
        for number in seen:
            self._recount(number)
        self._news.set()

    def _take_service(self, peer: Peer, known: _Known, part: Mapping[str, Any], now: float) -> None:
        site, serial = known.site, known.serial
        growth = _take(peer.totals, serial, part["totals"])
        for key in [key for key in growth if key.startswith("ejections ")]:
            grounds = key.partition(" ")[2]
            pool = site.pool
            pool.ejections[grounds] = pool.ejections.get(grounds, 0) + int(growth.pop(key))
        counted.add_to_requests(site.counters, growth, now)
        waited = site.counters.elsewhere.waiting
        peer.now[serial] = Elsewhere(**part["now"])
        self._sum_up(site.counters, serial)
        if not waited and site.counters.elsewhere.waiting:
            site.line.on_wait()

    def _sum_up(self, counters: RequestMetrics, serial: int) -> None:
        whole = Elsewhere()
        for peer in self.peers:
            if (part := peer.now.get(serial)) is not None:
                whole.add(part)
        counters.elsewhere = whole

    # ── what runs elsewhere ──────────────────────────────────────────────────────────────────

    def _recount_all(self) -> None:
        self._sum_up(self._unrouted, _UNROUTED)
        for known in self._services.values():
            self._sum_up(known.site.counters, known.serial)
        for number in tuple(self._backends):
            self._recount(number)

    def _recount(self, number: int) -> None:
        known, backend = self._backends[number]
        closed = self._closed.get(number, 0)
        backend.elsewhere = sum(
            peer.running.get(number, 0) or (peer.applied < closed) for peer in self.peers
        )
        if backend.lifecycle is Lifecycle.GONE and not backend.elsewhere:
            known.site.pool.settle(backend)
            self._forget_backend(number)

    def _forget_backend(self, number: int) -> None:
        known, backend = self._backends.pop(number)
        backend.elsewhere = 0
        if (slot := self._slots.pop(backend, None)) is not None and self._tally is not None:
            self._tally.free(slot)
            self._free_slots.append(slot)
        self._closed.pop(number, None)
        known.well_at.pop(number, None)
        known.doubted.pop(number, None)
        known.dead.discard(number)
        for peer in self.peers:
            peer.running.pop(number, None)
            peer.backend_totals.pop(number, None)


def _take(kept: dict[int, Count], key: int, told: Mapping[str, float]) -> Count:
    """Remember these totals, and return what they grew by."""
    totals = kept.setdefault(key, {})
    growth = counted.grown(totals, told)
    totals.update(told)
    return growth
