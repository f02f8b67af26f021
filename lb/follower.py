"""A pool that follows another process's: who belongs to it and who is well, it is told; who gets a
request, it decides itself. No I/O.

What its own requests meet still counts here: leases, what makes an outlier, latencies. But it never
judges a backend's health. A closed door it passes on as a doubt, and hears what came of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from autoscale.model import Reason
from lb.backend import NEVER, Backend, Lifecycle
from lb.change import Aspect
from lb.config_service import BackendConfig, ServiceConfig
from lb.least_together import policies_of
from lb.pool import Pool
from lb.pool_state import BackendState, PoolState, time_of
from lb.tally import Tally


class Follower(Pool):
    """The pool of `service` before it was told of any backend. `tally`: where all workers count
    what runs.

    `version` is that of the state it follows. `ids` are the first process's numbers of its
    backends; who left stays there until `forget`, for what is still to be reported of it.
    """

    def __init__(self, service: str, config: ServiceConfig, tally: Tally | None = None) -> None:
        self._tally = tally
        self._slots: dict[object, int] = {}
        policies = policies_of(tally, self._slots.get)
        policy = policies(config.policy, config.hash)
        super().__init__(service, policy, config.health, policies=policies)
        self.version = 0
        self.awaited_s = 0.0
        self.ids: dict[int, Backend] = {}
        self._id_of: dict[Backend, int] = {}
        self.configure(config)

    def follow(self, state: PoolState) -> bool:
        """Become what `state` says. False, and nothing changes, where it is no newer than what is
        known."""
        if state.version <= self.version:
            return False
        self.version = state.version
        self.awaited_s = state.awaited_s
        told = {one.id for one in state.backends}
        lost = set(state.lost)
        for number, backend in tuple(self.ids.items()):
            if number not in told and backend.lifecycle is not Lifecycle.GONE:
                self._leave(backend, Reason.CRASHED if number in lost else Reason.OPERATOR)
        for one in state.backends:
            self._take(one)
        # doubts may have ended, and how long it is worth waiting may have changed, without a flip
        self.on_room()
        return True

    def forget(self, number: int) -> None:
        """Nothing is left to be told of this one."""
        backend = self.ids.pop(number)
        del self._id_of[backend]
        self._slots.pop(backend, None)

    def put(self, backend: Backend) -> None:
        """Count what runs on it for all to see: of one that may not be picked, its policy is not
        told."""
        if self._tally is not None and (slot := self._slots.get(backend)) is not None:
            self._tally.put(slot, backend.in_flight)

    def id_of(self, backend: Backend) -> int | None:
        return self._id_of.get(backend)

    # ── one backend ──────────────────────────────────────────────────────────────────────────

    def _take(self, one: BackendState) -> None:
        backend = self.ids.get(one.id)
        if backend is None:
            backend = Backend(one.name, one.address, host=one.host, vm=one.vm, weight=one.weight)
            self.ids[one.id] = backend
            self._id_of[backend] = one.id
            if one.slot is not None:
                self._slots[backend] = one.slot
            self._add(backend)
        backend.host = one.host
        self._weigh(backend, one.weight)
        since = time_of(one.available_since)
        if since > backend.available_since:
            backend.available_since = since
            self._stale()
        backend.doubted_at = max(backend.doubted_at, time_of(one.doubted_at))
        if NEVER < backend.doubted_at <= time_of(one.well_at):
            backend.doubted_at = NEVER
            backend.connect_failures = 0
        backend.refusals = int(one.refused)
        self.put(backend)
        self._walk(backend, Lifecycle(one.lifecycle), one)

    def _walk(self, backend: Backend, to: Lifecycle, one: BackendState) -> None:
        """Take the steps that lead there, and be as well as is said."""
        if backend.lifecycle is Lifecycle.READY and to is Lifecycle.STARTING:
            self._drain(backend, Reason.OPERATOR)  # what was drained and taken back meanwhile
        flips = backend.healthy is not one.healthy
        backend.healthy = one.healthy
        if flips and one.healthy:
            backend.connect_failures = 0
        if to is Lifecycle.DRAINING:
            self._drain(backend, Reason.OPERATOR)
        elif backend.lifecycle is not to:
            self._move(backend, to, backend.joined_because, "as the first process says")
        elif flips:
            words = ("unhealthy", "healthy") if one.healthy else ("healthy", "unhealthy")
            reason = Reason.HEALTHY if one.healthy else Reason.UNHEALTHY
            self._tell(
                backend, Aspect.HEALTH, *words, reason, "as the first process says", dead=one.dead
            )

    # ── what is the first process's ──────────────────────────────────────────────────────────

    def _set_health(
        self, backend: Backend, healthy: bool, message: str, *, dead: bool = False
    ) -> None:
        """Not here: whoever met a closed door has told of it, and will hear."""

    def _take_static(self, backends: Sequence[BackendConfig]) -> None:
        """They come like all others."""
