"""The benchmark of the load tester reads what its peers print and judges by what it states."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bench.loadtest import RATE, SECONDS, Ours, Round, bare_loop, misses, ours_of, report
from bench.parts.loadtest_peers import Peer, read_autocannon, read_hey, read_wrk
from loadtest.result import Counts, WorkerResult
from tests.test_loadtest_views import RESULT

WRK = """Running 3s test @ http://127.0.0.1:8000/
  1 threads and 64 connections
  Latency Distribution
     50%  501.00us
     99%    1.25ms
  361231 requests in 3.00s, 71.32MB read
Requests/sec: 120380.41
Transfer/sec:     23.77MB
"""
HEY = """
Summary:
  Total:\t3.0013 secs
  Requests/sec:\t19831.2210

Latency distribution:
  90% in 0.0021 secs
  99% in 0.0042 secs
"""


def ours(rate: float, **others: Any) -> Ours:
    figures: dict[str, Any] = {
        "wanted": rate, "answered": rate, "bare_lag_p99_s": 0.0003, "lag_p99_s": 0.0006,
        "lag_max_s": 0.002, "service_p99_s": 0.001, "cpu_share": 0.4,
        "core_wait": 0.001, "realtime": True, "trustworthy": True,
    }  # fmt: skip
    return Ours(**{**figures, **others})


WORKERS = [WorkerResult("0", 0, 0, 1.0, 0.001, 0.002, core_wait_s=0.0)]
GOOD = Round(Peer(90_000, 0.001), Peer(19_800, 0.004), None, ours(RATE), ours(30_000), None)


def test_what_the_peers_print() -> None:
    assert read_wrk(WRK) == Peer(120380.41, 0.00125)
    assert read_hey(HEY) == Peer(19831.221, 0.0042)
    document = {"requests": {"average": 20001.5}, "latency": {"p99": 3}}
    assert read_autocannon(json.dumps(document)) == Peer(20001.5, 0.003)
    assert read_wrk("Requests/sec: 1.5").p99_s is None
    with pytest.raises(SystemExit, match="cannot read"):
        read_wrk("oops")


def test_three_good_rounds_meet_the_targets() -> None:
    assert misses([GOOD] * 3) == []
    text = report([GOOD] * 3)
    assert "0.33 of wrk's rate" in text
    assert "0.60 ms, of which an empty loop has 0.30 ms" in text
    assert "autocannon      not installed" in text


def test_a_busy_machines_rounds_do_not_count() -> None:
    busy = replace(GOOD, punctual=ours(RATE, bare_lag_p99_s=0.002, lag_p99_s=0.004))
    assert misses([busy, GOOD, busy, GOOD, GOOD]) == []
    crowded = replace(GOOD, punctual=ours(RATE, core_wait=0.02, lag_p99_s=0.004))
    assert misses([crowded, GOOD, busy, GOOD, GOOD]) == []
    (missed,) = misses([busy, GOOD, busy, GOOD, busy])
    assert "only 2 of 5 rounds" in missed
    assert "not counted" in report([busy])


def test_each_target_can_be_missed() -> None:
    late = replace(GOOD, punctual=ours(RATE, lag_p99_s=0.0012))
    assert misses([late, late, GOOD]) == [
        "at 20000/s the p99 of the send lag is 1.20 ms, more than 1 ms"
    ]
    assert misses([late, GOOD, GOOD]) == []
    slow = replace(GOOD, fast=ours(30_000, answered=25_000))
    assert misses([slow] * 3) == ["of a third of wrk's rate only 83.3% was answered"]
    lossy = replace(GOOD, punctual=ours(RATE, answered=10_000))
    assert misses([lossy] * 3) == ["of 20000/s only 50.0% was answered"]


def test_a_tester_that_sends_all_but_too_late_misses_a_third_of_wrk() -> None:
    due = 30_000 * SECONDS
    all_of_it = replace(
        RESULT, counts=Counts(due, due, due, 0, 0, 0, 0), trustworthy=True, workers=WORKERS
    )
    punctual = replace(all_of_it, duration_s=SECONDS + 0.01)
    assert misses([replace(GOOD, fast=ours_of(punctual, 30_000, 0.0003, realtime=True))] * 3) == []
    early = replace(all_of_it, duration_s=SECONDS / 2, counts=Counts(9, 9, 9, 0, 0, 0, 0))
    assert ours_of(early, 3, 0.0, realtime=True).answered == 9 / SECONDS
    slow = ours_of(replace(all_of_it, duration_s=SECONDS * 2), 30_000, 0.0003, realtime=True)
    assert misses([replace(GOOD, fast=slow)] * 3) == [
        "of a third of wrk's rate only 50.0% was answered"
    ]
    late = ours_of(replace(punctual, trustworthy=False), 30_000, 0.0003, realtime=True)
    doubted = replace(GOOD, fast=late)
    assert misses([doubted, GOOD, GOOD]) == []
    assert misses([doubted, doubted, GOOD]) == [
        "at a third of wrk's rate 2 of 3 runs are not to be trusted"
    ]


def test_the_empty_loop_keeps_the_schedule() -> None:
    found = bare_loop(1000, 0.1)
    assert found.count >= 100
    assert 0 < found.p99 <= found.max
