"""Counts what happens to each request: by stay in a phase, and by second. No I/O, no clock.

The hot path touches plain integers and dicts; sums, percentiles and rows are made when a second
or the run is over. A request's fate is booked to the phase in which it was *intended*, and to the
second in which it *happened*.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from loadtest.connection import LOCAL_KINDS
from loadtest.result import Counts, Second
from loadtest.stats import PERCENTILES, Tally, bucket_of

# Above this the send times are no longer the plan's, and neither are the latencies.
MAX_LAG_P99_S = 0.005


class Page:
    """One stay's counts."""

    def __init__(self) -> None:
        self.intended = self.sent = self.completed = 0
        self.failed = self.error_answers = self.dropped = 0
        self.errors: defaultdict[str, int] = defaultdict(int)
        self.latency = Tally()
        self.service = Tally()

    def counts(self) -> Counts:
        """With what is still on its way as `unfinished`."""
        ended = self.completed + self.failed + self.dropped
        return Counts(
            intended=self.intended,
            sent=self.sent,
            completed=self.completed,
            failed=self.failed,
            errors=self.failed + self.error_answers,
            dropped=self.dropped,
            unfinished=self.intended - ended,
        )


class Ledger:
    """All pages of a run, and the second that is being written."""

    def __init__(self) -> None:
        self.pages: list[Page] = []
        self.status: defaultdict[int, int] = defaultdict(int)
        self.dropped: defaultdict[str, int] = defaultdict(int)
        self.lag = Tally()
        self.in_flight = 0
        self.series: list[Second] = []
        self._second_started = 0.0
        self._new_second()

    def page(self, visit: int) -> Page:
        """The page of a stay (index into the timeline's visits)."""
        while len(self.pages) <= visit:
            self.pages.append(Page())
        return self.pages[visit]

    # one request's fates

    def intend(self, visit: int, lag: float) -> None:
        """It is due and was taken up `lag` seconds late."""
        self.page(visit).intended += 1
        self._intended += 1
        self.in_flight += 1
        self.lag.counts[bucket_of(lag)] += 1

    def drop(self, visit: int, reason: str) -> None:
        """It is due and not sent."""
        page = self.page(visit)
        page.intended += 1
        page.dropped += 1
        self._intended += 1
        self._dropped += 1
        self.dropped[reason] += 1

    def send(self, visit: int) -> None:
        """Its bytes went to a socket."""
        self.pages[visit].sent += 1
        self._sent += 1

    def complete(self, visit: int, status: int, latency: float, service: float) -> None:
        """A complete answer came."""
        page = self.pages[visit]
        page.completed += 1
        bucket = bucket_of(latency)
        page.latency.counts[bucket] += 1
        page.service.counts[bucket_of(service)] += 1
        self._latency.counts[bucket] += 1
        self._completed += 1
        self.in_flight -= 1
        self.status[status] += 1
        if status >= 400:
            page.error_answers += 1
            kind = f"http_{status}"
            page.errors[kind] += 1
            self._kinds[kind] += 1
            self._errors += 1

    def fail(self, visit: int, kind: str, latency: float) -> None:
        """It got no complete answer.

        A timeout's time so far counts as a latency: leaving it out would leave out the slowest.
        Other failures are quick and would flatter the percentiles.
        """
        page = self.pages[visit]
        page.failed += 1
        page.errors[kind] += 1
        self._kinds[kind] += 1
        self._errors += 1
        self.in_flight -= 1
        if kind == "timeout":
            bucket = bucket_of(latency)
            page.latency.counts[bucket] += 1
            self._latency.counts[bucket] += 1

    # sums

    def end_second(self, now: float, phase: str, rate: float) -> Second:
        """Closes the current row at `now` and begins the next one."""
        p50, p90, p99, p99_9 = self._latency.percentiles(*PERCENTILES)
        row = Second(
            t=round(self._second_started, 6),
            span=round(now - self._second_started, 6),
            phase=phase,
            rate=rate,
            intended=self._intended,
            sent=self._sent,
            completed=self._completed,
            errors=self._errors,
            dropped=self._dropped,
            in_flight=self.in_flight,
            p50_s=p50,
            p99_s=p99,
            p90_s=p90,
            p99_9_s=p99_9,
            error_kinds=by_count([self._kinds]),
            latency_us=self._latency.encode(),
        )
        self.series.append(row)
        self._second_started = now
        self._new_second()
        return row

    def blank(self, now: float) -> bool:
        """Is the current row a mere remnant (under 50 ms) in which nothing happened?"""
        happened = self._intended + self._sent + self._completed + self._errors + self._dropped
        return not happened and now - self._second_started < 0.05

    def totals(self) -> Counts:
        """Over all pages."""
        parts = [page.counts() for page in self.pages]
        return Counts(
            intended=sum(part.intended for part in parts),
            sent=sum(part.sent for part in parts),
            completed=sum(part.completed for part in parts),
            failed=sum(part.failed for part in parts),
            errors=sum(part.errors for part in parts),
            dropped=sum(part.dropped for part in parts),
            unfinished=sum(part.unfinished for part in parts),
        )

    def errors(self) -> dict[str, int]:
        """By kind, the most frequent first."""
        return by_count(page.errors for page in self.pages)

    def doubts(self) -> list[str]:
        """Why this run's figures should not be believed; empty: no reason."""
        late = lag_doubt(self.lag)
        found = [] if late is None else [late]
        local = {kind: n for kind, n in self.errors().items() if kind in LOCAL_KINDS}
        found += [
            f"{n} requests failed for want of {kind.removeprefix('local_')} on this machine"
            for kind, n in local.items()
        ]
        return found

    def _new_second(self) -> None:
        self._intended = self._sent = self._completed = self._errors = self._dropped = 0
        self._latency = Tally()
        self._kinds: defaultdict[str, int] = defaultdict(int)


def lag_doubt(lag: Tally) -> str | None:
    """Why these send lags spoil a run; None: they do not."""
    p99 = lag.percentile(99)
    if p99 is None or p99 <= MAX_LAG_P99_S:
        return None
    return (
        f"send lag p99 is {p99 * 1000:.1f} ms (limit {MAX_LAG_P99_S * 1000:g} ms): "
        "the load tester could not keep to its own schedule"
    )


def by_count(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The parts' sum, the largest first."""
    whole: defaultdict[str, int] = defaultdict(int)
    for part in parts:
        for kind, count in part.items():
            whole[kind] += count
    return dict(sorted(whole.items(), key=lambda item: (-item[1], item[0])))
