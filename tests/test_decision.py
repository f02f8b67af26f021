"""One sentence for every decision: whatever the planner can find renders, with its own numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

import pytest

from autoscale.decision import GUARD_WORDS, PART_WORDS, Decision, Guard, Part
from autoscale.model import Direction, Path, Reason, Way
from autoscale.rules import Forecasting, Mode, Override, RateLimit, Scheduled, Step
from tests.planning import WALL, Story, plain

STANDBY = Way(Path.STANDBY, 0.05, 1)

# ── the words ────────────────────────────────────────────────────────────────────────────────────

CPU = Part(
    Reason.CPU_OVERLOAD,
    3,
    4,
    {"utilisation": 0.91, "target": 0.6, "over_s": 6.0, "replicas": 2, "on": "2 replicas"},
)
QUEUE = Part(Reason.QUEUE, 2, 2, {"queued": 14, "drain_s": 2.1, "drains": "drains in 2.1 s"})


def test_the_sentence_of_the_issue() -> None:
    decision = Decision(
        "web", 1.0, 2, 3, Reason.CPU_OVERLOAD, (CPU, QUEUE), way=(Path.STANDBY, 0.05)
    )
    assert decision.sentence == (
        "2 → 3: CPU 0.91 of target 0.60 over 6 s on 2 replicas asks for 3;"
        " queue 14 drains in 2.1 s, which asks for 2; standby wakes in 0.05 s"
    )


def test_who_grows_by_it_says_it_once() -> None:
    queue = QUEUE._replace(asks=4)
    decision = Decision("web", 1.0, 2, 4, Reason.QUEUE, (CPU, queue), way=(Path.COLD, 9.71))
    assert decision.winner is queue
    assert decision.sentence == (
        "2 → 4: queue 14 drains in 2.1 s, which asks for 4; cold boot serves in 9.7 s"
    )


def test_an_empty_queue_is_not_told_of() -> None:
    empty = QUEUE._replace(numbers={**QUEUE.numbers, "queued": 0})
    assert "queue" not in Decision("web", 1.0, 3, 3, Reason.STEADY, (CPU, empty)).sentence


def test_when_shrinking_who_keeps_most_has_the_word() -> None:
    few = CPU._replace(asks=1, keeps=1)
    keeper = Part(Reason.SCHEDULE, 1, 2)
    decision = Decision("web", 1.0, 3, 2, Reason.LOAD_LOW, (few, keeper))
    assert (decision.direction, decision.winner) == (Direction.DOWN, keeper)


def test_guards_notes_and_burst_follow() -> None:
    decision = Decision(
        "web",
        1.0,
        2,
        2,
        Reason.AT_MAX,
        (CPU,),
        (Guard(Reason.AT_MAX, {"max": 2}),),
        burst=True,
        notes=(Guard(Reason.HOST_CONTENDED, {"delay": 0.31}),),
        way=(Path.COLD, 10.0),
    )
    assert decision.sentence == (
        "stay at 2: CPU 0.91 of target 0.60 over 6 s on 2 replicas asks for 3; max = 2;"
        " vCPUs wait 31% of the time for a core on every host: another replica there makes it"
        " worse; the others may use more CPU meanwhile"
    )


def test_without_parts_something_is_said_all_the_same() -> None:
    assert Decision("web", 1.0, 1, 1, Reason.STEADY).sentence.startswith("stay at 1: ")
    assert Decision("web", 1.0, 1, 1, Reason.STEADY).winner is None


def test_a_sentence_of_somebody_else_goes_first() -> None:
    decision = Decision("web", 1.0, 2, 0, Reason.SHUTDOWN, (CPU,), told="retiring all VMs")
    assert decision.sentence == "2 → 0: retiring all VMs"


def test_as_json_it_is_whole() -> None:
    guard = Guard(Reason.RATE_LIMITED, {"later": 1, "period_s": 15.0})
    decision = Decision(
        "web", 1.0, 2, 3, Reason.CPU_OVERLOAD, (CPU,), (guard,), 4, way=(Path.SNAPSHOT, 0.8)
    )
    shown = json.loads(json.dumps(decision.as_dict()))
    assert shown["sentence"] == decision.sentence
    assert (shown["current"], shown["desired"], shown["wanted"]) == (2, 3, 4)
    assert (shown["direction"], shown["reason"], shown["mode"]) == ("up", "cpu_overload", "auto")
    assert (shown["path"], shown["path_seconds"]) == ("snapshot", 0.8)
    (part,) = shown["parts"]
    assert (part["asks"], part["keeps"], part["utilisation"]) == (3, 4, 0.91)
    assert part["words"] in shown["sentence"]
    (held,) = shown["guards"]
    assert (held["reason"], held["later"]) == ("rate_limited", 1)
    assert shown["notes"] == []
    assert Decision("web", 1.0, 2, 3, Reason.STEADY).as_dict()["path"] is None


# ── every reason, as the planner comes to it ─────────────────────────────────────────────────────


def overloaded() -> Story:
    story = Story(plain(high=3), ways=(STANDBY, *Story().ways))
    story.ticks(12, 0.95, delay=0.0)
    story.ticks(3, 0.95, booting=1)
    story.ticks(12, 0.95, 0.95, 0.95)
    story.ways = ()
    story.rules = plain(high=9)
    story.ticks(3, 1.0, 1.0, 1.0)
    return story


def limited() -> Story:
    limit = RateLimit(1, 0.0, 15.0)
    story = Story(plain(high=9, grow_limit=limit, shrink_limit=limit))
    story.loads(20, 4.0)
    story.loads(120, 0.2)
    return story


def shrinking() -> Story:
    story = Story(plain(2), replicas=4)
    story.loads(70, 0.4)
    return story


def crossing() -> Story:
    """Fewer would have done for a minute; this instant they would not."""
    story = Story(replicas=3)
    story.ticks(60, 0.2, 0.2, 0.2)
    story.tick(0.5, 0.5, 0.5)
    return story


def small() -> Story:
    story = Story(plain(high=8, min_change=2), replicas=2)
    story.ticks(10, 0.8, 0.8)
    return story


def queueing() -> Story:
    story = Story(plain(high=9))
    story.ticks(8, 1.0, queued=40, arrivals=50.0)
    story.ticks(3, 1.0, arrivals=50.0)
    return story


def requesting() -> Story:
    """Panic while it grows, and while one could leave."""
    story = Story(plain(high=9, shrink_window_s=10.0))
    story.ticks(3, 0.1, in_flight=300)
    story.ticks(40, 0.1, in_flight=2)
    story.ticks(10, 0.1, in_flight=300)
    story.ticks(150, *[0.1] * story.state.desired, in_flight=50)
    return story


def waiting_elsewhere() -> Story:
    """Hardly any CPU, and requests for two of three."""
    story = Story(plain(shrink_window_s=10.0), replicas=3)
    story.ticks(15, 0.01, 0.01, 0.01, in_flight=50)
    return story


def slow() -> Story:
    story = Story(plain(latency_p99_s=0.5))
    story.ticks(20, 0.4, p99_s=0.9)
    return story


def stepping() -> Story:
    story = Story(plain(steps=(Step(0.7, 1), Step(0.2, -1))))
    story.ticks(10, 0.9)
    story.ticks(80, 0.1, 0.1)
    return story


def scheduled() -> Story:
    story = Story(plain(schedule=(Scheduled("* * * * *", "0 0 1 1 *", "UTC", 3),)))
    story.tick(0.1)
    return story


def expecting() -> Story:
    story = Story(plain(forecast=Forecasting.ACT, season_s=600.0))
    story.loads(1300, 1.3)
    story.loads(200, 0.1)
    return story


def from_zero() -> Story:
    story = Story(plain(0, idle_after_s=10.0))
    story.ticks(12, 0.0)
    story.tick(queued=3)
    return story


def unknown() -> Story:
    story = Story(replicas=3)
    story.ticks(3, None, None, None)
    story.ticks(70, 0.1, 0.1, unavailable=1)
    story.ticks(20, 0.9, 0.9, 0.9, delay=0.5)
    return story


def settling() -> Story:
    story = Story(replicas=3)
    story.ticks(70, 0.05, booting=2)
    story.ticks(3, 0.05, draining=1, failures=2)
    return story


def bounded() -> Story:
    story = Story(replicas=2)
    story.rules = plain(3)
    story.tick(0.1, 0.1)
    story.rules = plain(1, 2)
    story.tick(0.1, 0.1, 0.1)
    return story


def ordered() -> Story:
    story = Story()
    for mode in (Mode.HOLD, Mode.OBSERVE, Mode.FIXED):
        to = 3 if mode is Mode.FIXED else None
        story.rules = plain(override=Override(mode, to, WALL + 1e6))
        story.tick(0.5)
        story.rules = plain(override=Override(mode, to))
        story.tick(0.5)
    return story


STORIES: tuple[Callable[[], Story], ...] = (
    overloaded, limited, shrinking, crossing, small, queueing, requesting, waiting_elsewhere, slow,
    stepping, scheduled, expecting, from_zero, unknown, settling, bounded, ordered,
)  # fmt: skip


@cache
def decisions(story: Callable[[], Story]) -> tuple[Decision, ...]:
    return tuple(story().decisions)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_whatever_happens_can_be_told_and_written(story: Callable[[], Story]) -> None:
    for decision in decisions(story):
        shown = decision.as_dict()
        # no NaN, no Infinity: they are not JSON
        assert json.loads(json.dumps(shown, allow_nan=False)) == shown
        head, _, why = decision.sentence.partition(": ")
        assert why
        assert str(decision.desired) in head
        assert not {"nan", "inf", "None", "{", "}"} & set(why.replace(";", " ").split())


def test_every_part_and_every_guard_is_reached() -> None:
    """Words that nobody says are dead code, and so is the branch that would say them."""
    told = [decision for story in STORIES for decision in decisions(story)]
    assert {part.reason for decision in told for part in decision.parts} == set(PART_WORDS)
    guards = {guard.reason for decision in told for guard in (*decision.guards, *decision.notes)}
    assert guards == set(GUARD_WORDS)


def test_every_reason_has_words_of_one_kind_only() -> None:
    """HOST_CONTENDED, STEADY and the like decide; a part asks, a guard holds."""
    assert not set(PART_WORDS) & set(GUARD_WORDS)


def test_an_order_with_an_end_says_when_it_ends() -> None:
    until = datetime(2026, 11, 20, 17, 30, tzinfo=UTC).timestamp()
    story = Story(plain(override=Override(Mode.HOLD, until=until)))
    decision = story.tick(0.5, wall_s=until - 60)
    assert decision.sentence.endswith("held by an operator until 2026-11-20 17:30:00 UTC")
    assert story.tick(0.5, wall_s=until).reason is not Reason.HOLD
