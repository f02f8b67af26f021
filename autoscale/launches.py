"""How many VMs may be started now, where, and for what reason: what `fleet` asks before it launches.

Owns the gates that failed launches close, and the count of those that only replace a lost one. It
must not start anything. There is one gate for the service, which counts boots that never get ready
and images that are no good; and one for each host, which counts what that host refused. A host that
is broken so costs no launch on another; and where the last host refuses too, the service's gate
counts it: what no host can start is not tried more often for there being many hosts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from autoscale.backoff import BREAKER_AFTER, LaunchGate
from autoscale.decision import Decision
from autoscale.model import Direction, Reason


@dataclass(frozen=True, slots=True)
class Pause:
    """Launches that wait, because those before them failed."""

    host: str | None
    """On this host only; None: the service's, everywhere."""
    failures: int
    """In a row."""
    is_open: bool
    """So many that launching stopped: the breaker."""
    wait_s: float
    """Until one may be tried again; 0: it may be now."""
    why: str
    """What the last failure said."""


class Launches:
    """What earlier launches, losses and decisions mean for the next launch. Mutable, and only
    `fleet` writes it."""

    def __init__(self) -> None:
        self.gate = LaunchGate()
        self.hosts: dict[str, LaunchGate] = {}
        """Of those that refused one, and took none since."""
        self._said = False
        self._to_replace = 0
        self._reason = Reason.BELOW_MIN

    def decided(self, decision: Decision, missing: int) -> None:
        """So many are missing for what was decided. A lost replica that nobody wants any more is
        not replaced."""
        if decision.direction is not Direction.NONE:
            up = decision.direction is Direction.UP
            self._reason = decision.reason if up else Reason.BELOW_MIN
        self._to_replace = max(0, min(self._to_replace, missing))

    def how_many(self, missing: int, room: int, booting: int, now: float) -> int:
        """So many of the `missing` may start now, with `room` left below the maximum."""
        if room <= 0 or not self.gate.allows(now):
            return 0
        if self.gate.failures:
            # after a failure one at a time, so that a broken image costs one VM a try, not many
            missing = 0 if booting else 1
        return min(missing, room)

    def takes(self, host: str, now: float, *, asked: bool) -> bool:
        """Whether one may be started there now. `asked`: a start there is not answered yet; a host
        that refused is asked for one at a time."""
        gate = self.hosts.get(host)
        return gate is None or (gate.allows(now) and not asked)

    def next_reason(self) -> Reason:
        """Why the one that is started now is started. Those lost come first."""
        if self._to_replace > 0:
            self._to_replace -= 1
            return Reason.REPLACED
        return self._reason

    def lost(self) -> None:
        """One that served is gone, and nobody wanted that."""
        self._to_replace += 1

    # --- what became of launches

    def failed(self, now: float, why: str = "") -> None:
        """It never got ready, or there is nothing to start it from: no host is to blame."""
        self.gate = self.gate.failed(now, why)

    def refused(
        self, host: str, now: float, why: str, *, hosts: Collection[str], serves: bool
    ) -> None:
        """This host would not start one. `hosts`: all that could be asked. `serves`: it was for a
        replica, whose failures stop the service's launches."""
        self.hosts[host] = self.hosts.get(host, LaunchGate()).failed(now, why)
        if serves and all(name in self.hosts for name in hosts):
            self.failed(now, why)

    def taken(self, host: str) -> bool:
        """This host started one. Returns whether launches there had stopped."""
        gate = self.hosts.pop(host, None)
        return gate is not None and gate.is_open

    def succeeded(self) -> bool:
        """One got ready. Returns whether launching had stopped."""
        was_open = self.gate.is_open
        self.gate, self._said = self.gate.succeeded(), False
        return was_open

    # --- what is told of it

    def pauses(self, now: float) -> tuple[Pause, ...]:
        """The service's first, then the hosts' by name; none where all is well."""
        found = [(None, self.gate)] if self.gate.failures else []
        gates = [*found, *sorted(self.hosts.items())]
        return tuple(
            Pause(host, gate.failures, gate.is_open, max(0.0, gate.not_before - now), gate.why)
            for host, gate in gates
        )

    def breaker_words(self, now: float) -> str | None:
        """To be said where the gate stops a launch: once each time that the breaker opens."""
        if self._said or not self.gate.is_open or self.gate.allows(now):
            return None
        self._said = True
        last = f"; the last: {self.gate.why}" if self.gate.why else ""
        return (
            f"{self.gate.failures} launches in a row failed: no more for"
            f" {self.gate.not_before - now:.0f} s, then one to try{last}"
        )

    def host_words(self, host: str, now: float) -> str | None:
        """To be said when a host has just refused: at the first of them, and where they stop."""
        gate = self.hosts[host]
        wait = f"{gate.not_before - now:.0f} s"
        if gate.failures == 1:
            return f"no launch on {host} for {wait}, and longer each time: {gate.why}"
        if gate.failures == BREAKER_AFTER:
            return f"{gate.failures} launches in a row failed on {host}: none there for {wait}"
        return None
