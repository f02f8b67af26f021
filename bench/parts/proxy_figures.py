"""What the rounds of `bench proxy` say: medians, ratios to HAProxy, which goals are missed. Pure.

A ratio is the median of the rounds' own ratios: both figures of one were measured within seconds
of each other, whatever else the machine did in that minute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.parts.cases import CASES, Case

PEER = "haproxy"
DIRECT = "none"
"""No proxy: what client and backend take by themselves, at the same even load."""
OURS = "ours"


@dataclass(frozen=True, slots=True)
class Shot:
    """One proxy, one case, one round. What is None could not be measured; `wrong` says why."""

    case: str
    proxy: str
    round: int
    per_s: float | None = None
    """Requests a second, under all the load that 64 connections make."""
    cpu_us: float | None = None
    """CPU microseconds per request, then."""
    core_share: float | None = None
    """Of the proxy's core, then: below 1 the clients' core was the narrower one."""
    core_wait: float | None = None
    """For how much of that time it was ready to run and others had its core: machine, not proxy."""
    rate: float | None = None
    """The even load that the latencies are of."""
    p50_us: float | None = None
    p99_us: float | None = None
    late_p99_us: float | None = None
    """How late the client itself was."""
    client_us: float | None = None
    """And its own CPU time per request."""
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds that count; ratios to HAProxy's."""

    case: str
    proxy: str
    rounds: int
    per_s: float | None
    cpu_us: float | None
    core_share: float | None
    core_wait: float | None
    rate: float | None
    p50_us: float | None
    p99_us: float | None
    per_s_ratio: float | None
    cpu_ratio: float | None
    p99_ratio: float | None


def good(shots: Sequence[Shot]) -> list[Shot]:
    return [shot for shot in shots if not shot.wrong]


def middle(values: Sequence[float | None]) -> float | None:
    """The median of those that are known."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def ratio(
    shots: Sequence[Shot], case: str, proxy: str, figure: Callable[[Shot], float | None]
) -> float | None:
    """The median of this proxy's figure over HAProxy's of the same round. HAProxy's own is 1 where
    it has one."""
    of = {(s.proxy, s.round): figure(s) for s in good(shots) if s.case == case}
    ratios = []
    for (name, number), value in of.items():
        peer = of.get((PEER, number))
        if name == proxy and value is not None and peer:
            ratios.append(value / peer)
    return middle(ratios)


def rows(shots: Sequence[Shot]) -> list[Row]:
    """One for each case and proxy."""
    found = []
    for case, proxy in dict.fromkeys((shot.case, shot.proxy) for shot in shots):
        of = [s for s in good(shots) if (s.case, s.proxy) == (case, proxy)]
        found.append(
            Row(
                case=case,
                proxy=proxy,
                rounds=len(of),
                per_s=middle([s.per_s for s in of]),
                cpu_us=middle([s.cpu_us for s in of]),
                core_share=middle([s.core_share for s in of]),
                core_wait=middle([s.core_wait for s in of]),
                rate=middle([s.rate for s in of]),
                p50_us=middle([s.p50_us for s in of]),
                p99_us=middle([s.p99_us for s in of]),
                per_s_ratio=ratio(shots, case, proxy, lambda s: s.per_s),
                cpu_ratio=ratio(shots, case, proxy, lambda s: s.cpu_us),
                p99_ratio=ratio(shots, case, proxy, lambda s: s.p99_us),
            )
        )
    return sorted(found, key=_place)


def _place(row: Row) -> tuple[int, int]:
    """As the cases are listed; HAProxy first, which the others are compared with, ours last but
    for none."""
    last = {PEER: 0, OURS: 2, DIRECT: 3}
    return [*CASES].index(row.case), last.get(row.proxy, 1)


def misses(shots: Sequence[Shot]) -> list[str]:
    """The goals that ours misses, and every shot that does not count. Without HAProxy or ours among
    them there are no goals."""
    missed = [f"void: {s.case}, {s.proxy}, round {s.round}: {s.wrong}" for s in shots if s.wrong]
    if not {PEER, OURS} <= {shot.proxy for shot in shots}:
        return missed
    for row in rows(shots):
        if row.proxy == OURS:
            case = CASES[row.case]
            missed += _above("CPU per request", case, row.cpu_ratio, case.most_cpu)
            missed += _above("p99", case, row.p99_ratio, case.most_p99)
    return missed


def _above(what: str, case: Case, found: float | None, most: float) -> list[str]:
    if found is None:
        return [f"{case.words}: {what} could not be compared"]
    # what is printed is what is judged: 1.00 is not above 1.00
    if round(found, 2) > most:
        return [f"{case.words}: {what} is {found:.2f} times HAProxy's, at most {most:.2f}"]
    return []


def table(found: Sequence[Row]) -> list[str]:
    """Markdown, as docs/performance.md has it."""
    lines = [
        "| request | proxy | CPU/request | × HAProxy | requests/s | × HAProxy"
        " | its core | others had it | at | p50 | p99 | × HAProxy |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in found:
        cells = [
            CASES[row.case].words, row.proxy,
            _number(row.cpu_us, " µs", 1), _number(row.cpu_ratio, "", 2),
            _number(row.per_s, "", 0), _number(row.per_s_ratio, "", 2),
            _percent(row.core_share), _percent(row.core_wait),
            _number(row.rate, "/s", 0), _number(row.p50_us, " µs", 0),
            _number(row.p99_us, " µs", 0), _number(row.p99_ratio, "", 2),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _percent(share: float | None) -> str:
    return _number(None if share is None else share * 100, " %", 0)


def _number(value: float | None, unit: str, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}{unit}"
