"""Several results in one: sums are sums, percentiles are of all requests, doubts are kept."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from loadtest import page
from loadtest.errors import InputError
from loadtest.ledger import Ledger
from loadtest.merge import merge_results, merge_rows
from loadtest.outcome import Ended, result_of
from loadtest.plan import Plan
from loadtest.result import Counts, Result, Second
from loadtest.stats import Tally
from loadtest.target import Settings
from loadtest.timeline import Share, Timeline

PLAN = "low=10@2s,high=20@2s"
latencies = st.lists(st.floats(0.0001, 5), min_size=1, max_size=60)


def part(
    times: list[float],
    *,
    share: Share | None = None,
    plan: str = PLAN,
    started: float = 1000.0,
    lag: float = 0.0001,
) -> Result:
    """A run of the plan in which the n-th request took `times[n]`, an error if over 4 s."""
    made = Settings("http://a.test/", Plan.parse(plan))
    ledger, timeline = Ledger(), Timeline(made.plan, "constant", None, share or Share())  # type: ignore[arg-type]
    after = 1.0
    left = list(times)
    while not timeline.finished:
        now = timeline.wakes_at
        while now >= after:
            ledger.end_second(after, timeline.phase.name, timeline.rate(after))
            after += 1.0
        for _, visit in timeline.due(now, 1):
            took = left.pop(0) if left else 0.001
            ledger.intend(visit, lag)
            ledger.send(visit)
            if took > 4:
                ledger.fail(visit, "timeout", took)
            else:
                ledger.complete(visit, 200, took, took)
    ledger.end_second(after, timeline.phase.name, 20)
    return result_of(
        made, ledger, timeline, Ended(started_unix=started, duration=4.0, cpu=0.5, by="plan")
    )


@settings(max_examples=30)
@given(latencies, st.integers(2, 4))
def test_workers_parts_add_up_to_what_one_would_have_found(
    times: list[float], workers: int
) -> None:
    times += [0.001] * (60 - len(times))
    alone = part(times)
    parts = [part(times[k::workers], share=Share(k, workers)) for k in range(workers)]
    whole = merge_results([(f"worker {k}", found) for k, found in enumerate(parts)])
    for name in ("counts", "errors", "status", "latency_s", "service_s", "send_lag_s"):
        assert getattr(whole, name) == getattr(alone, name)
    assert Tally.decode(whole.histograms.latency_us).counts == (
        Tally.decode(alone.histograms.latency_us).counts
    )
    for phase, same in zip(whole.phases, alone.phases, strict=True):
        assert phase == same
    for row, like in zip(whole.series, alone.series, strict=True):
        for field in fields(Second):
            if field.name not in ("rate", "in_flight"):
                assert getattr(row, field.name) == getattr(like, field.name), field.name
    assert whole.cpu_s == pytest.approx(0.5 * workers)
    assert whole.trustworthy
    assert [worker.name for worker in whole.workers] == [f"worker {k}" for k in range(workers)]
    assert Result.from_json(whole.to_json(), "x") == whole


def test_machines_are_placed_by_their_clocks() -> None:
    first, second = part([0.01] * 60), part([0.02] * 60, started=1002.5)
    whole = merge_results([("b.json", second), ("a.json", first)])
    assert whole.started_unix == 1000
    assert whole.duration_s == 6.5
    assert whole.counts.completed == 120
    # The second begins 2.5 s later; the empty rows are what is left after the plan's end.
    assert [(row.t, row.intended) for row in whole.series] == [
        (0, 10), (1, 10), (2, 30), (3, 30), (4, 20), (5, 20), (6, 0),
    ]  # fmt: skip
    # Half a second apart, they are still rows of a second each that follow one another.
    assert all(row.span == 1 for row in whole.series[:-1])
    axes = Figure().subplots()
    page._rates(axes, whole)
    (intended,) = [line for line in axes.get_lines() if line.get_label() == "intended"]
    assert list(intended.get_ydata()) == [10, 10, 30, 30, 20, 20, 0]  # type: ignore[arg-type]
    assert whole.series[2].p50_s == pytest.approx(0.01, rel=0.01)
    assert whole.series[4].p50_s == pytest.approx(0.02, rel=0.01)
    assert (whole.phases[0].start, whole.phases[1].end) == (0, 6.5)
    assert whole.plan.text == f"2 times {PLAN}"
    assert [phase.rate for phase in whole.plan.phases] == [20, 40]
    assert [shift.rate for shift in whole.shifts] == [20, 40]


def test_other_plans_stand_side_by_side() -> None:
    whole = merge_results([("a", part([], plan="x=10@1s")), ("b", part([], plan="y=5@1s"))])
    assert whole.plan.text == "x=10@1s and y=5@1s"
    assert [phase.name for phase in whole.phases] == ["x", "y"]
    assert [shift.phase for shift in whole.shifts] == ["x", "y"]


def test_a_late_worker_spoils_it_and_is_named() -> None:
    whole = merge_results([("worker 0", part([])), ("worker 1", part([], lag=0.05))])
    assert not whole.trustworthy
    assert whole.reasons[0].startswith("worker 1: send lag p99 is 50")
    assert [worker.send_lag_p99_s > 0.01 for worker in whole.workers] == [False, True]


def test_rows_without_a_histogram_have_no_percentiles() -> None:
    row = part([0.01] * 60).series[0]
    both = merge_rows([row, replace(row, latency_us="", p50_s=0.5)])
    assert (both.intended, both.p50_s, both.latency_us) == (20, None, "")
    assert merge_rows([row]) is row


def test_what_cannot_be_merged_is_named() -> None:
    found = part([])
    old = replace(found, phases=[replace(phase, histograms=None) for phase in found.phases])
    with pytest.raises(InputError, match=r"^old\.json: written before"):
        merge_results([("a.json", found), ("old.json", old)])
    broken = replace(found, histograms=replace(found.histograms, latency_us="x"))
    with pytest.raises(InputError, match="cannot merge"):
        merge_results([("a.json", found), ("b.json", broken)])
    assert merge_results([("a.json", found)]) is found


def test_counts_are_all_added() -> None:
    found = part([5.0] * 60)
    assert found.counts == Counts(60, 60, 0, 60, 60, 0, 0)
    assert merge_results([("a", found), ("b", found)]).counts == Counts(120, 120, 0, 120, 120, 0, 0)
