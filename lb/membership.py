"""Who belongs to a service's pool: backends join, drain and leave; who subscribed is told. No I/O.

Mutable state: `_backends` (by name, in order of joining), `_departed` (gone, with requests still
running), `_running` (the requests on both), `_static` (those of the configuration). Which of the
members are well, and who gets a request, is the pool's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from mypy_extensions import mypyc_attr

from autoscale.model import EventKind, PoolLoad, Reason, ScaleEvent
from lb.backend import Backend, BackendView, Lifecycle
from lb.change import Aspect, Change
from lb.config_service import BackendConfig
from lb.errors import UnknownBackendError
from lb.latency import Latency

log = logging.getLogger(__name__)

_DEAD: Final = frozenset({Reason.CRASHED, Reason.UNHEALTHY})
"""Why a machine leaves that answers nobody any more."""


@mypyc_attr(allow_interpreted_subclasses=True)  # as `pool` says
class Membership:
    """The backends of one service. `clock` is monotonic seconds."""

    def __init__(self, service: str, clock: Callable[[], float]) -> None:
        self.service = service
        self.clock = clock
        self._backends: dict[str, Backend] = {}
        self._departed: list[Backend] = []
        self._running = 0
        self._static: Sequence[BackendConfig] = ()
        self.edition = 0
        """Goes up with whatever the other workers have to know."""
        self._retired_latency = Latency()
        self._subscribers: list[Callable[[Change], None]] = []
        self.on_room: Callable[[], None] = lambda: None
        """Called after each release and each flip: somebody who waits may have a chance now."""

    # ── what a pool adds ─────────────────────────────────────────────────────────────────────

    def _stale(self) -> None:
        """Who may be picked, or by what share, has changed."""

    def _flipped(self) -> None:
        """Something flipped, and was told: what else follows from it?"""

    def _vouched(self, backend: Backend) -> None:
        """It passed its checks before it came, or came back: it need not pass them again."""

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    def __iter__(self) -> Iterator[Backend]:
        return iter(tuple(self._backends.values()))

    def __len__(self) -> int:
        return len(self._backends)

    def __contains__(self, name: object) -> bool:
        return name in self._backends

    def get(self, name: str) -> Backend | None:
        return self._backends.get(name)

    @property
    def in_flight(self) -> int:
        """Running leases of this process, those on backends that already left included."""
        return self._running

    def load(self) -> PoolLoad:
        """What policy and fleet may read. A gone backend is listed until its last request ends."""
        known = [*self._backends.values(), *self._departed]
        return PoolLoad(self.service, tuple(backend.load() for backend in known))

    def snapshot(self, cpu: Mapping[str, float] | None = None) -> list[BackendView]:
        """Every backend at this instant, in order of joining. `cpu`: utilisation by name."""
        now = self.clock()
        cpu = cpu or {}
        return [backend.view(now, cpu.get(backend.name)) for backend in self._backends.values()]

    def retired_latency(self) -> Latency:
        """Upstream durations of all backends that left: totals must not go down with them."""
        total = Latency()
        total.absorb(self._retired_latency)
        for backend in self._departed:
            total.absorb(backend.latency)
        return total

    def __repr__(self) -> str:
        words: dict[str, int] = {}
        for backend in self._backends.values():
            word = backend.lifecycle.value
            if backend.lifecycle is Lifecycle.READY and not backend.available:
                word = "ejected" if backend.healthy else "unhealthy"
            words[word] = words.get(word, 0) + 1
        listed = ", ".join(f"{number} {word}" for word, number in words.items()) or "empty"
        return f"<Pool {self.service}: {listed}; {self.in_flight} in flight>"

    # ── coming and going ─────────────────────────────────────────────────────────────────────

    def apply(self, event: ScaleEvent) -> None:
        """Take over one change of the fleet. Idempotent: the fleet may say it again each tick."""
        if event.service != self.service:
            log.warning("pool %s ignores an event for %s", self.service, event.service)
            return
        if event.kind is EventKind.JOIN:
            self._join(event)
            return
        backend = self._backends.get(event.backend)
        if backend is None:
            log.info("pool %s: %s of unknown %s", self.service, event.kind, event.backend)
        elif event.kind is EventKind.DRAIN:
            self._drain(backend, event.reason)
        else:
            self._leave(backend, event.reason)

    def add_static(self, address: str, *, name: str | None = None, weight: int = 1) -> Backend:
        """An operator's backend, named by its address unless told. Idempotent; one that is there
        goes on with this weight."""
        name = name or address
        known = self._backends.get(name)
        if known is not None and known.address == address:
            self._weigh(known, weight)
            return known
        if known is not None:
            self._leave(known, Reason.REPLACED)
        return self._add(Backend(name, address, weight=weight))

    def drain(self, name: str) -> Backend:
        """No new request to it. Raises UnknownBackendError."""
        backend = self._known(name)
        self._drain(backend, Reason.OPERATOR)
        return backend

    def ready(self, name: str) -> Backend:
        """Take a drain back; its next good probe makes it ready. Raises UnknownBackendError."""
        backend = self._known(name)
        self._undrain(backend, Reason.OPERATOR)
        return backend

    def remove(self, name: str) -> Backend:
        """Forget it; its running requests may finish. Raises UnknownBackendError."""
        backend = self._known(name)
        self._leave(backend, Reason.OPERATOR)
        return backend

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call back, synchronously, after each flip. Returns what ends the subscription."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def _take_static(self, backends: Sequence[BackendConfig]) -> None:
        """The configuration's members as they are from now on. Those that stay keep what is known
        of them; those an operator added or drained are not touched."""
        kept = {backend.address for backend in backends}
        for old in self._static:
            # where it is not there, an operator was faster
            if old.address not in kept and (known := self._backends.get(old.address)) is not None:
                self._leave(known, Reason.OPERATOR)
        self._static = backends
        for backend in backends:
            self.add_static(backend.address, weight=backend.weight)

    def _known(self, name: str) -> Backend:
        backend = self._backends.get(name)
        if backend is None:
            raise UnknownBackendError(f"no backend {name} in service {self.service}")
        return backend

    def _join(self, event: ScaleEvent) -> None:
        known = self._backends.get(event.backend)
        if known is not None and known.address == event.address:
            known.host = event.host or known.host
            self._weigh(known, event.weight)
            # whoever was lost before it drained has to pass its checks again, whatever is said
            sure = event.ready and (known.healthy or known.lifecycle is not Lifecycle.DRAINING)
            self._undrain(known, event.reason, sure=sure)
            if sure and known.lifecycle is Lifecycle.STARTING:
                self._vouched(known)
            return
        if known is not None:
            # Same VM, new address (it was restored or migrated): what we knew of the old
            # address says nothing of the new one.
            self._leave(known, Reason.REPLACED)
        backend = self._add(
            Backend(
                event.backend,
                event.address,
                host=event.host,
                vm=event.backend,
                weight=event.weight,
                joined_because=event.reason,
            )
        )
        if event.ready:
            self._vouched(backend)

    def _weigh(self, backend: Backend, weight: int) -> None:
        if backend.weight != weight:
            backend.weight = weight
            self.edition += 1
            self._stale()

    def _add(self, backend: Backend) -> Backend:
        self._backends[backend.name] = backend
        self._tell(
            backend, Aspect.LIFECYCLE, "", backend.lifecycle, backend.joined_because, "joined"
        )
        return backend

    def _drain(self, backend: Backend, reason: Reason) -> None:
        if backend.lifecycle is not Lifecycle.DRAINING:
            if backend.ejected:
                backend.record.reinstate(self.clock())  # it gets nothing in any case
            self._move(backend, Lifecycle.DRAINING, reason, f"{backend.running} in flight")

    def _undrain(self, backend: Backend, reason: Reason, *, sure: bool = False) -> None:
        """`sure`: it is as well as it was, and serves at once."""
        if backend.lifecycle is not Lifecycle.DRAINING:
            return
        backend.joined_because = reason
        if sure:
            backend.available_since = self.clock()
            self._move(backend, Lifecycle.READY, reason, "drain taken back")
        else:
            backend.forget_health()
            self._move(backend, Lifecycle.STARTING, reason, "drain taken back")

    def _leave(self, backend: Backend, reason: Reason) -> None:
        del self._backends[backend.name]
        self._departed.append(backend)
        words = f"{backend.running} in flight"
        self._move(backend, Lifecycle.GONE, reason, words, dead=reason in _DEAD)
        self.settle(backend)

    def settle(self, backend: Backend) -> None:
        """Forget one that is gone once nothing runs on it, here or elsewhere; its durations stay in
        the sum of all who left."""
        if backend in self._departed and not backend.running:
            self._departed.remove(backend)
            self._retired_latency.absorb(backend.latency)

    def counted_at(self, backend: Backend) -> Latency:
        """Where durations on it are counted: its own histogram, or what is left of it."""
        listed = self._backends.get(backend.name) is backend or backend in self._departed
        return backend.latency if listed else self._retired_latency

    def _move(
        self, backend: Backend, to: Lifecycle, reason: Reason, message: str, *, dead: bool = False
    ) -> None:
        before = backend.lifecycle
        backend.move(to)
        self._tell(backend, Aspect.LIFECYCLE, before, to, reason, message, dead=dead)

    def _tell(
        self,
        backend: Backend,
        aspect: Aspect,
        before: str,
        after: str,
        reason: Reason,
        message: str,
        *,
        dead: bool = False,
    ) -> None:
        """Every flip ends here, so that whoever keeps a list of who is available cannot miss it."""
        self.edition += 1
        self._stale()
        change = Change(
            service=self.service,
            backend=backend.name,
            aspect=aspect,
            before=str(before),
            after=str(after),
            reason=reason,
            message=message,
            at=self.clock(),
            address=backend.address,
            vm=backend.vm,
            dead=dead,
        )
        log.info(
            "%s/%s %s → %s (%s: %s)",
            self.service, backend.name, before or "new", after, reason.value, message,
        )  # fmt: skip
        for callback in tuple(self._subscribers):
            try:
                callback(change)
            except Exception:
                # A journal that cannot write must not stop the pool.
                log.exception("a subscriber of pool %s failed", self.service)
        self._flipped()
        self.on_room()
