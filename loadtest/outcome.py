"""What a finished run found: its ledger and its timeline folded into a `Result`. Pure."""

from __future__ import annotations

from loadtest.ledger import Ledger, by_count
from loadtest.plan import Plan
from loadtest.result import (
    Histograms,
    PhaseHistograms,
    PhasePlan,
    PhaseResult,
    PlanResult,
    Result,
    WorkerResult,
)
from loadtest.stats import merged
from loadtest.target import Settings
from loadtest.timeline import Timeline


class Ended:
    """The end of a run, as the engine saw it; times in seconds."""

    def __init__(
        self,
        *,
        started_unix: float,
        duration: float,
        cpu: float,
        by: str,
        core_wait: float | None = None,
    ) -> None:
        self.started_unix = started_unix
        self.duration = duration
        self.cpu = cpu
        self.by = by
        self.core_wait = core_wait
        self.reconnects = 0
        self.connections_opened = 0
        self.bytes_received = 0


def result_of(settings: Settings, ledger: Ledger, timeline: Timeline, end: Ended) -> Result:
    """A whole run, or one worker's part of it."""
    latency = merged(page.latency for page in ledger.pages)
    service = merged(page.service for page in ledger.pages)
    lag = ledger.lag.summary()
    counts = ledger.totals()
    doubts = ledger.doubts()
    return Result(
        url=settings.url,
        method=settings.requests.method,
        plan=plan_result(settings),
        started_unix=end.started_unix,
        duration_s=round(end.duration, 6),
        stopped_by=end.by,
        counts=counts,
        reconnects=end.reconnects,
        connections_opened=end.connections_opened,
        bytes_received=end.bytes_received,
        cpu_s=round(end.cpu, 3),
        dropped=dict(ledger.dropped),
        errors=ledger.errors(),
        status={str(status): n for status, n in sorted(ledger.status.items())},
        latency_s=latency.summary(),
        service_s=service.summary(),
        send_lag_s=lag,
        trustworthy=not doubts,
        reasons=doubts,
        phases=_phases(ledger, timeline, end.duration),
        shifts=list(timeline.shifts),
        series=list(ledger.series),
        histograms=Histograms(latency.encode(), service.encode(), ledger.lag.encode()),
        workers=[
            WorkerResult(
                name="0",
                intended=counts.intended,
                sent=counts.sent,
                cpu_s=round(end.cpu, 3),
                send_lag_p99_s=lag.p99,
                send_lag_max_s=lag.max,
                core_wait_s=None if end.core_wait is None else round(end.core_wait, 3),
            )
        ],
    )


def plan_result(settings: Settings) -> PlanResult:
    """What was asked for."""
    plan: Plan = settings.plan
    return PlanResult(
        text=str(plan),
        arrivals=settings.arrivals,
        seed=settings.seed,
        max_in_flight=settings.max_in_flight,
        timeout_s=settings.timeout,
        phases=[
            PhasePlan(
                name=phase.name,
                rate=phase.profile.rate(0.0),
                end_rate=phase.profile.rate(phase.seconds or 0.0),
                duration_s=phase.seconds,
            )
            for phase in plan.phases
        ],
    )


def _phases(ledger: Ledger, timeline: Timeline, duration: float) -> list[PhaseResult]:
    found = []
    for number, visit in enumerate(timeline.visits):
        page = ledger.page(number)
        found.append(
            PhaseResult(
                name=visit.phase.name,
                start=visit.start,
                end=duration if visit.end is None else visit.end,
                counts=page.counts(),
                errors=by_count([page.errors]),
                latency_s=page.latency.summary(),
                service_s=page.service.summary(),
                histograms=PhaseHistograms(page.latency.encode(), page.service.encode()),
            )
        )
    return found
