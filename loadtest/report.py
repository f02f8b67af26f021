"""Results as text for people: one run in full, or several side by side. Reads values, prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from loadtest.result import Counts, Result
from loadtest.stats import Distribution, Tally


def print_one(console: Console, result: Result) -> None:
    """A run: totals, percentiles, phases, shifts, and whether to believe it."""
    counts = result.counts
    console.print(f"{result.method} {result.url}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{result.duration_s:.1f} s ({result.stopped_by}), {result.plan.arrivals} arrivals, "
        f"plan {result.plan.text}",
        highlight=False,
        markup=False,
    )
    console.print(_sentence(counts), highlight=False)
    for title, kinds in (("errors", result.errors), ("dropped", result.dropped)):
        if kinds:
            text = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
            console.print(f"{title}: {text}", highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("mean", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(name, justify="right")
    table.add_row("latency (from intended time)", *_cells(result.latency_s))
    table.add_row("service time (from sending)", *_cells(result.service_s))
    table.add_row("send lag (of this tester)", *_cells(result.send_lag_s))
    console.print(table)
    if len(result.phases) > 1:
        console.print(_phase_table(result))
    if len(result.workers) > 1:
        lags = ", ".join(
            f"{worker.name} {duration(worker.send_lag_p99_s)}" for worker in result.workers
        )
        console.print(f"send lag p99 by worker: {lags}", highlight=False, soft_wrap=True)
    if (waited := _core_wait(result)) is not None:
        console.print(waited, highlight=False, soft_wrap=True)
    for reason in result.reasons:
        console.print(
            f"NOT TRUSTWORTHY: {reason}", style="bold red", highlight=False, soft_wrap=True
        )


def print_comparison(console: Console, named: Sequence[tuple[str, Result]]) -> None:
    """Several runs in columns; each figure with its ratio to the first run's."""
    header, *rows = compared(named)
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for name, result in named:
        for reason in result.reasons:
            console.print(f"(!) {name}: {reason}", highlight=False, markup=False, soft_wrap=True)


def compared(named: Sequence[tuple[str, Result]]) -> list[list[str]]:
    """A header and rows: what, the first run's figure, the others' with their ratio to it."""
    rows = [["", *(name if result.trustworthy else f"{name} (!)" for name, result in named)]]
    for title, figure, show in FIGURES:
        values = [figure(result) for _, result in named]
        first = values[0]
        ratios = [f"  ×{value / first:.2f}" if first else "" for value in values[1:]]
        others = [show(value) + ratio for value, ratio in zip(values[1:], ratios, strict=True)]
        rows.append([title, show(first), *others])
    return rows


def print_tallies(console: Console, named: Sequence[tuple[str, Tally]]) -> None:
    """Interval logs: the latencies of each."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("count", "mean", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(name, justify="right")
    for name, tally in named:
        table.add_row(name, str(len(tally)), *_cells(tally.summary()))
    console.print(table)


def duration(seconds: float) -> str:
    """Three significant digits in the unit that suits: 870 µs, 12.3 ms, 4.56 s."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s"


def _sentence(counts: Counts) -> str:
    parts = [
        f"intended {counts.intended}",
        f"sent {counts.sent}",
        f"completed {counts.completed}",
        f"errors {counts.errors}",
    ]
    if counts.dropped:
        parts.append(f"dropped {counts.dropped}")
    if counts.unfinished:
        parts.append(f"unfinished {counts.unfinished}")
    return ", ".join(parts)


def _cells(times: Distribution) -> list[str]:
    if not times.count:
        return ["–"] * 6
    figures = (times.mean, times.p50, times.p90, times.p99, times.p99_9, times.max)
    return [duration(figure) for figure in figures]


def _phase_table(result: Result) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("phase", "from", "to", "intended", "completed", "errors", "p50", "p99", "max"):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for phase in result.phases:
        times = phase.latency_s
        shown = (times.p50, times.p99, times.max)
        table.add_row(
            phase.name,
            f"{phase.start:.1f} s",
            f"{phase.end:.1f} s",
            str(phase.counts.intended),
            str(phase.counts.completed),
            str(phase.counts.errors),
            *(duration(figure) if times.count else "–" for figure in shown),
        )
    return table


def _core_wait(result: Result) -> str | None:
    """Worth a line from a hundredth of the time on: then it is the machine that is late."""
    waits = [(w.core_wait_s, w.cpu_s) for w in result.workers if w.core_wait_s is not None]
    wait, cpu = max(waits, default=(0.0, 0.0))
    if not wait or wait < 0.01 * result.duration_s:
        return None
    share = wait / (wait + cpu)
    return f"others had this tester's core for {share:.0%} of the time in which it had work to do"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _completed_rate(result: Result) -> float:
    return result.counts.completed / result.duration_s if result.duration_s else 0.0


_Figures = tuple[tuple[str, Callable[[Result], float], Callable[[float], str]], ...]
COUNTED: _Figures = (
    ("intended", lambda r: r.counts.intended, _whole),
    ("completed", lambda r: r.counts.completed, _whole),
    ("errors", lambda r: r.counts.errors, _whole),
    ("dropped", lambda r: r.counts.dropped, _whole),
    ("completed/s", _completed_rate, lambda value: f"{value:.1f}"),
)
FIGURES: _Figures = (
    *COUNTED,
    ("latency mean", lambda r: r.latency_s.mean, duration),
    ("latency p50", lambda r: r.latency_s.p50, duration),
    ("latency p90", lambda r: r.latency_s.p90, duration),
    ("latency p99", lambda r: r.latency_s.p99, duration),
    ("latency p99.9", lambda r: r.latency_s.p99_9, duration),
    ("latency max", lambda r: r.latency_s.max, duration),
    ("service p99", lambda r: r.service_s.p99, duration),
    ("send lag p99", lambda r: r.send_lag_s.p99, duration),
)
