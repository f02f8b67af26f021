"""Did it help? The same panels in a window left and one right of the last scale event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from grafana.board import Board, Choice
from grafana.panels import Panel, Query, Row, bars, figure, lines
from grafana.promql import ERROR_RATIO, REQUESTS, VM_CPU, of_service, per_second, quantile
from grafana.windows import EVENT, after, before, mean

SIDES: Final[tuple[tuple[str, Callable[[str], str]], ...]] = (("before", before), ("after", after))
BUCKETS: Final = per_second(of_service("lb_request_duration_seconds_bucket"), "le, service")
P50: Final = quantile(0.5, "lb_request_duration_seconds")
P99: Final = quantile(0.99, "lb_request_duration_seconds")
NARROW: Final = "Show two hours at most: over more, points lie too far apart for a window."
READY: Final = f"sum by (service) ({of_service('autoscaler_ready_replicas')})"


def sides(title: str, description: str, unit: str, *asked: Query, log: bool = False,
          steps: bool = False) -> Iterator[Panel]:  # fmt: skip
    """The same curves left and right of the event."""
    description += f" {NARROW}"
    for word, windowed in SIDES:
        queries = (Query(windowed(query.expr), query.legend) for query in asked)
        yield lines(f"{title}, {word}", description, unit, *queries, log=log, steps=steps)


def means(title: str, description: str, unit: str, expression: str, legend: str) -> Panel:
    """The mean of each window, side by side."""
    queries = (
        Query(mean(windowed(expression)), f"{legend} {word}", instant=True)
        for word, windowed in SIDES
    )
    return figure(title, description, unit, *queries, width=4, graph=False)


def latencies(title: str, q: float) -> Panel:
    """A quantile of all requests of a window; a mean of quantiles would be none."""
    queries = (
        Query(
            f"histogram_quantile({q}, {mean(windowed(BUCKETS))})",
            f"{{{{service}}}} {word}",
            instant=True,
        )
        for word, windowed in SIDES
    )
    words = "Of all requests of each window, waiting in the queue included."
    return figure(title, words, "s", *queries, width=4, graph=False)


BOARD: Final = Board(
    uid="lbctl-before-after",
    title="lbctl / Before and after",
    description="The same panels left and right of the last scale event of the chosen time range:"
    " `Window` seconds that end with it, and as many that begin `Settling` seconds after it. The"
    " curves want a time range of two hours at most.",
    choices=(
        Choice("direction", "Direction", (("up", "up"), ("down", "down")), every=".+"),
        Choice(
            "window",
            "Window",
            (
                ("30 s", "30"),
                ("1 min", "60"),
                ("2 min", "120"),
                ("5 min", "300"),
                ("15 min", "900"),
            ),
            first=1,
        ),
        Choice(
            "settle",
            "Settling",
            (("none", "0"), ("15 s", "15"), ("30 s", "30"), ("1 min", "60"), ("2 min", "120")),
            first=2,
        ),
    ),
    time="now-30m",
    parts=(
        Row("In figures"),
        figure(
            "Event",
            "When the fleet last changed its size, within the chosen time range.",
            "dateTimeAsIso",
            Query(f"vector({EVENT} * 1000)", "at", instant=True),
            width=4,
            graph=False,
        ),
        figure(
            "Replicas",
            "That served, mean of each window.",
            "short",
            *(
                Query(mean(windowed(READY)), f"{{{{service}}}} {word}", instant=True)
                for word, windowed in SIDES
            ),
            width=4,
            graph=False,
            decimals=1,
        ),
        means("Requests", "Mean rate of each window.", "reqps", REQUESTS, "{{service}}"),
        latencies("p50", 0.5),
        latencies("p99", 0.99),
        means(
            "Failed",
            "Share of the requests that got a 5xx, mean of each window.",
            "percentunit",
            ERROR_RATIO,
            "{{service}}",
        ),
        *(
            bars(
                f"Mean CPU of each VM, {word}",
                "Mean of the window, of what the VM may use: as the host, its virtual CPUs and the"
                " guest itself see it. What the host sees beyond the virtual CPUs is QEMU's own.",
                "percentunit",
                Query(mean(windowed(VM_CPU)), "{{vm}} {{view}}", instant=True),
                width=12,
            )
            for word, windowed in SIDES
        ),
        Row("As curves: left before, right after"),
        *sides(
            "CPU of each VM",
            "Of what the VM may use: as the host, its virtual CPUs and the guest itself see it.",
            "percentunit",
            Query(VM_CPU, "{{vm}} {{view}}"),
        ),
        *sides(
            "Requests",
            "Requests answered each second.",
            "reqps",
            Query(REQUESTS, "{{service}}"),
        ),
        *sides(
            "Latency",
            "Half, and 99 of 100, of the requests took no longer.",
            "s",
            Query(P50, "{{service}} p50"),
            Query(P99, "{{service}} p99"),
            log=True,
        ),
        *sides(
            "Errors",
            "Share of the requests that got a 5xx.",
            "percentunit",
            Query(ERROR_RATIO, "{{service}}"),
        ),
        *sides(
            "Replicas",
            "How many served.",
            "short",
            Query(READY, "{{service}}"),
            steps=True,
        ),
    ),
)
