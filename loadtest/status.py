"""What a running test tells about itself: the figures so far, `GET /v1/status` of them. Pure."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any

from loadtest.result import Counts, Second
from loadtest.stats import Tally
from loadtest.target import Settings
from loadtest.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Figures:
    """Counted since the start; `rate` is the intended one now, per second."""

    counts: Counts
    in_flight: int
    errors: dict[str, int]
    dropped: dict[str, int]
    rate: float
    latency: Tally
    lag: Tally
    active: int
    idle: int


def status_of(
    settings: Settings,
    timeline: Timeline,
    figures: Figures,
    last: Second | None,
    now: float,
    *,
    over: bool,
) -> dict[str, Any]:
    """docs/loadtest.md has the fields. `last` is the last complete second."""
    ends = timeline.ends_at
    finite = not timeline.finished and ends < math.inf
    counts = figures.counts
    return {
        "pid": os.getpid(),
        "url": settings.url,
        "state": "done" if over else "draining" if timeline.finished else "running",
        "workers": settings.workers,
        "elapsed_s": round(now, 3),
        "phase": timeline.phase.name,
        "phase_remaining_s": round(max(ends - now, 0.0), 3) if finite else None,
        "phases": list(settings.plan.names),
        "rate": figures.rate,
        "intended": counts.intended,
        "sent": counts.sent,
        "completed": counts.completed,
        "failed": counts.failed,
        "dropped": counts.dropped,
        "error_count": counts.errors,
        "errors": figures.errors,
        "in_flight": figures.in_flight,
        "connections": {"active": figures.active, "idle": figures.idle},
        "second": None if last is None else dataclasses.asdict(last),
        "p50_s": last.p50_s if last else None,
        "p99_s": last.p99_s if last else None,
        "send_lag_p99_s": figures.lag.percentile(99),
        "shifts": [dataclasses.asdict(shift) for shift in timeline.shifts],
    }
