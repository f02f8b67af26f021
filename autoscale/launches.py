"""How many VMs may be started now, where, and for what reason: what `fleet` asks before launching.

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
        self._hosts: dict[str, LaunchGate] = {}
        """Of those that refused a replica, and started nothing since."""
        self._spare: dict[str, LaunchGate] = {}
        """The same for the reserve: a standby that was refused must not hold up a replica."""
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

    def takes(self, host: str, now: float, *, asked: bool, serves: bool = True) -> bool:
        """Whether one may be started there now. `asked`: a start there is not answered yet; a host
        that refused is asked for one at a time. `serves`: a replica, not one for the reserve."""
        gates = [self._hosts.get(host), None if serves else self._spare.get(host)]
        return all(gate is None or (gate.allows(now) and not asked) for gate in gates)

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
    ) -> bool:
        """This host would not start one. `hosts`: all that could be asked. Returns whether every
        one of them has refused: no host's trouble any more, and for the gate of who wanted it."""
        gates = self._hosts if serves else self._spare
        gates[host] = gates.get(host, LaunchGate()).failed(now, why)
        return all(name in gates for name in hosts)

    def taken(self, host: str) -> bool:
        """This host started one. Returns whether launches there had stopped."""
        gates = [self._hosts.pop(host, None), self._spare.pop(host, None)]
        return any(gate is not None and gate.is_open for gate in gates)

    def succeeded(self) -> bool:
        """One got ready. Returns whether launching had stopped."""
        was_open = self.gate.is_open
        self.gate, self._said = self.gate.succeeded(), False
        return was_open

    # --- what is told of it

    def pauses(self, now: float) -> tuple[Pause, ...]:
        """The service's first, then the hosts' by name; none where all is well."""
        found: list[tuple[str | None, LaunchGate]] = []
        if self.gate.failures:
            found.append((None, self.gate))
        for host in sorted({*self._hosts, *self._spare}):
            gates = [by[host] for by in (self._hosts, self._spare) if host in by]
            found.append((host, max(gates, key=lambda gate: gate.not_before)))
        return tuple(
            Pause(host, gate.failures, gate.is_open, max(0.0, gate.not_before - now), gate.why)
            for host, gate in found
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

    def host_words(self, host: str, now: float, *, serves: bool) -> str | None:
        """To be said when a host has just refused: at the first in a row, and where they stop."""
        gate = (self._hosts if serves else self._spare)[host]
        wait = f"{gate.not_before - now:.0f} s"
        if gate.failures == 1:
            return f"no launch on {host} for {wait}, and longer each time: {gate.why}"
        if gate.failures == BREAKER_AFTER:
            return (
                f"{gate.failures} launches in a row failed on {host}: none there for {wait}, then"
                f" one to try; the last: {gate.why}"
            )
        return None
