"""Stories for the planner: ticks once a second over a clock that the test holds.

Every replica asked for serves by the next tick unless the story says otherwise; `load` spreads work
over the replicas as the balancer would.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from autoscale.decision import Decision
from autoscale.model import Fleet, Path, Signal, Way
from autoscale.policy import decide
from autoscale.rules import Forecasting, RateLimit, Rules
from autoscale.signals import Signals
from autoscale.state import State

NOW = 10_000.0
WALL = 1_790_000_000.0
COLD = (Way(Path.COLD, 10.0),)
NO_LIMIT = RateLimit(1000, 0.0, 15.0)


def plain(low: int = 1, high: int = 4, **changes: Any) -> Rules:
    """Round figures, and nothing of what other parts would add: no rate limits, no forecast.
    target 0.6, tolerance 10 %, grow after 5 s, shrink after 60 s, margin 0.8."""
    values: dict[str, Any] = {
        "grow_limit": NO_LIMIT,
        "shrink_limit": NO_LIMIT,
        "grow_window_s": 5.0,
        "shrink_margin": 0.8,
        "forecast": Forecasting.OFF,
    }
    return Rules(min=low, max=high, **{**values, **changes})


@dataclass
class Story:
    """`tick` is one decision; `decisions` are all of them."""

    rules: Rules = field(default_factory=plain)
    replicas: int = 1
    ways: tuple[Way, ...] = COLD
    now: float = NOW
    each_per_s: float = 20.0
    """What a replica can answer; `served_per_s` follows from it and the utilisation."""
    state: State = field(init=False)
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = State.start(self.replicas, self.rules)

    def tick(
        self,
        *utilisations: float | None,
        seconds: float = 1.0,
        age_s: float = 0.0,
        booting: int = 0,
        draining: int = 0,
        unavailable: int = 0,
        failures: int = 0,
        queued: int = 0,
        in_flight: int = 0,
        elsewhere: int = 0,
        arrivals: float | None = None,
        p99_s: float | None = None,
        delay: float | None = None,
        hosts: tuple[str, ...] = ("local",),
        wall_s: float | None = None,
    ) -> Decision:
        """One decision on so many available replicas; None: no sample of that one. Without
        `arrivals`, as many come as are served."""
        self.now += seconds
        names = tuple(f"web-{i}" for i in range(len(utilisations)))
        served = {n: (u or 0.0) * self.each_per_s for n, u in zip(names, utilisations, strict=True)}
        signals = Signals(
            cpu={
                name: Signal(name, self.now - age_s, u, u, u, delay, 1.0)
                for name, u in zip(names, utilisations, strict=True)
                if u is not None
            },
            serving=names,
            in_flight=in_flight,
            running=in_flight + elsewhere,
            queued=queued,
            arrivals_per_s=sum(sorted(served.values())) if arrivals is None else arrivals,
            served_per_s=served,
            latency_p99_s=p99_s,
            host_of=dict.fromkeys(names, "local"),
            hosts=hosts,
            wall_s=WALL + self.now if wall_s is None else wall_s,
        )
        ready = len(names) + unavailable
        fleet = Fleet(
            "web",
            ready=ready,
            booting=booting,
            draining=draining,
            existing=ready + booting + draining,
            unavailable=unavailable,
            launch_failures=failures,
            ways=self.ways,
        )
        decision, self.state = decide(signals, fleet, self.state, self.rules, self.now)
        self.decisions.append(decision)
        return decision

    def ticks(self, count: int, *utilisations: float | None, **others: Any) -> Decision:
        for _ in range(count):
            decision = self.tick(*utilisations, **others)
        return decision

    def load(self, work: float, **others: Any) -> Decision:
        """One tick with `work` (1.0 keeps one replica busy) spread over as many as are wanted; what
        does not fit waits in the queue."""
        replicas = max(1, self.state.desired)
        each = min(1.0, work / replicas)
        over = work - replicas
        return self.tick(
            *[each] * replicas,
            arrivals=work * self.each_per_s,
            queued=10 if over > 0 else 0,
            **others,
        )

    def loads(self, count: int, work: float, **others: Any) -> Decision:
        for _ in range(count):
            decision = self.load(work, **others)
        return decision
