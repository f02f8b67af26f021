"""Feeds a rival what it would see, second by second: how many serve and boot, how busy they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from autoscale.model import Fleet, Signal
from autoscale.signals import Signals


class Rival(Protocol):
    """What the stories need of one."""

    def plan(self, signals: Signals, fleet: Fleet, now: float) -> int: ...


def names(count: int) -> tuple[str, ...]:
    return tuple(f"vm{n}" for n in range(1, count + 1))


def seen(
    now: float,
    cpu: Mapping[str, float] | Sequence[float],
    *,
    concurrency: int = 0,
    queued: int = 0,
    serving: tuple[str, ...] | None = None,
) -> Signals:
    """One second's signals. `cpu`: utilisation by VM, or of vm1, vm2, ….; one of `serving` that is
    not in it has no sample."""
    by_vm = cpu if isinstance(cpu, Mapping) else dict(zip(names(len(cpu)), cpu, strict=True))
    return Signals(
        cpu={vm: Signal(vm, now, u, u, u, interval_s=1.0) for vm, u in by_vm.items()},
        serving=tuple(by_vm) if serving is None else serving,
        in_flight=concurrency,
        queued=queued,
    )


class Story:
    """A rival and the clock. `wants` is what it said in each second so far."""

    def __init__(self, rival: Rival) -> None:
        self.rival = rival
        self.now = 0.0
        self.wants: list[int] = []

    def play(
        self,
        seconds: int,
        *,
        cpu: Mapping[str, float] | Sequence[float] = (),
        booting: int = 0,
        concurrency: int = 0,
        queued: int = 0,
        serving: tuple[str, ...] | None = None,
    ) -> int:
        """The same for so many seconds. Returns what it wants in the last of them."""
        for _ in range(seconds):
            self.now += 1.0
            signals = seen(self.now, cpu, concurrency=concurrency, queued=queued, serving=serving)
            fleet = Fleet("web", ready=len(signals.serving), booting=booting)
            self.wants.append(self.rival.plan(signals, fleet, self.now))
        return self.wants[-1]

    def until(self, second: float, **what: object) -> int:
        return self.play(int(second - self.now), **what)  # type: ignore[arg-type]
