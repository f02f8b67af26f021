"""What people read: the report's numbers, the live view, thresholds."""

from __future__ import annotations

import io
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.core_wait import core_wait_s
from loadtest.errors import InputError
from loadtest.live import Lines, View, bars, while_seen
from loadtest.report import duration, print_comparison, print_one
from loadtest.result import (
    Counts,
    Histograms,
    PhaseResult,
    PlanResult,
    Result,
    Second,
    WorkerResult,
)
from loadtest.stats import Distribution, Tally
from loadtest.thresholds import Threshold
from tests.test_loadtest_cli import loadtest

TIMES = Distribution(100, 0.02, 0.01, 0.05, 0.25, 0.5, 1.0)
COUNTS = Counts(1000, 990, 980, 10, 30, 10, 0)
EMPTY = Tally().encode()
PHASE = PhaseResult("low", 0, 5, COUNTS, {"http_503": 20, "refused": 10}, TIMES, TIMES)
RESULT = Result(
    url="http://a.test/[bold]",
    method="GET",
    plan=PlanResult("low=100@10s", "constant", 0, 100, 60, []),
    started_unix=0,
    duration_s=10,
    stopped_by="plan",
    counts=COUNTS,
    reconnects=0,
    connections_opened=5,
    bytes_received=0,
    cpu_s=0.1,
    dropped={"max_in_flight": 10},
    errors={"http_503": 20, "refused": 10},
    status={"200": 960, "503": 20},
    latency_s=TIMES,
    service_s=Distribution(),
    send_lag_s=TIMES,
    trustworthy=False,
    reasons=["send lag p99 is 250.0 ms"],
    phases=[PHASE, replace(PHASE, name="high", start=5, end=10)],
    shifts=[],
    series=[],
    histograms=Histograms(EMPTY, EMPTY, EMPTY),
)
SECOND = Second(
    3.0, 1.0, "low", 20, 20, 20, 19, 1, 0, 4, 0.0123, None, 0.0234, 0.5, {"http_503": 1}
)


def console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=160, force_terminal=False), out


def test_one_report() -> None:
    to, out = console()
    print_one(to, RESULT)
    text = out.getvalue()
    assert "GET http://a.test/[bold]" in text
    assert "errors: http_503 20, refused 10" in text
    assert "NOT TRUSTWORTHY: send lag p99 is 250.0 ms" in text
    assert "high" in text
    assert "–" in text


def test_a_report_says_what_the_machine_did(tmp_path: Path) -> None:
    to, out = console()
    workers = [
        WorkerResult("0", 500, 500, 1.0, 0.001, 0.002, core_wait_s=0.5),
        WorkerResult("1", 500, 500, 1.0, 0.004, 0.008, core_wait_s=2.0),
    ]
    print_one(to, replace(RESULT, workers=workers))
    assert "send lag p99 by worker: 0 1 ms, 1 4 ms" in out.getvalue()
    assert "core for 67% of the time in which it had work to do" in out.getvalue()
    to, out = console()
    print_one(to, replace(RESULT, workers=[replace(workers[0], core_wait_s=0.05)]))
    assert "others" not in out.getvalue()
    now = core_wait_s()
    assert now is None or now >= 0
    file = tmp_path / "schedstat"
    assert core_wait_s(file) is None
    file.write_text("12 3500000000 9\n")
    assert core_wait_s(file) == 3.5
    file.write_text("0\n")
    assert core_wait_s(file) is None


def test_a_comparison() -> None:
    to, out = console()
    better = replace(RESULT, latency_s=replace(TIMES, p99=0.05), trustworthy=True, reasons=[])
    print_comparison(to, [("a.json", RESULT), ("b.json", better)])
    text = out.getvalue()
    assert "a.json (!)" in text
    assert "50 ms  ×0.20" in text


def test_durations_read_well() -> None:
    assert [duration(s) for s in (0.00087, 0.0123, 4.5678)] == ["870 µs", "12.3 ms", "4.57 s"]


def test_plain_lines_and_the_live_view() -> None:
    to, out = console()
    with Lines(to) as lines:
        lines.show(SECOND)
    assert "4.0 s  low" in out.getvalue()
    assert "p50 12.3 ms  p99 –  http_503 1\n" in out.getvalue()
    shown = io.StringIO()
    for planned in (30.0, None):
        with View(Console(file=shown, force_terminal=True, width=120), planned) as view:
            view.show(SECOND)
            view.show(SECOND)
    assert "4 of 30 s" in shown.getvalue()
    assert "p90 23.4 ms" in shown.getvalue()
    assert "p99.9 500 ms" in shown.getvalue()
    assert "errors: http_503 2" in shown.getvalue()
    assert "until shifted" in shown.getvalue()
    assert bars(deque([0.0, 1.0, 2.0])) == " ▄█"


def test_a_view_that_nobody_sees_any_more_goes_quiet() -> None:
    for gone in (BrokenPipeError(), OSError(28, "No space left"), SystemExit(1)):
        shown: list[Second] = []

        def show(row: Second, shown: list[Second] = shown, gone: BaseException = gone) -> None:
            shown.append(row)
            raise gone

        seen = while_seen(show)
        seen(SECOND)
        seen(SECOND)
        assert shown == [SECOND]


@pytest.mark.parametrize(
    ("text", "missed"),
    [
        ("p99>250ms", False),
        ("p99>=250ms", True),
        ("p99.9 > 400ms", True),
        ("mean<1s", True),
        ("errors>3%", False),
        ("errors>2.9%", True),
        ("dropped>0", True),
        ("completed<=979", False),
    ],
)
def test_thresholds(text: str, missed: bool) -> None:
    assert Threshold.parse(text).missed(RESULT) is missed


def test_a_latency_of_nothing_misses_every_threshold() -> None:
    empty = replace(RESULT, latency_s=Distribution())
    assert Threshold.parse("p99>1h").missed(empty)


@pytest.mark.parametrize(
    "text",
    [
        "p99", "p98>1s", "p99>1%", "errors>many", "p99>5",
        "errors>nan", "errors>inf%", "dropped>-1", "completed<1e999", f"p99>{'9' * 400}s",
    ],
)  # fmt: skip
def test_bad_thresholds(text: str) -> None:
    with pytest.raises(InputError, match="threshold"):
        Threshold.parse(text)


async def test_alone_it_prints_its_help() -> None:
    code, out, err = await loadtest()
    assert (code, out) == (2, "")
    assert "\n  report " in err
    assert "\n  run " in err
