"""Who takes part, and who is best."""

from __future__ import annotations

import pytest

from autoscale.compare import (
    HPA,
    MEASURES,
    OURS,
    OURS_COLD,
    RIVALS,
    best,
    concurrency_at_target,
    meaning,
    misses,
    ours,
    ranked,
    rivals,
    settled,
    standing,
    total,
)
from autoscale.rules import Rules
from autoscale.simulate import simulate
from autoscale.simulation.scenario import Scenario
from autoscale.simulation.trace import sampled
from tests.standings import score, stands

VIOLATING, *_ = MEASURES
RELIEF = next(measure for measure in MEASURES if measure.title == "relief s")
SOME = Scenario("some", sampled([5.0] * 30 + [30.0] * 120), standbys=1, snapshot=True)


def test_all_have_the_same_bounds_and_boots_and_rivals_no_standby() -> None:
    entries = (*ours(SOME, Rules(max=10)), *rivals(SOME, Rules(max=10)))
    assert [entry.name for entry in entries] == [OURS, OURS_COLD, *RIVALS]
    assert entries[0].scenario == SOME
    for entry in entries[1:]:
        assert entry.scenario.standbys == 0
        assert not entry.scenario.snapshot
        assert entry.scenario.timing == SOME.timing
        assert entry.scenario.seed == SOME.seed


def test_without_standby_and_snapshot_ours_plays_once() -> None:
    bare = ours(SOME, Rules())[1].scenario
    assert [entry.name for entry in ours(bare, Rules())] == [OURS_COLD]


def test_each_of_them_can_play_and_stays_within_bounds() -> None:
    rules = Rules(max=5)
    scenario = Scenario("some", SOME.rate, max_replicas=5)
    for entry in (*ours(scenario, rules), *rivals(scenario, rules)):
        played = simulate(entry.scenario, entry.planner)
        assert played.planner == entry.name
        assert 1 <= played.series.desired.min() <= played.series.desired.max() <= 5


def test_the_concurrency_at_the_target_is_that_of_its_queue() -> None:
    # one server at 0.6: 0.6 / (1 − 0.6) = 1.5 in the system (M/M/1)
    assert concurrency_at_target(1, Rules(max=2, target_cpu=0.6)) == pytest.approx(1.5)
    # two servers at 0.5: 2ρ / (1 − ρ²) = 4 / 3 in the system (M/M/2)
    assert concurrency_at_target(2, Rules(max=1, target_cpu=0.5)) == pytest.approx(4 / 3)
    # many: hardly anybody waits
    assert concurrency_at_target(8, Rules(max=10, target_cpu=0.6)) == pytest.approx(4.8, abs=0.01)


def test_it_begins_with_as_many_as_the_load_begins_with_wants() -> None:
    rules = Rules(min=1, max=4, target_cpu=0.6)
    assert settled(5.0, 0.1, 1, rules) == 1
    assert settled(13.0, 0.1, 1, rules) == 3  # 1.3 servers' work / 0.6 = 2.2
    assert settled(130.0, 0.1, 1, rules) == 4
    assert settled(0.0, 0.1, 1, Rules(min=0)) == 1


def test_a_standing_is_the_median_of_the_runs() -> None:
    runs = [
        score(violating_seconds=n, relief_median_s=r) for n, r in ((9, 4.0), (1, None), (5, 8.0))
    ]
    found = standing("x", runs)
    assert found.violating_seconds == 5
    assert found.relief_median_s == 6.0  # of those that had an overload
    assert found.times_the_oracle == pytest.approx(1.25)


def test_a_total_is_a_sum_with_the_worst_relief() -> None:
    found = total(
        "x",
        [
            stands("x", violating_seconds=3, vm_seconds=100.0, relief_worst_s=20.0),
            stands("x", violating_seconds=4, vm_seconds=300.0),
        ],
    )
    assert found.violating_seconds == 7
    assert found.vm_seconds == 400
    assert found.times_the_oracle == pytest.approx((1.25 + 3.75) / 2)
    assert found.relief_worst_s == 20.0


def test_the_best_are_those_with_the_least() -> None:
    a, b, c = (stands(n, violating_seconds=v) for n, v in (("a", 3), ("b", 3), ("c", 9)))
    assert best([a, b, c], VIOLATING) == {"a", "b"}
    assert best([a, b], VIOLATING) == set(), "all alike: nothing to mark"
    assert best([a], VIOLATING) == set()


def test_no_overload_is_better_than_a_quick_relief() -> None:
    assert best([stands("a", relief_median_s=4.0), stands("b")], RELIEF) == {"b"}
    assert RELIEF.words(stands("b")) == "-"


def test_the_rank_is_by_violations_and_then_by_cost() -> None:
    field = [
        stands("dear", violating_seconds=3, vm_seconds=900.0),
        stands("late", violating_seconds=9, vm_seconds=10.0),
        stands("cheap", violating_seconds=3, vm_seconds=100.0),
    ]
    assert [s.name for s in ranked(field)] == ["cheap", "dear", "late"]


def test_the_meaning_names_the_best_the_next_and_the_price() -> None:
    a = stands("a", violating_seconds=6, vm_seconds=120.0)
    b = stands("b", violating_seconds=30, vm_seconds=100.0)
    assert meaning([b, a], 600.0) == (
        "a: p99 was over the objective, or a request was lost, in 6 of 600 s (1.0%), with 1.50"
        " times the machine time of one who knew it all. That is the best of them; next is b"
        " with 30 s. The best took 20% more machine time than the next."
    )
    assert "as much machine time as the next" in meaning([a, stands("c", vm_seconds=120.0)], 600.0)
    assert meaning([a], 600.0).endswith("knew it all.")
    lost = stands("a", violating_seconds=400, vm_seconds=120.0)
    assert "too few for this load" in meaning([lost], 600.0)


def test_a_rival_with_fewer_violations_is_a_miss_and_so_is_a_cheaper_hpa() -> None:
    mine = stands(OURS_COLD, violating_seconds=5, vm_seconds=100.0)
    worse = stands(HPA, violating_seconds=5, vm_seconds=100.0)
    assert misses("step", mine, [worse]) == []
    other = stands("other", violating_seconds=4, vm_seconds=1.0)
    assert misses("step", mine, [worse, other]) == [
        "step: 5 violating seconds, other has 4",
    ]
    cheaper = stands(HPA, violating_seconds=9, vm_seconds=90.0)
    assert misses("step", mine, [cheaper]) == [f"step: 100 VM-seconds, {HPA} has 90"]
