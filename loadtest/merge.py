"""Several results in one: of worker processes, of machines that ran at the same time. Pure.

Counts are added, histograms too, and percentiles are taken anew from those: nothing is averaged.
Rows that began in the same second of the first machine's, by their machines' clocks, become one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

from loadtest.errors import InputError
from loadtest.ledger import by_count, lag_doubt
from loadtest.result import (
    Counts,
    Histograms,
    PhaseHistograms,
    PhaseResult,
    PlanResult,
    Result,
    Second,
    WorkerResult,
)
from loadtest.stats import Tally, merged
from loadtest.timeline import Shift


def merge_results(named: Sequence[tuple[str, Result]]) -> Result:
    """One result of all; a doubt about any is a doubt about the whole and tells whose it is.

    Raises InputError for a file that lacks the histograms to do it with.
    """
    if len(named) == 1:
        return named[0][1]
    results = [result for _, result in named]
    began = min(result.started_unix for result in results)
    late = [round(result.started_unix - began, 6) for result in results]
    latency = _together(result.histograms.latency_us for result in results)
    service = _together(result.histograms.service_us for result in results)
    lag = _together(result.histograms.send_lag_us for result in results)
    reasons = [f"{name}: {reason}" for name, result in named for reason in result.reasons]
    doubt = lag_doubt(lag)
    if doubt and not reasons:
        reasons.append(doubt)
    return Result(
        url=", ".join(dict.fromkeys(result.url for result in results)),
        method=_same(result.method for result in results) or "mixed",
        plan=_plan([result.plan for result in results]),
        started_unix=began,
        duration_s=max(r.duration_s + after for r, after in zip(results, late, strict=True)),
        stopped_by=", ".join(dict.fromkeys(result.stopped_by for result in results)),
        counts=add_counts(result.counts for result in results),
        reconnects=sum(result.reconnects for result in results),
        connections_opened=sum(result.connections_opened for result in results),
        bytes_received=sum(result.bytes_received for result in results),
        cpu_s=round(sum(result.cpu_s for result in results), 3),
        dropped=by_count(result.dropped for result in results),
        errors=by_count(result.errors for result in results),
        status=dict(sorted(by_count(result.status for result in results).items())),
        latency_s=latency.summary(),
        service_s=service.summary(),
        send_lag_s=lag.summary(),
        trustworthy=not reasons and all(result.trustworthy for result in results),
        reasons=reasons,
        phases=_phases(named, late),
        shifts=_shifts(results, late),
        series=_series(results, late),
        histograms=Histograms(latency.encode(), service.encode(), lag.encode()),
        workers=[
            replace(worker, name=_name(name, worker, len(result.workers)))
            for name, result in named
            for worker in result.workers
        ],
    )


def add_counts(parts: Iterable[Counts]) -> Counts:
    """Field by field."""
    whole = list(parts)
    return Counts(**{f.name: sum(getattr(part, f.name) for part in whole) for f in fields(Counts)})


def merge_rows(rows: Sequence[Second]) -> Second:
    """Rows of the same second in one; its percentiles are None where a histogram is missing."""
    if len(rows) == 1:
        return rows[0]
    start = min(row.t for row in rows)
    whole = Tally()
    for row in rows:
        if row.latency_us:
            whole.add(Tally.decode(row.latency_us))
    known = all(row.latency_us for row in rows)
    p50, p90, p99, p99_9 = (whole if known else Tally()).percentiles(50, 90, 99, 99.9)
    last = max(rows, key=lambda row: row.t + row.span)
    return Second(
        t=start,
        span=round(last.t + last.span - start, 6),
        phase=last.phase,
        rate=sum(row.rate for row in rows),
        intended=sum(row.intended for row in rows),
        sent=sum(row.sent for row in rows),
        completed=sum(row.completed for row in rows),
        errors=sum(row.errors for row in rows),
        dropped=sum(row.dropped for row in rows),
        in_flight=sum(row.in_flight for row in rows),
        p50_s=p50,
        p99_s=p99,
        p90_s=p90,
        p99_9_s=p99_9,
        error_kinds=by_count(row.error_kinds for row in rows),
        latency_us=whole.encode() if known else "",
    )


def _together(texts: Iterable[str]) -> Tally:
    try:
        return merged(Tally.decode(text) for text in texts)
    except ValueError as wrong:
        raise InputError(f"cannot merge: {wrong}") from None


def _same(words: Iterable[str]) -> str | None:
    found = set(words)
    return found.pop() if len(found) == 1 else None


def _name(name: str, worker: WorkerResult, of: int) -> str:
    return name if of == 1 else f"{name}: {worker.name}"


def _plan(plans: Sequence[PlanResult]) -> PlanResult:
    """What all of them were asked to do together."""
    first = plans[0]
    text = _same(plan.text for plan in plans)
    alike = text is not None
    return PlanResult(
        text=f"{len(plans)} times {text}" if alike else " and ".join(plan.text for plan in plans),
        arrivals=_same(plan.arrivals for plan in plans) or "mixed",
        seed=first.seed,
        max_in_flight=sum(plan.max_in_flight for plan in plans),
        timeout_s=max(plan.timeout_s for plan in plans),
        phases=[
            replace(
                phase,
                rate=phase.rate * (len(plans) if alike else 1),
                end_rate=phase.end_rate * (len(plans) if alike else 1),
            )
            for plan in (plans[:1] if alike else plans)
            for phase in plan.phases
        ],
    )


def _phases(named: Sequence[tuple[str, Result]], late: Sequence[float]) -> list[PhaseResult]:
    """Stay by stay where all went through the same ones, else one after the other."""
    placed = [
        [replace(p, start=p.start + after, end=p.end + after) for p in result.phases]
        for (_, result), after in zip(named, late, strict=True)
    ]
    if _same(",".join(phase.name for phase in phases) for phases in placed) is None:
        return sorted((p for phases in placed for p in phases), key=lambda phase: phase.start)
    found = []
    for stay in zip(*placed, strict=True):
        for (name, _), phase in zip(named, stay, strict=True):
            if phase.histograms is None:
                raise InputError(f"{name}: written before phases had histograms: cannot merge it")
        texts = [phase.histograms for phase in stay if phase.histograms]
        latency = _together(text.latency_us for text in texts)
        service = _together(text.service_us for text in texts)
        found.append(
            PhaseResult(
                name=stay[0].name,
                start=min(phase.start for phase in stay),
                end=max(phase.end for phase in stay),
                counts=add_counts(phase.counts for phase in stay),
                errors=by_count(phase.errors for phase in stay),
                latency_s=latency.summary(),
                service_s=service.summary(),
                histograms=PhaseHistograms(latency.encode(), service.encode()),
            )
        )
    return found


def _shifts(results: Sequence[Result], late: Sequence[float]) -> list[Shift]:
    placed = [
        [replace(shift, t=shift.t + after) for shift in result.shifts]
        for result, after in zip(results, late, strict=True)
    ]
    alike = _same(",".join(f"{s.phase}/{s.cause}" for s in shifts) for shifts in placed)
    if alike is None:
        return sorted((s for shifts in placed for s in shifts), key=lambda shift: shift.t)
    return [
        replace(together[0], rate=sum(shift.rate for shift in together))
        for together in zip(*placed, strict=True)
    ]


def _series(results: Sequence[Result], late: Sequence[float]) -> list[Second]:
    by_second: defaultdict[int, list[Second]] = defaultdict(list)
    for result, after in zip(results, late, strict=True):
        for row in result.series:
            # Rows cannot be cut. Moved by whole seconds they keep to the first machine's; by the
            # fraction too, a row of all would be longer than its seconds and overlap the next.
            moved = replace(row, t=row.t + math.floor(after))
            by_second[second_of(moved)].append(moved)
    return [merge_rows(rows) for _, rows in sorted(by_second.items())]


def second_of(row: Second) -> int:
    """Which second a row belongs to: rows begin on the second or, after a stall, late."""
    return math.floor(row.t)
