"""How fast a fleet may follow: against a list of everything that was asked for and done."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.model import Path, Way
from autoscale.pace import HOLD_FOR_S, Asked, AskedAll, Lull, Pace, grow, window_of
from autoscale.rules import RateLimit, Rules

NOW = 1000.0
RULES = Rules()
STANDBY, SNAPSHOT = Way(Path.STANDBY, 0.05), Way(Path.SNAPSHOT, 0.8)
COLD = Way(Path.COLD, 10.0)


def asked(
    now: float, instant: int = 0, averaged: int = 0, slow: int = 0, interval_s: float = 1.0
) -> AskedAll:
    return (
        Asked(instant, now, now),
        Asked(averaged, now - interval_s, now),
        Asked(slow, now - 10.0, now),
    )


def follow(asks: list[AskedAll]) -> Pace:
    pace = Pace()
    for each in asks:
        pace = pace.ask(each)
    return pace


# ── what was asked for all through a window ──────────────────────────────────────────────────────


def test_what_is_seen_at_an_instant_counts_from_that_instant() -> None:
    """A queue seen at second 0 and still there at second 1 has lasted one second."""
    asks = [asked(NOW, instant=3), asked(NOW + 1, instant=3)]
    assert follow(asks[:1]).sustained(1.0, asks[0]) == 0
    assert follow(asks).sustained(1.0, asks[1]) == 3
    assert follow(asks).lasted(3, asks[1]) == 1.0


def test_of_a_mean_both_ends_are_unknown() -> None:
    """Means of a second each, all high: the load may have come at the end of the first and gone at
    the beginning of the last. Three of them are sure to hold one whole second."""
    asks = [asked(NOW + i, averaged=2) for i in range(3)]
    assert follow(asks[:2]).sustained(1.0, asks[1]) == 0
    assert follow(asks).sustained(1.0, asks[2]) == 2
    assert follow(asks).lasted(2, asks[2]) == 1.0


def test_a_p99_of_ten_seconds_needs_ten_more() -> None:
    asks = [asked(NOW + i, slow=2) for i in range(16)]
    assert follow(asks[:15]).sustained(5.0, asks[14]) == 0
    assert follow(asks).sustained(5.0, asks[15]) == 2


def test_one_reading_below_begins_the_window_anew() -> None:
    asks = [asked(NOW + i, instant=0 if i == 4 else 3) for i in range(9)]
    pace = follow(asks)
    assert pace.sustained(3.0, asks[-1]) == 3
    assert pace.sustained(4.0, asks[-1]) == 0


def test_kinds_do_not_add_up() -> None:
    """A queue for half of the window and CPU for the other half: neither lasted."""
    asks = [asked(NOW + i, instant=4 if i < 5 else 0, averaged=0 if i < 5 else 4) for i in range(9)]
    assert follow(asks).sustained(5.0, asks[-1]) == 0


def test_what_nobody_asks_for_has_not_lasted() -> None:
    assert Pace().lasted(1, asked(NOW)) == 0.0
    assert Pace().sustained(0.0, asked(NOW)) == 0
    pace = follow([asked(NOW, averaged=1)])
    assert pace.lasted(1, asked(NOW, averaged=1)) == 0.0, "its beginning is a second ago"


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40),
    st.sampled_from([0.0, 1.0, 2.0, 5.0]),
)
def test_sustained_against_a_list(levels: list[tuple[int, int]], window_s: float) -> None:
    """The least of all that ended within the window, and of the last that ended before it."""
    asks = [asked(NOW + i, now, mean) for i, (now, mean) in enumerate(levels)]
    expected = 0
    for kind in range(2):
        since = asks[-1][kind].begin - window_s
        if asks[0][kind].end > since:
            continue  # there is no history so far back
        first = max(i for i, ask in enumerate(asks) if ask[kind].end <= since)
        expected = max(expected, min(ask[kind].replicas for ask in asks[first:]))
    assert follow(asks).sustained(window_s, asks[-1]) == expected


def test_where_samples_are_missing_what_was_asked_last_still_is() -> None:
    pace = follow([asked(NOW, 3, 5, 0)])
    kept = pace.at_least_as_before(asked(NOW + 1, 4, 0, 2))
    assert [each.replicas for each in kept] == [4, 5, 2]
    assert [each.begin for each in kept] == [NOW + 1, NOW, NOW - 9]
    assert Pace().at_least_as_before(asked(NOW, 1, 2, 3)) == asked(NOW, 1, 2, 3)


# ── what was never exceeded ──────────────────────────────────────────────────────────────────────


def test_without_history_nothing_is_known_to_be_too_many() -> None:
    pace = Pace()
    for second in range(60):
        pace = pace.keep(1, NOW + second)
        assert pace.kept(60.0, NOW + second) is None
    assert pace.keep(1, NOW + 60).kept(60.0, NOW + 60) == 1


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 30))
def test_kept_is_the_most_within_the_window(keeps: list[int], window: int) -> None:
    pace = Pace()
    for second, replicas in enumerate(keeps):
        pace = pace.keep(replicas, NOW + second)
    now = NOW + len(keeps) - 1
    if window > len(keeps) - 1:
        assert pace.kept(window, now) is None
    else:
        assert pace.kept(window, now) == max(keeps[len(keeps) - 1 - window :])


# ── one direction, then the other ────────────────────────────────────────────────────────────────


def test_who_has_grown_waits_a_whole_window_before_he_shrinks() -> None:
    pace = Pace()
    for second in range(100):
        pace = pace.keep(1, NOW + second)
    pace = pace.changed(1, RULES, NOW + 99, by_load=True)
    assert pace.keep(1, NOW + 100).kept(60.0, NOW + 100) is None


def test_who_has_shrunk_waits_a_whole_window_before_he_grows() -> None:
    asks = [asked(NOW + i, instant=3) for i in range(20)]
    pace = follow(asks).changed(-1, RULES, NOW + 19, by_load=True)
    later = asked(NOW + 20, instant=3)
    assert pace.ask(later).sustained(1.0, later) == 0
    assert pace.ask(later).ask(asked(NOW + 21, instant=3)).sustained(1.0, asked(NOW + 21, 3)) == 3


def test_the_windows_of_the_same_direction_go_on() -> None:
    """A standby came after a second; the machine that is booted for the same load need not wait for
    five more."""
    asks = [asked(NOW + i, instant=4) for i in range(6)]
    pace = follow(asks).changed(1, RULES, NOW + 1, by_load=True)
    assert pace.sustained(5.0, asks[-1]) == 4


# ── pauses in the load ───────────────────────────────────────────────────────────────────────────


def paused(seconds: float, longest_s: float = 600.0, lull: Lull | None = None) -> Lull:
    """The load fell at NOW, somebody left, and so long after the fall one was missed."""
    return (lull or Lull()).left(NOW).came_back(longest_s, NOW + seconds)


def test_a_pause_as_long_as_the_last_one_makes_nobody_leave_again() -> None:
    """It lasted 200 s: in the next one fewer must have been enough for a quarter more."""
    lull = paused(200)
    assert lull.window(60.0, NOW + 200) == 250.0
    assert lull.window(400.0, NOW + 200) == 400.0, "the operator's window is the least"
    assert Lull().window(60.0, NOW) == 60.0


def test_an_hour_after_the_last_wave_it_is_forgotten() -> None:
    lull = paused(200)
    end = NOW + 200 + HOLD_FOR_S
    assert (lull.window(60.0, end - 1), lull.window(60.0, end)) == (250.0, 60.0)


def test_a_night_is_no_pause() -> None:
    assert paused(601) == Lull()
    assert paused(600).window(60.0, NOW + 600) == 600.0, "no longer than the longest hold"


def test_a_pause_begins_where_the_load_fell_first() -> None:
    """Three leave one after the other: it is one pause."""
    lull = Lull().left(NOW).left(NOW + 15).left(NOW + 30).came_back(600, NOW + 100)
    assert lull.window(60.0, NOW + 100) == 125.0
    # those that come one after the other end it once
    assert lull.came_back(600, NOW + 400) == lull


def test_of_two_pauses_the_longer_one_counts() -> None:
    lull = paused(200)
    shorter = lull.left(NOW + 1000).came_back(600, NOW + 1100)
    assert shorter.window(60.0, NOW + 1100) == 250.0
    longer = lull.left(NOW + 1000).came_back(600, NOW + 1300)
    assert longer.window(60.0, NOW + 1300) == 375.0


def test_only_what_the_load_did_is_a_pause() -> None:
    pace = Pace()
    for second, by in ((0, -1), (100, 1)):
        pace = pace.changed(by, RULES, NOW + second, by_load=False)
    assert pace.lull == Lull()
    for second, by in ((200, -1), (300, 1)):
        pace = pace.changed(by, RULES, NOW + second, by_load=True)
    # it fell a whole window before somebody left: 100 + 60 s, and a quarter more
    assert pace.lull.window(60.0, NOW + 300) == 200.0


# ── limits ───────────────────────────────────────────────────────────────────────────────────────


def changed(*changes: tuple[float, int], rules: Rules = RULES) -> Pace:
    pace = Pace()
    for at, by in changes:
        pace = pace.changed(by, rules, at, by_load=False)
    return pace


def test_so_many_at_least_or_so_many_percent_of_those_before() -> None:
    limit = RateLimit(2, 50.0, 15.0)
    assert Pace().room_up(limit, 1, NOW) == 2
    assert Pace().room_up(limit, 10, NOW) == 5
    # from 10 to 13: half of the 10, less the 3
    assert changed((NOW, 3)).room_up(limit, 13, NOW + 1) == 2
    # the percentage is of those there were before, whatever went since
    assert changed((NOW, -4)).room_up(limit, 6, NOW + 1) == 5
    assert changed((NOW, -4)).room_down(limit, 6, NOW + 1) == 1


def test_a_period_after_a_change_it_is_forgotten() -> None:
    limit = RateLimit(1, 0.0, 15.0)
    pace = changed((NOW, 1))
    assert pace.room_up(limit, 2, NOW + 14.9) == 0
    assert pace.room_up(limit, 2, NOW + 15) == 1


def test_each_direction_has_its_own() -> None:
    limit = RateLimit(3, 0.0, 15.0)
    pace = changed((NOW, 2), (NOW + 1, -1))
    assert (pace.room_up(limit, 5, NOW + 2), pace.room_down(limit, 5, NOW + 2)) == (1, 2)


def test_an_operator_may_have_done_more_than_the_limit_allows() -> None:
    assert changed((NOW, 9)).room_up(RateLimit(4, 0.0, 15.0), 10, NOW + 1) == 0


@pytest.mark.parametrize(("percent", "before"), [(29, 100), (58, 50), (7, 100), (14, 50)])
def test_a_percentage_that_is_a_whole_number_is_not_rounded_down(percent: int, before: int) -> None:
    """29 / 100 × 100 is 28.999999999999996."""
    room = Pace().room_up(RateLimit(1, float(percent), 15.0), before, NOW)
    assert room == percent * before // 100


@given(
    st.lists(st.tuples(st.sampled_from([0.5, 3.0, 9.0]), st.integers(-4, 4)), max_size=30),
    st.integers(1, 5),
    st.sampled_from([0.0, 50.0, 100.0]),
    st.sampled_from([1.0, 15.0, 40.0]),
)
def test_room_against_a_list(
    gaps: list[tuple[float, int]], replicas: int, percent: float, period_s: float
) -> None:
    limit = RateLimit(replicas, percent, period_s)
    rules = Rules(grow_limit=limit)
    pace, done, now, base = Pace(), [], NOW, 30
    for gap, by in gaps:
        now += gap
        if by:
            base = max(0, base + by)
            done.append((now, by))
            pace = pace.changed(by, rules, now, by_load=True)
    within = [by for at, by in done if now - at < period_s]
    before = base - sum(within)
    most = max(replicas, math.floor(before * percent / 100))
    came, left = sum(b for b in within if b > 0), -sum(b for b in within if b < 0)
    assert pace.room_up(limit, base, now) == max(0, most - came)
    assert pace.room_down(limit, base, now) == max(0, most - left)


def test_only_what_a_limit_looks_back_on_is_remembered() -> None:
    rules = Rules(grow_limit=RateLimit(4, 0, 15.0), shrink_limit=RateLimit(1, 0, 40.0))
    pace = Pace()
    for second in range(10_000):
        pace = pace.changed(1 if second % 2 else -1, rules, NOW + second, by_load=True)
    assert len(pace.changes) <= 41


# ── by which way ─────────────────────────────────────────────────────────────────────────────────


def test_what_is_cheap_may_be_quick() -> None:
    rules = Rules(standby_window_s=1, snapshot_window_s=2, grow_window_s=5)
    assert [window_of(path, rules) for path in Path] == [1, 2, 5]


def after(
    seconds: float, level: int, *ways: Way, base: int = 1, rules: Rules = RULES
) -> tuple[int, Way | None]:
    asks = [asked(NOW + i / 4, instant=level) for i in range(round(4 * seconds) + 1)]
    return grow(follow(asks), asks[-1], ways, base, rules)


def test_each_way_after_its_own_window() -> None:
    rules = replace(RULES, snapshot_window_s=0.75)
    ways = (Way(Path.STANDBY, 0.05, 1), Way(Path.SNAPSHOT, 0.8, 2), COLD)
    assert after(0, 6, *ways, rules=rules) == (1, None)
    assert after(0.25, 6, *ways, rules=rules) == (1, None)
    assert after(0.5, 6, *ways, rules=rules) == (2, ways[0])
    assert after(0.75, 6, *ways, rules=rules) == (4, ways[0])
    assert after(5, 6, *ways, rules=rules) == (6, ways[0])


def test_no_more_than_was_asked_for() -> None:
    assert after(5, 2, Way(Path.STANDBY, 0.05, 3), COLD) == (2, Way(Path.STANDBY, 0.05, 3))
    assert after(5, 1, COLD) == (1, None)
    assert after(5, 0, COLD, base=3) == (3, None)


def test_the_first_that_comes_names_the_way() -> None:
    """No standby is left: nobody is told that one wakes."""
    assert after(5, 3, Way(Path.STANDBY, 0.05, 0), COLD) == (3, COLD)


def test_where_no_way_is_open_nobody_comes() -> None:
    assert after(60, 9) == (1, None)


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=20),
    st.integers(0, 4),
    st.lists(st.none() | st.integers(0, 3), min_size=3, max_size=3),
)
def test_growing_stays_between_base_and_what_is_asked(
    levels: list[int], base: int, available: list[int | None]
) -> None:
    ways = tuple(Way(path, 1.0, count) for path, count in zip(Path, available, strict=True))
    asks = [asked(NOW + i, instant=level) for i, level in enumerate(levels)]
    desired, way = grow(follow(asks), asks[-1], ways, base, RULES)
    assert base <= desired <= max(base, levels[-1])
    assert (way is None) == (desired == base)
