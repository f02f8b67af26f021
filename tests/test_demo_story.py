"""The demo's verdict: a good story passes, and each thing it lacks fails a check of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from lb.demo_story import (
    ACTS,
    CpuViews,
    Moment,
    Story,
    VmPoint,
    activation_s,
    cpu_views,
    noticed_s,
    verdict,
)
from loadtest.result import Counts
from loadtest.stats import Distribution
from tests import stories

Lack = Callable[[Story], None]


def failed(story: Story) -> list[str]:
    return [check.what for check in verdict(story) if not check.ok]


def saw(story: Story, what: str) -> str:
    (check,) = [check for check in verdict(story) if what in check.what]
    return check.saw


def test_a_good_story_passes_every_check() -> None:
    checks = verdict(stories.story())
    assert [check.ok for check in checks] == [True] * 6
    assert all(check.what and check.saw for check in checks)
    assert saw(stories.story(), "p99") == "8.00 s → 0.40 s (0.05)"


@pytest.mark.parametrize("reason", ["cpu_overload", "queue", "concurrency"])
def test_whichever_part_asked_for_most_an_overload_is_one(reason: str) -> None:
    """Queue, running requests and CPU all see it: chance decides which asks for most."""
    assert failed(with_reason("scale.up", reason)) == []


@pytest.mark.parametrize("reason", ["cpu_low", "load_low"])
def test_whichever_part_kept_most_little_load_is_little(reason: str) -> None:
    assert failed(with_reason("scale.down", reason)) == []


def with_reason(kind: str, reason: str) -> Story:
    moments = stories.moments()
    return stories.story(
        moments=[replace(m, reason=reason) if m.kind == kind else m for m in moments]
    )


# ── each check on its own ─────────────────────────────────────────────────────────────────────────


def broke(story: Story) -> None:
    story.failure = "no second replica came within 150 s"


def two_from_the_start(story: Story) -> None:
    story.points = [replace(p, ready=2) if p.t < 10 else p for p in story.points]


def none_under_low_load(story: Story) -> None:
    story.points = [replace(p, ready=0) if p.t < stories.ACT_S else p for p in story.points]


def never_grew(story: Story) -> None:
    story.moments = [m for m in story.moments if m.kind != "scale.up"]


def grew_for_another_reason(story: Story) -> None:
    story.moments = [
        replace(m, reason="below_min") if m.kind == "scale.up" else m for m in story.moments
    ]


def grew_twice(story: Story) -> None:
    (grew,) = [m for m in story.moments if m.kind == "scale.up"]
    story.moments.append(replace(grew, t=70.0))


def the_second_never_served(story: Story) -> None:
    story.points = [replace(p, ready=min(p.ready, 1)) for p in story.points]


def a_third_came(story: Story) -> None:
    story.points = [replace(p, ready=3) if 70 < p.t < 75 else p for p in story.points]


def p99_stayed(story: Story) -> None:
    story.result = stories.with_phases(after=stories.times(2.01))


def nobody_was_answered_in_after(story: Story) -> None:
    story.result = stories.with_phases(after=Distribution())


def nobody_was_answered_in_high(story: Story) -> None:
    story.result = stories.with_phases(high=Distribution())


def p99_of_nothing(story: Story) -> None:
    story.result = stories.with_phases(high=stories.times(0.0))


def never_shrank(story: Story) -> None:
    story.points.append(replace(story.points[-1], ready=2))


def ended_with_one_booting(story: Story) -> None:
    story.points.append(replace(story.points[-1], booting=1))


def shrank_for_another_reason(story: Story) -> None:
    story.moments = with_reason("scale.down", "override").moments


def shrank_twice(story: Story) -> None:
    (shrank,) = [m for m in story.moments if m.kind == "scale.down"]
    story.moments.append(replace(shrank, t=70.0))


def nobody_was_let_go(story: Story) -> None:
    story.moments = [m for m in story.moments if m.kind != "scale.down"]


def lose(counts: Counts) -> Lack:
    def lack(story: Story) -> None:
        story.result = stories.result(counts=counts)

    return lack


END, LOW, GREW, P99, BACK, LOST = range(6)


@pytest.mark.parametrize(
    ("lack", "check"),
    [
        (broke, END),
        (two_from_the_start, LOW),
        (none_under_low_load, LOW),
        (never_grew, GREW),
        (grew_for_another_reason, GREW),
        (grew_twice, GREW),
        (the_second_never_served, GREW),
        (a_third_came, GREW),
        (p99_stayed, P99),
        (nobody_was_answered_in_after, P99),
        (nobody_was_answered_in_high, P99),
        (p99_of_nothing, P99),
        (never_shrank, BACK),
        (ended_with_one_booting, BACK),
        (shrank_for_another_reason, BACK),
        (shrank_twice, BACK),
        (nobody_was_let_go, BACK),
        (lose(Counts(100, 100, 99, 0, 1, 0, 0)), LOST),
        (lose(Counts(100, 100, 99, 0, 0, 1, 0)), LOST),
        (lose(Counts(100, 100, 99, 0, 0, 0, 1)), LOST),
        (lose(Counts(0, 0, 0, 0, 0, 0, 0)), LOST),
    ],
)
def test_what_a_story_lacks_fails_one_check_and_no_other(lack: Lack, check: int) -> None:
    names = [c.what for c in verdict(stories.story())]
    story = stories.story()
    lack(story)
    assert failed(story) == [names[check]]


def test_just_below_a_quarter_is_recovered() -> None:
    assert failed(stories.story(result=stories.with_phases(after=stories.times(1.99)))) == []


def test_what_was_seen_is_told() -> None:
    broken = stories.story()
    broke(broken)
    assert saw(broken, "end") == "no second replica came within 150 s"
    assert saw(stories.story(), "overload") == "1 → 2: CPU 1.09 of target 0.80 on 1"
    twice = stories.story()
    grew_twice(twice)
    assert saw(twice, "overload").startswith("2 times")
    assert saw(stories.story(moments=[]), "overload") == "nothing was started"
    alone = stories.story()
    the_second_never_served(alone)
    assert saw(alone, "overload").endswith("on 1; then 1 served at the most")
    assert saw(stories.story(), "back") == "2 → 1: 1 would be at 0.55 of 0.80"
    assert saw(stories.story(moments=[]), "back") == "not for that reason"
    back_twice = stories.story()
    shrank_twice(back_twice)
    assert saw(back_twice, "back").startswith("2 times")
    still_two = stories.story()
    never_shrank(still_two)
    assert saw(still_two, "back") == "2 at the end"
    booting = stories.story()
    ended_with_one_booting(booting)
    assert saw(booting, "back") == "1 and 1 booting at the end"
    lossy = stories.result(
        counts=Counts(100, 100, 95, 3, 3, 2, 0), errors={"http_503": 2, "refused": 1}
    )
    assert saw(stories.story(result=lossy), "failed") == (
        "5 of 100 requests (2 × http_503, 1 × refused)"
    )


@pytest.mark.parametrize("failure", ["interrupted", ""])
def test_a_story_that_never_began_fails_all_it_can(failure: str) -> None:
    checks = verdict(Story(failure=failure))
    assert [check.ok for check in checks] == [not failure] + [False] * 5


def test_without_a_result_nothing_is_claimed_of_requests() -> None:
    checks = verdict(stories.story(result=None))
    assert [check.saw for check in checks if not check.ok] == ["not measured", "not measured"]


# ── windows ───────────────────────────────────────────────────────────────────────────────────────


def test_an_act_lasts_until_the_next_and_the_last_one_to_the_last_point() -> None:
    story = stories.story()
    assert [story.window(act) for act in ACTS] == [(20.0 * n, 20.0 * n + 20) for n in range(5)]
    assert story.window("encore") is None


def test_a_point_on_the_border_belongs_to_the_later_act() -> None:
    story = stories.story()
    low, high = story.during("low"), story.during("high")
    assert (low[0].t, low[-1].t, high[0].t) == (0.0, 19.5, 20.0)
    assert story.during("encore") == []


def test_every_point_since_the_load_began_belongs_to_one_act() -> None:
    story = stories.story()
    assert [p for act in ACTS for p in story.during(act)] == [p for p in story.points if p.t >= 0]


def test_an_act_that_broke_before_its_first_point_is_an_instant() -> None:
    story = stories.story(starts={"low": 0.0, "high": 200.0})
    assert story.window("high") == (200.0, 200.0)
    assert story.during("high") == []
    assert Story(starts={"low": 3.0}).window("low") == (3.0, 3.0)


# ── CPU, activation, JSON ─────────────────────────────────────────────────────────────────────────


def test_cpu_is_the_mean_over_serving_replicas() -> None:
    views = cpu_views(stories.story(), "low")
    assert views is not None
    assert (views.host, views.vcpu, views.guest) == pytest.approx((0.2, 0.18, 0.15))
    assert views.overhead == pytest.approx(0.02)
    both = cpu_views(stories.story(), "after")
    assert both is not None
    assert both.host == pytest.approx((0.3 + 0.291) / 2)


@pytest.mark.parametrize(
    "vm",
    [
        VmPoint("ready", None, 0.5, 0.5),
        VmPoint("ready", 0.5, None, 0.5),
        VmPoint("ready", 0.5, 0.5, None),
        VmPoint("booting", 0.5, 0.5, 0.5),
        VmPoint("draining", 0.5, 0.5, 0.5),
    ],
)
def test_cpu_ignores_points_without_all_three_views_and_those_that_do_not_serve(
    vm: VmPoint,
) -> None:
    story = stories.story()
    story.points = [replace(p, vms={**p.vms, "other": vm}) for p in story.points]
    assert cpu_views(story, "low") == cpu_views(stories.story(), "low")
    story.points = [replace(p, vms={"other": vm}) for p in story.points]
    assert cpu_views(story, "low") is None


def test_missing_is_not_zero() -> None:
    assert cpu_views(Story(), "low") is None
    zero = VmPoint("ready", 0.0, 0.0, 0.0)
    story = stories.story()
    story.points = [replace(p, vms={"a": zero}) for p in story.points]
    assert cpu_views(story, "low") == CpuViews(0.0, 0.0, 0.0)


def test_activation_counts_from_the_decision_to_the_first_that_serves_after_it() -> None:
    assert activation_s(stories.moments()) == pytest.approx(11.0)
    later = Moment(90.0, "vm.ready", "web-9", "steady", "")
    assert activation_s([later, *stories.moments()]) == pytest.approx(11.0)


def test_the_first_replica_that_has_to_be_there_is_not_what_was_noticed() -> None:
    told = stories.story()
    noticed = noticed_s(told)
    told.moments.insert(0, Moment(-24.0, "scale.up", "web", "below_min", "0 → 1: min = 1"))
    assert noticed_s(told) == noticed


def test_noticing_counts_from_the_rise_of_the_load_to_the_decision() -> None:
    assert noticed_s(stories.story()) == pytest.approx(6.0)
    assert noticed_s(stories.story(starts={"low": 0.0})) is None
    assert noticed_s(stories.story(moments=[])) is None
    early = [replace(m, t=3.0) if m.kind == "scale.up" else m for m in stories.moments()]
    assert noticed_s(stories.story(moments=early)) is None


@pytest.mark.parametrize("missing", ["scale.up", "vm.ready"])
def test_activation_is_unknown_without_either_end(missing: str) -> None:
    left = [m for m in stories.moments() if m.kind != missing or m.t < 0]
    assert activation_s(left) is None
    assert activation_s([]) is None


def test_its_json_holds_all_of_it() -> None:
    story = stories.story(failure="„interrupted“ </script>")
    assert json.loads(story.to_json()) == json.loads(json.dumps(asdict(story)))
    assert json.loads(Story().to_json())["result"] is None
