"""How many replicas, told as stories over a clock that the test holds. Target 0.6, margin 0.8:
fewer are enough where the rest would stay below 0.48."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest

from autoscale.decision import Decision
from autoscale.model import Direction, Path, Reason, Way
from autoscale.rules import Contention, Forecasting, Mode, Override, RateLimit, Scheduled, Step
from tests.planning import COLD, WALL, Story, plain

STANDBY = Way(Path.STANDBY, 0.05, 1)
SNAPSHOT = Way(Path.SNAPSHOT, 1.5)
ALL_WAYS = (STANDBY, SNAPSHOT, *COLD)


# ── growing by CPU ───────────────────────────────────────────────────────────────────────────────


def test_overload_for_the_whole_window_starts_one_more() -> None:
    story = Story()
    calm = story.ticks(6, 0.9)
    assert (calm.desired, calm.reason) == (1, Reason.NOT_SUSTAINED)
    assert "seen for 4.0 s of 5 s" in calm.sentence
    grown = story.tick(0.9)
    assert (grown.desired, grown.reason, grown.direction) == (2, Reason.CPU_OVERLOAD, Direction.UP)
    assert grown.sentence == (
        "1 → 2: CPU 0.90 of target 0.60 over 7 s on 1 replica asks for 2; cold boot serves in 10 s"
    )


def test_it_goes_to_as_many_as_are_needed_at_once() -> None:
    """3 replicas at 0.9 are 2.7 of work: at 0.6 each that is ceil(4.5) = 5."""
    story = Story(plain(high=9), replicas=3)
    assert story.ticks(7, 0.9, 0.9, 0.9).desired == 5


def test_only_what_was_asked_for_all_through_the_window_is_started() -> None:
    """A rise in the last second asks for eight; nobody knows yet whether it lasts, and it says
    so."""
    story = Story(plain(high=9), replicas=3)
    story.ticks(6, 0.9, 0.9, 0.9)
    decision = story.tick(1.5, 1.5, 1.5)
    assert decision.desired == 5
    assert "asks for 8; more than 5 for 0.0 s of 5 s; cold" in decision.sentence
    capped = Story(plain(high=4), replicas=3).ticks(7, 0.9, 0.9, 0.9)
    assert capped.desired == 4
    assert "asks for 5; max = 4; cold" in capped.sentence


def test_within_the_tolerance_nothing_starts() -> None:
    """0.66 is 10 % above 0.6."""
    assert Story().ticks(100, 0.66).reason is Reason.STEADY
    assert Story().ticks(100, 0.67).desired == 2


def test_one_second_below_the_target_starts_the_window_anew() -> None:
    story = Story()
    story.ticks(6, 0.9)
    story.tick(0.6)
    assert story.ticks(6, 0.9).desired == 1
    assert story.tick(0.9).desired == 2


def test_a_replica_that_boots_counts_and_is_not_averaged() -> None:
    """Two wanted, one ready and at its limit: its 1.0 asks for ceil(1.0 / 0.6) = 2, and 2 it is."""
    story = Story()
    story.ticks(7, 0.9)
    for _ in range(60):
        decision = story.tick(1.0, booting=1)
        assert (decision.desired, decision.reason) == (2, Reason.SETTLING)
    assert "1 ready, 1 on the way" in decision.sentence


def test_at_max_it_says_so_and_stays() -> None:
    decision = Story(plain(high=2), replicas=2).ticks(30, 1.0, 1.0)
    assert (decision.desired, decision.reason) == (2, Reason.AT_MAX)
    assert "asks for 4; max = 2" in decision.sentence


def test_the_partial_seconds_at_both_ends_of_a_spike_do_not_count() -> None:
    """A spike of 4.8 s lifts the means of six seconds; between the end of the first and the
    beginning of the last lie only four."""
    story = Story()
    for load in (0.8, 1.0, 1.0, 1.0, 1.0, 0.9):
        decision = story.tick(load)
    assert decision.desired == 1
    assert "4.0 s of 5 s" in decision.sentence


def test_the_newest_sample_counts_not_the_time_since() -> None:
    """A spike of 5 s, then two lost samples. The last signal is 2 s old and still fresh."""
    story = Story()
    story.ticks(5, 0.9)
    story.tick(0.9, age_s=1.0)
    assert story.tick(0.9, age_s=2.0).desired == 1


def test_a_burst_of_cpu_above_the_limit_tells_how_much_is_needed() -> None:
    """With its limit lifted a replica used 2.4 times what its shape allows."""
    assert Story(plain(burst=2.5)).ticks(7, 2.4).desired == 4


# ── what is cheap may be quick ───────────────────────────────────────────────────────────────────


def test_a_standby_wakes_after_half_a_second_of_queue() -> None:
    """40 wait and one replica serves 20/s: who waits is seen at once, no mean hides it."""
    story = Story(ways=(ALL_WAYS[0], ALL_WAYS[2]))
    story.ticks(30, 0.5)

    def tick() -> Decision:
        return story.tick(1.0, seconds=0.25, queued=200, in_flight=60, arrivals=60)

    assert [tick().desired, tick().desired] == [1, 1]
    decision = tick()
    assert (decision.desired, decision.way) == (2, (Path.STANDBY, 0.05))
    assert decision.sentence.endswith("standby wakes in 0.05 s")


def test_each_way_waits_for_its_window() -> None:
    def until_grown(way: Way) -> float:
        story = Story(ways=(way,))
        story.ticks(30, 0.5)
        for tick in range(1, 80):
            if story.tick(1.0, seconds=0.25).desired > 1:
                return tick / 4
        return 99

    # a mean over a second says nothing of the moments within it: what counts is from the end of
    # the first one to the beginning of the last, a second before its tick
    windows = [0.5, 0.5, 5.0]
    assert [until_grown(way) for way in ALL_WAYS] == [0.25 + window + 1.0 for window in windows]


def test_one_standby_first_and_the_rest_when_it_is_surer() -> None:
    story = Story(plain(high=9, snapshot_window_s=0.75), ways=ALL_WAYS)
    story.ticks(30, 0.5)
    wanted = [
        story.tick(1.0, seconds=0.25, queued=50, in_flight=64, arrivals=60).desired
        for _ in range(6)
    ]
    assert wanted[:3] == [1, 1, 2], "one is on standby"
    assert wanted[3] == 5, "60/s of 20/s each, at 0.6"


# ── queue and concurrency ────────────────────────────────────────────────────────────────────────


def test_where_cpu_is_used_up_arrivals_tell_how_much_is_needed() -> None:
    """20/s each, 100/s come: 5 replicas' work, at 0.6 each 9. CPU alone would ask for 2."""
    story = Story(plain(high=20))
    story.loads(20, 0.5)
    decision = next(d for _ in range(8) if (d := story.load(5.0)).desired > 1)
    assert (decision.desired, decision.reason) == (9, Reason.QUEUE)


def test_a_queue_that_drains_soon_asks_for_nothing() -> None:
    """10 wait, 20/s are served and 11/s come: gone in 1.1 s."""
    story = Story()
    story.ticks(20, 0.5)
    decision = story.ticks(20, 0.6, queued=10, arrivals=11)
    assert decision.desired == 1
    assert "queue 10 drains in 1.1 s" in decision.sentence


def test_the_queue_of_a_slow_boot_does_not_inflate_the_count() -> None:
    """Two replicas' work on one: nine more seconds of queue while the others boot."""
    story = Story(plain(high=20))
    story.loads(20, 0.5)
    grown = next(d for _ in range(20) if (d := story.load(2.0)).desired > 1)
    assert grown.desired == 4
    for second in range(30):
        decision = story.tick(1.0, booting=3, queued=20 * second, in_flight=64, arrivals=40)
        assert decision.desired == 4


def test_who_waits_inside_a_replica_waits_too() -> None:
    """`max_in_flight` lets 64 in; one vCPU works on one of them at a time."""
    story = Story(plain(high=20))
    story.loads(20, 0.5)
    story.tick(1.0, in_flight=30, arrivals=50)
    decision = story.tick(1.0, in_flight=60, arrivals=50)
    assert (
        "queue 59 grows while 50.0/s come and one answers 20.0/s, which asks for 5"
        in decision.sentence
    )
    assert "queue" not in story.tick(0.5, in_flight=60, arrivals=10).sentence, "they may wait"


def test_without_any_sample_those_who_wait_ask_all_the_same() -> None:
    """libvirt does not answer for a while; the proxy sees what it sees. Nobody leaves for it."""
    story = Story(plain(high=8), replicas=2)
    story.ticks(20, 0.5, 0.5)
    wanted = {
        story.tick(None, None, queued=300, in_flight=128, arrivals=90).desired for _ in "1" * 9
    }
    assert max(wanted) > 2
    assert min(wanted) == 2


def test_what_works_off_the_queue_is_no_reason_to_grow() -> None:
    """Two replicas, both busy with what waits; what comes in needs half of them."""
    story = Story(plain(high=8), replicas=2)
    story.ticks(30, 0.5, 0.5)
    assert story.ticks(20, 1.0, 1.0, queued=80, arrivals=20).desired == 2


def test_running_requests_ask_where_cpu_is_idle() -> None:
    """Requests that wait for a database: 180 at once at 45 a replica are four replicas' worth."""
    story = Story(plain(high=8))
    decision = next(d for _ in range(30) if (d := story.tick(0.05, in_flight=180)).desired > 1)
    assert (decision.desired, decision.reason) == (4, Reason.CONCURRENCY)
    assert "180.0 requests running or waiting" in decision.sentence


def test_twice_as_much_is_panic_and_nobody_leaves_for_a_minute() -> None:
    story = Story(plain(high=8, shrink_window_s=10.0), replicas=2)
    story.ticks(10, 0.1, 0.1)
    story.ticks(3, 0.1, 0.1, in_flight=500)
    decision = story.ticks(40, 0.1, 0.1)
    assert (decision.desired, decision.reason) == (2, Reason.PANIC)
    assert story.ticks(40, 0.1, 0.1).desired == 1


def test_a_spike_of_requests_that_is_over_does_not_go_on_asking() -> None:
    """4 s at twenty times the concurrency lift the mean of a minute for a minute."""
    story = Story(plain(high=20))
    story.ticks(60, 0.1, in_flight=5)
    story.ticks(4, 0.1, in_flight=900)
    assert all(story.tick(0.1, in_flight=5).desired == 1 for _ in range(90))


# ── latency ──────────────────────────────────────────────────────────────────────────────────────


def test_a_latency_objective_asks_for_one_more_and_keeps_it_where_it_helped() -> None:
    story = Story(plain(high=8, latency_p99_s=0.5))
    before = story.ticks(15, 0.44, p99_s=0.9)
    assert before.desired == 1, "a p99 over ten seconds must be seen for fifteen"
    decision = story.tick(0.44, p99_s=0.9)
    assert (decision.desired, decision.reason) == (2, Reason.LATENCY)
    assert "p99 0.9 s of 0.5 s asks for 2" in decision.sentence
    assert story.ticks(300, 0.22, 0.22, p99_s=0.3).desired == 2, "one would be too slow again"
    assert story.ticks(120, 0.1, 0.1, p99_s=0.1).desired == 1, "much less work than then"


def test_where_more_did_not_help_no_more_are_started() -> None:
    story = Story(plain(high=8, latency_p99_s=0.5))
    story.ticks(16, 0.5, p99_s=0.9)
    assert max(story.tick(0.25, 0.25, p99_s=0.88).desired for _ in range(60)) == 2
    assert story.ticks(90, 0.2, 0.2, p99_s=0.88).desired == 1, "it helped nobody, so it leaves"
    later = [story.tick(0.4, p99_s=0.9).desired for _ in range(400)]
    assert set(later) == {1}


def test_latency_is_for_when_the_others_say_enough() -> None:
    story = Story(plain(high=8, latency_p99_s=0.5))
    assert story.ticks(7, 0.9, p99_s=3.0).reason is Reason.CPU_OVERLOAD
    assert story.ticks(30, 0.9, booting=1, p99_s=3.0).desired == 2


# ── what is known ahead ──────────────────────────────────────────────────────────────────────────


def wall(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_the_schedule_is_a_floor_that_is_ready_in_time() -> None:
    office = Scheduled("0 8 * * mon-fri", "0 18 * * mon-fri", "Europe/Berlin", 3)
    story = Story(plain(schedule=(office,)))
    monday = wall("2026-11-23T07:00:00")  # 8:00 in Berlin
    assert story.tick(0.1, wall_s=monday - 12).desired == 1
    decision = story.tick(0.1, wall_s=monday - 10.5)
    assert (decision.desired, decision.reason) == (3, Reason.SCHEDULE), "a boot takes 10 s"
    assert "the schedule asks for 3" in decision.sentence
    assert story.ticks(200, 0.1, 0.1, 0.1, wall_s=monday + 3600).desired == 3
    evening = wall("2026-11-23T17:00:01")
    assert story.ticks(62, 0.1, 0.1, 0.1, wall_s=evening).desired == 1


def test_a_floor_that_is_over_before_a_start_would_be_still_counts() -> None:
    office = Scheduled("0 8 * * *", "0 18 * * *", "UTC", 3)
    story = Story(plain(schedule=(office,)), replicas=3)
    assert story.tick(*[0.01] * 3, wall_s=wall("2026-11-23T17:59:58")).wanted == 3
    assert story.tick(*[0.01] * 3, wall_s=wall("2026-11-23T18:00:01")).wanted == 1
    assert story.tick(*[0.01] * 3, wall_s=wall("2026-11-23T17:00:00")).wanted == 3, "set back"


def test_the_schedule_is_no_ceiling() -> None:
    always = Scheduled("0 0 * * *", "59 23 * * *", "UTC", 2)
    story = Story(plain(schedule=(always,)), replicas=2)
    assert story.ticks(7, 0.9, 0.9).desired == 3


@pytest.mark.parametrize(("forecast", "wanted"), [("act", 4), ("observe", 1)])
def test_the_forecast_is_a_floor_ahead_of_the_load_or_only_shown(
    forecast: str, wanted: int
) -> None:
    """Two seasons of an hour: 2.1 replicas' work in their second half, 0.3 in the first."""
    story = Story(plain(high=8, forecast=Forecasting(forecast), season_s=3600.0, mode=Mode.HOLD))
    season = 497_222 * 3600.0
    for second in range(0, 2 * 3600, 5):
        work = 2.1 if second % 3600 >= 1800 else 0.3
        story.tick(work, seconds=5.0, wall_s=season + second)
    story.rules = plain(high=8, forecast=Forecasting(forecast), season_s=3600.0)
    eve = story.ticks(3, 0.3, wall_s=season + 2 * 3600 + 1800 - 5.0)
    assert eve.desired == wanted
    if forecast == "observe":
        (part,) = [part for part in eve.parts if part.reason is Reason.FORECAST]
        assert part.numbers["would"] == 4, "shown all the same"


# ── shrinking ────────────────────────────────────────────────────────────────────────────────────


def test_load_that_one_could_carry_for_a_minute_lets_one_leave() -> None:
    story = Story(replicas=2)
    held = story.ticks(60, 0.2, 0.2)
    assert (held.desired, held.reason) == (2, Reason.STABILISING)
    decision = story.tick(0.2, 0.2)
    assert (decision.desired, decision.reason) == (1, Reason.CPU_LOW)
    assert "1 would run at 0.40, and no more than 1 was needed for 60 s" in decision.sentence


def test_with_two_at_a_quarter_each_one_would_be_too_close_to_the_target() -> None:
    """Σ 0.50 / 0.48 = 1.04 → two are needed: one would run at 0.50."""
    decision = Story(replicas=2).ticks(300, 0.25, 0.25)
    assert (decision.desired, decision.reason) == (2, Reason.KEPT)
    assert decision.sentence.endswith("asks for 1; the margin below the target keeps 2")


def test_ten_busy_seconds_within_the_minute_keep_both() -> None:
    story = Story(replicas=2)
    story.ticks(50, 0.1, 0.1)
    story.ticks(10, 0.4, 0.4)
    assert story.ticks(55, 0.1, 0.1).desired == 2
    assert story.ticks(16, 0.1, 0.1).desired == 1


def test_one_noisy_second_within_the_minute_does_not_keep_both() -> None:
    story = Story(replicas=2)
    story.ticks(50, 0.2, 0.2)
    story.tick(0.3, 0.3)
    assert story.ticks(10, 0.2, 0.2).desired == 1


def test_a_busy_instant_lets_fewer_go() -> None:
    """Four idle replicas, and just now 1.3 of work: two would run at 0.65, three at 0.43."""
    story = Story(replicas=4)
    story.ticks(60, *[0.05] * 4)
    decision = story.tick(*[0.325] * 4)
    assert (decision.desired, decision.reason) == (3, Reason.CPU_LOW)
    assert "2 would run at 0.65 of 0.60" in decision.sentence


def test_so_many_may_leave_within_a_period() -> None:
    story = Story(plain(high=9, shrink_limit=RateLimit(1, 50.0, 15.0)), replicas=8)
    sizes = [story.load(0.1).desired for _ in range(110)]
    steps = [(i, n) for i, n in enumerate(sizes) if i and n != sizes[i - 1]]
    assert steps == [(60, 4), (75, 2), (90, 1)]
    assert "the limit of 15 s leaves 3 for later" in story.decisions[60].sentence


def test_so_many_may_start_within_a_period() -> None:
    story = Story(plain(high=60, grow_limit=RateLimit(4, 100.0, 15.0)))
    story.loads(20, 0.5)
    sizes = [story.load(30.0).desired for _ in range(80)]
    changes = [n for i, n in enumerate(sizes) if i and n != sizes[i - 1]]
    assert changes == [5, 10, 20, 40, 50]


def test_at_min_it_says_so_and_stays() -> None:
    decision = Story(plain(low=2), replicas=2).ticks(90, 0.0, 0.0)
    assert (decision.desired, decision.reason) == (2, Reason.AT_MIN)


def test_after_a_start_nothing_leaves_for_a_whole_window() -> None:
    story = Story(replicas=3)
    assert all(story.tick(0.0, 0.0, 0.0).desired == 3 for _ in range(60))
    assert story.tick(0.0, 0.0, 0.0).desired == 1


def test_after_growing_the_minute_begins_anew() -> None:
    story = Story()
    story.ticks(100, 0.1)
    story.ticks(7, 0.9)
    assert all(story.tick(0.05, 0.05).desired == 2 for _ in range(60))
    assert story.ticks(16, 0.05, 0.05).desired == 1


def test_a_load_in_waves_makes_nobody_leave_in_the_next_lull() -> None:
    """Two minutes on, two minutes off: the first lull costs a start, the second none; an hour
    later it is tried again."""
    story = Story()
    story.ticks(60, 0.3)
    sizes: list[set[int]] = []
    for _ in range(20):
        sizes.append({story.load(0.9).desired for _ in range(120)})
        sizes.append({story.load(0.3).desired for _ in range(120)})
    assert sizes[1:4] == [{1, 2}, {1, 2}, {2}]
    assert set().union(*sizes[4:28]) == {2}
    assert {1, 2} in sizes[28:]
    calm = Story(plain(shrink_window_max_s=60.0))
    calm.ticks(60, 0.3)
    again = [{calm.load(w).desired for _ in range(120)} for w in (0.9, 0.3, 0.9, 0.3)]
    assert again == [{1, 2}] * 4, "not where the operator says otherwise"


def test_a_small_change_is_not_made() -> None:
    story = Story(plain(high=9, min_change=2), replicas=4)
    assert story.ticks(30, *[0.7] * 4).reason is Reason.SMALL_CHANGE
    assert story.ticks(10, *[0.95] * 4).desired == 7


def test_what_the_schedule_wants_is_followed_to_the_last_one() -> None:
    always = Scheduled("0 0 * * *", "59 23 * * *", "UTC", 2)
    assert Story(plain(high=9, min_change=2, schedule=(always,))).tick(0.1).desired == 2


def test_a_limit_leaves_no_change_smaller_than_the_least() -> None:
    limit = RateLimit(3, 0.0, 15.0)
    story = Story(plain(high=30, min_change=2, grow_limit=limit), replicas=3)
    sizes = [story.load(12.0).desired for _ in range(40)]
    steps = [b - a for a, b in pairwise(sizes) if b != a]
    assert steps
    assert min(steps) >= 2


# ── steps ────────────────────────────────────────────────────────────────────────────────────────


def test_steps_take_the_place_of_the_target() -> None:
    steps = (Step(0.7, 1), Step(0.9, 3), Step(0.2, -1))
    story = Story(plain(high=9, steps=steps), replicas=2)
    assert story.ticks(20, 0.65, 0.65).desired == 2, "above the target, and no step"
    decision = story.ticks(7, 0.95, 0.95)
    assert (decision.desired, decision.reason) == (5, Reason.STEP)
    assert "CPU 0.95 is beyond 0.90, which asks for 5" in decision.sentence
    assert story.ticks(30, 0.95, 0.95, booting=3).desired == 5, "three are on their way"
    assert story.ticks(61, *[0.1] * 5).desired == 4


# ── missing data ─────────────────────────────────────────────────────────────────────────────────


def test_without_any_sample_nothing_is_decided() -> None:
    decision = Story(replicas=2).ticks(200, None, None)
    assert (decision.desired, decision.reason) == (2, Reason.NO_DATA)
    assert "0 of 2" in decision.sentence


def test_an_old_sample_is_a_missing_one() -> None:
    """2.5 intervals: one lost sample is forgiven, two are not."""
    assert Story().tick(0.5, age_s=2.4).reason is Reason.STEADY
    assert Story().tick(0.5, age_s=2.6).reason is Reason.NO_DATA


def test_we_hold_at_three_with_one_sample_missing() -> None:
    """Two idle ones and one unknown: it may be the one that carries the load."""
    story = Story(replicas=3)
    assert story.ticks(200, 0.0, 0.0, None).reason is Reason.NO_DATA
    assert story.ticks(60, 0.0, 0.0, 0.0).desired == 3, "once it is back, the minute begins"
    assert story.ticks(12, 0.0, 0.0, 0.0).desired == 1


def test_the_missing_one_is_idle_when_growing() -> None:
    """0.9 + 0.9 of three asks for ceil(1.8 / 0.6) = 3; 1.0 + 1.0 for four."""
    assert Story(replicas=3).ticks(100, 0.9, 0.9, None).desired == 3
    assert Story(replicas=3).ticks(100, 1.0, 1.0, None).desired == 4


def test_an_overload_outlives_one_missing_tick_and_not_two() -> None:
    story = Story()
    story.ticks(5, 0.9)
    assert story.tick(None).reason is Reason.NO_DATA
    assert story.tick(0.9).desired == 2
    story = Story()
    story.ticks(5, 0.9)
    story.ticks(2, None)
    assert story.ticks(6, 0.9).desired == 1
    assert story.tick(0.9).desired == 2, "the window began after the gap"


def test_ticks_that_events_caused_within_the_missing_one_are_forgiven_too() -> None:
    story = Story()
    story.ticks(5, 0.9)
    story.tick(None)
    for _ in range(3):
        story.tick(None, seconds=0.1)
    assert story.tick(0.9, seconds=0.7).desired == 2


# ── replicas that are there and get no requests ──────────────────────────────────────────────────


def test_an_idle_replica_that_gets_no_requests_does_not_stop_growing() -> None:
    story = Story(replicas=2)
    decision = story.ticks(7, 0.9, unavailable=1)
    assert (decision.desired, decision.reason) == (3, Reason.CPU_OVERLOAD)
    assert "on 1 replica asks for 3; 1 unavailable, which is no help" in decision.sentence
    assert Story(replicas=2).ticks(30, 0.5, unavailable=1).desired == 2, "it is not needed"


def test_while_one_is_unavailable_nothing_leaves_and_then_the_minute_begins() -> None:
    story = Story(replicas=3)
    decision = story.ticks(200, 0.0, 0.0, unavailable=1)
    assert (decision.desired, decision.reason) == (3, Reason.UNAVAILABLE)
    assert decision.sentence.endswith("1 unavailable, so none leaves")
    assert story.ticks(60, 0.0, 0.0, 0.0).desired == 3
    assert story.tick(0.0, 0.0, 0.0).desired == 1


# ── launches that fail ───────────────────────────────────────────────────────────────────────────


def test_where_the_last_one_never_starts_the_load_decides_on_those_there_are() -> None:
    """3 wanted, 2 ready, and no more to be had: once 1 is enough, 1 is wanted."""
    story = Story(replicas=3)
    decision = story.ticks(100, 0.9, 0.9, failures=4)
    assert (decision.desired, decision.reason) == (3, Reason.SETTLING)
    assert "2 ready, 0 on the way, 0 leaving, 4 launches in a row failed" in decision.sentence
    assert story.ticks(75, 0.1, 0.1, booting=1, failures=5).desired == 1


def test_with_none_ready_nothing_is_known() -> None:
    story = Story(replicas=3)
    decision = story.ticks(100, failures=7)
    assert (decision.desired, decision.reason) == (3, Reason.SETTLING)


# ── the host ─────────────────────────────────────────────────────────────────────────────────────


def test_on_a_contended_host_another_replica_is_not_started_and_it_says_so() -> None:
    story = Story(replicas=2)
    decision = story.ticks(30, 0.8, 0.8, delay=0.4)
    assert (decision.desired, decision.reason) == (2, Reason.HOST_CONTENDED)
    assert "vCPUs wait 40% of the time for a core on every host" in decision.sentence
    assert story.ticks(3, 0.8, 0.8, delay=0.05).desired == 3


def test_another_host_has_room() -> None:
    story = Story(replicas=2)
    assert story.ticks(30, 0.8, 0.8, delay=0.4, hosts=("local", "other")).desired == 3


def test_it_is_said_and_ignored_where_the_operator_wants_that() -> None:
    story = Story(plain(host_contention=Contention.IGNORE), replicas=2)
    decision = story.ticks(7, 0.8, 0.8, delay=0.4)
    assert decision.desired == 3
    assert "another replica there makes it worse" in decision.sentence


# ── relief at once ───────────────────────────────────────────────────────────────────────────────


def test_the_limit_is_lifted_while_help_is_on_its_way() -> None:
    story = Story(plain(burst=2.0))
    assert not story.ticks(6, 0.9).burst
    grown = story.tick(0.9)
    assert grown.burst
    assert grown.sentence.endswith("the others may use more CPU meanwhile")
    assert story.tick(1.5, booting=1).burst
    assert not story.tick(0.5, 0.4).burst
    assert not Story().ticks(7, 0.9).burst, "not unless configured"


def test_the_limit_is_put_back_where_no_help_comes_and_no_load_asks_for_it() -> None:
    story = Story(plain(burst=2.0))
    story.ticks(7, 0.9)
    assert not story.ticks(60, 0.9, failures=6).burst, "launches fail"
    always = Scheduled("0 0 * * *", "59 23 * * *", "UTC", 2)
    assert not Story(plain(burst=2.0, schedule=(always,))).tick(0.1).burst


# ── zero ─────────────────────────────────────────────────────────────────────────────────────────


def test_to_zero_after_the_idle_time_and_back_for_the_first_request() -> None:
    story = Story(plain(low=0, idle_after_s=120.0))
    assert story.ticks(60, 0.02, arrivals=1.0).desired == 1
    last = story.ticks(120, 0.01, arrivals=0.0)
    assert last.desired == 1
    decision = story.tick(0.01, arrivals=0.0)
    assert (decision.desired, decision.reason) == (0, Reason.IDLE)
    assert "nobody asked for 120 s" in decision.sentence
    assert story.ticks(500).desired == 0
    back = story.tick(queued=1)
    assert (back.desired, back.reason) == (1, Reason.FROM_ZERO)
    assert "1 waiting, and no replica" in back.sentence


def test_the_last_one_stays_while_somebody_asks_however_little() -> None:
    story = Story(plain(low=0, idle_after_s=60.0))
    for second in range(600):
        decision = story.tick(0.0, arrivals=1.0 if second % 50 == 0 else 0.0)
        assert decision.desired == 1


def test_with_a_minimum_nobody_goes_to_zero() -> None:
    assert Story(plain(idle_after_s=60.0)).ticks(600, 0.0, arrivals=0.0).desired == 1


# ── operators ────────────────────────────────────────────────────────────────────────────────────


def test_an_override_is_followed_until_it_ends() -> None:
    story = Story(plain(override=Override(Mode.FIXED, 3, WALL + 10_300)))
    decision = story.tick(0.1)
    assert (decision.desired, decision.reason) == (3, Reason.OVERRIDE)
    assert decision.sentence.startswith("1 → 3: ")
    assert "an operator wants 3 until 2026-09-21 " in decision.sentence
    assert story.ticks(290, 0.1, 0.1, 0.1).desired == 3
    after = [story.tick(0.1, 0.1, 0.1).desired for _ in range(80)]
    assert after[-1] == 1, "then the load decides again"


def test_an_override_stays_within_the_bounds() -> None:
    assert Story(plain(high=4, override=Override(Mode.FIXED, 9))).tick(0.1).desired == 4


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.OBSERVE])
def test_held_or_observing_nothing_changes_and_it_says_what_would(mode: Mode) -> None:
    story = Story(plain(mode=mode))
    decision = story.ticks(30, 0.9)
    assert (decision.desired, decision.mode) == (1, mode)
    assert decision.reason.value == mode.value
    if mode is Mode.OBSERVE:
        assert "only observing, would be 2" in decision.sentence
    assert decision.wanted == 2
    assert not decision.burst


def test_an_override_goes_before_the_configured_mode() -> None:
    rules = plain(mode=Mode.OBSERVE, override=Override(Mode.AUTO))
    assert Story(rules).ticks(7, 0.9).desired == 2


# ── bounds that move ─────────────────────────────────────────────────────────────────────────────


def test_a_raised_minimum_is_followed_at_once() -> None:
    story = Story()
    story.tick(0.1)
    story.rules = plain(low=3)
    decision = story.tick(0.1)
    assert (decision.current, decision.desired, decision.reason) == (1, 3, Reason.BELOW_MIN)
    assert decision.sentence.startswith("1 → 3: ")
    assert "the bounds are 3 to 4" in decision.sentence


def test_a_lowered_maximum_is_followed_at_once() -> None:
    story = Story(replicas=4)
    story.tick(0.9, 0.9, 0.9, 0.9)
    story.rules = plain(high=2)
    decision = story.tick(0.9, 0.9, 0.9, 0.9)
    assert (decision.current, decision.desired, decision.reason) == (4, 2, Reason.ABOVE_MAX)


def test_what_bounds_brought_stays_for_the_whole_window() -> None:
    story = Story()
    story.ticks(100, 0.1)
    story.rules = plain(low=3)
    story.tick(0.1)
    story.rules = plain()
    assert all(story.tick(0.1, 0.1, 0.1).desired == 3 for _ in range(60))
    assert story.tick(0.1, 0.1, 0.1).desired == 1


def test_what_bounds_took_is_not_given_back_at_once() -> None:
    story = Story(replicas=2)
    story.ticks(20, 0.62, 0.62)
    story.rules = plain(high=1)
    story.ticks(20, 0.9)
    story.rules = plain(high=3)
    story.tick(0.9)
    story.rules = plain(high=1)
    story.tick(0.9, 0.9)
    story.rules = plain(high=3)
    assert [story.tick(0.9).desired for _ in range(7)] == [1] * 6 + [2]


def test_a_changed_shrink_window_counts_at_once() -> None:
    story = Story(replicas=2)
    story.ticks(30, 0.1, 0.1)
    story.rules = plain(shrink_window_s=20.0)
    assert story.tick(0.1, 0.1).desired == 1, "for 20 s already"


# ── what a decision carries ──────────────────────────────────────────────────────────────────────


def test_a_decision_carries_what_each_part_said() -> None:
    story = Story(plain(high=9, latency_p99_s=1.0), replicas=2)
    story.ticks(20, 0.5, 0.5, p99_s=0.1)
    shown = story.tick(1.0, 1.0, queued=14, in_flight=2, arrivals=33, p99_s=0.4).as_dict()
    assert shown["reason"] == "not_sustained"
    by_reason = {part["reason"]: part for part in shown["parts"]}
    assert set(by_reason) == {"cpu_overload", "concurrency", "queue", "latency"}
    assert by_reason["cpu_overload"]["utilisation"] == 1.0
    assert by_reason["queue"]["drain_s"] == pytest.approx(14 / 7)
    assert "queue 14 drains in 2.0 s" in shown["sentence"]
    assert [guard["reason"] for guard in shown["guards"]] == ["not_sustained"]
