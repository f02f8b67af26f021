"""The log of decisions: what says the same is one entry, and a follower misses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.decision import Decision, Guard, Part
from autoscale.model import Reason
from autoscale.rules import Mode
from lb.decisions import DecisionLog, Decisions

NOON = 1_700_000_000.0


def steady(service: str = "web", *, cpu: float = 0.3, desired: int = 2, **more: object) -> Decision:
    numbers: dict[str, float | int | str | None] = {
        "utilisation": cpu,
        "target": 0.6,
        "over_s": 1.0,
        "replicas": desired,
        "on": f"{desired} replicas",
    }
    part = Part(Reason.CPU_OVERLOAD, desired, desired, numbers)
    return Decision(service, 1.0, desired, desired, Reason.STEADY, (part,), **more)  # type: ignore[arg-type]


def grown(service: str = "web") -> Decision:
    return Decision(service, 1.0, 2, 3, Reason.CPU_OVERLOAD, told="busy")


def test_decisions_that_say_the_same_are_one_entry_with_the_newest_numbers() -> None:
    log = Decisions()
    for second in range(5):
        log.add(steady(cpu=0.30 + second / 100), NOON + second)
    (entry,) = log.page()
    assert (entry.first_at, entry.last_at, entry.count) == (NOON, NOON + 4, 5)
    assert "CPU 0.34" in entry.decision.sentence
    row = json.loads(json.dumps(entry.as_dict()))
    assert (row["id"], row["revision"], row["count"]) == (entry.id, entry.revision, 5)
    assert (row["service"], row["desired"], row["reason"]) == ("web", 2, "steady")
    assert row["sentence"] == entry.decision.sentence
    assert row["parts"][0]["utilisation"] == pytest.approx(0.34)


def test_what_says_something_else_is_an_entry_of_its_own() -> None:
    log = Decisions()
    held = Guard(Reason.STABILISING, {"kept": 2, "window_s": 60.0})
    kinds = [
        steady(),
        steady(guards=(held,)),
        steady(guards=(held, held)),
        steady(mode=Mode.OBSERVE),
        steady(desired=3),
        grown(),
        Decision("web", 1.0, 3, 3, Reason.CPU_OVERLOAD),
        Decision("web", 1.0, 3, 3, Reason.SETTLING),
    ]
    for number, decision in enumerate(kinds):
        log.add(decision, NOON + number)
    assert [entry.decision for entry in log.page()] == kinds
    log.add(kinds[0], NOON + 9)
    assert [entry.count for entry in log.page()] == [1] * 9, "what was before is before"


def test_services_do_not_break_each_others_entries() -> None:
    log = Decisions()
    for second in range(3):
        log.add(steady("web"), NOON + second)
        log.add(steady("api", desired=1), NOON + second)
    assert [(e.decision.service, e.count) for e in log.page()] == [("web", 3), ("api", 3)]
    assert [e.decision.service for e in log.page(service="api")] == ["api"]


def test_the_last_thousand_are_kept_and_those_that_go_on_are_among_them() -> None:
    log = Decisions(most=10)
    log.add(steady("quiet"), NOON)
    for second in range(50):
        log.add(steady("web", desired=second % 3), NOON + second)
        log.add(steady("quiet"), NOON + second)
    assert len(log) == 10
    assert [e.count for e in log.page(service="quiet")] == [51]
    assert len(Decisions().page()) == 0


def test_a_page_is_the_last_ones_or_the_first_after_a_revision() -> None:
    log = Decisions()
    for second in range(6):
        log.add(steady(desired=second), NOON + second)
    assert [e.decision.desired for e in log.page(limit=2)] == [4, 5]
    second_one = log.page()[1].revision
    assert [e.decision.desired for e in log.page(second_one, 2)] == [2, 3]
    assert log.page(log.last_id) == []
    assert [e.decision.desired for e in log.page(0, 2)] == [0, 1]


def test_an_id_is_the_time_and_grows_over_a_restart_whatever_the_clock_does() -> None:
    log = Decisions()
    log.add(steady(desired=1), NOON)
    log.add(steady(desired=2), NOON)
    log.add(steady(desired=3), NOON - 60)
    assert [e.id for e in log.page()] == [NOON * 1000, NOON * 1000 + 1, NOON * 1000 + 2]
    again = Decisions()
    again.add(steady(), NOON + 1)
    assert again.page(log.last_id) == again.page()


def kept_rows(kept: list[Callable[[], dict[str, Any]]]) -> list[dict[str, Any]]:
    """As a file gives them back: the newest of each entry, in the order of their changes."""
    rows = {row["id"]: row for row in (json.loads(json.dumps(render())) for render in kept)}
    return sorted(rows.values(), key=lambda row: int(row["revision"]))


def test_an_entry_is_kept_when_it_begins_when_it_ends_and_now_and_then() -> None:
    kept: list[Callable[[], dict[str, Any]]] = []
    log = Decisions(keep=kept.append)
    for second in range(25):
        log.add(steady(), NOON + second)
    assert [row()["count"] for row in kept] == [1, 11, 21]
    log.add(grown(), NOON + 25)
    assert [row()["count"] for row in kept] == [1, 11, 21, 25, 1]
    log.add(grown(), NOON - 3600)
    assert [row()["count"] for row in kept[5:]] == [2], "a clock set back must not end the keeping"


def test_what_an_earlier_process_decided_is_shown_and_not_folded_into() -> None:
    kept: list[Callable[[], dict[str, Any]]] = []
    log = Decisions(keep=kept.append)
    for second in range(3):
        log.add(steady(desired=1 + second % 2), NOON + second)
    again = Decisions(most=4)
    again.remember([*kept_rows(kept), {"id": 1, "unknown": "row"}])
    assert [e.as_dict() for e in again.page()] == [e.as_dict() for e in log.page()]
    assert again.last_id == log.last_id
    again.add(steady(desired=1), NOON + 1)
    again.add(steady(desired=2), NOON + 1)
    assert [e.decision.desired for e in again.page()] == [2, 1, 1, 2], "four of five"
    assert [e.count for e in again.page(log.last_id)] == [1, 1]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.booleans()), max_size=60))
def test_a_follower_ends_with_what_is_there(told: list[tuple[str, int, bool]]) -> None:
    log, seen, since = Decisions(), {}, 0
    for second, (service, desired, looks) in enumerate(told):
        log.add(steady(service, desired=desired), NOON + second)
        if looks:
            page = log.page(since)
            assert page
            assert all(entry.revision > since for entry in page)
            assert [entry.id for entry in page if entry.id <= since] == [
                entry.id for entry in page if entry.id in seen
            ], "an entry that began before was seen before"
            seen.update({entry.id: entry for entry in page})
            since = log.last_id
    seen.update({entry.id: entry for entry in log.page(since)})
    assert seen == {entry.id: entry for entry in log.page()}
    assert sum(entry.count for entry in log.page()) == len(told)


def test_decisions_are_counted_and_the_last_of_each_direction_dated() -> None:
    kept = Decisions()
    log = DecisionLog(kept)
    shrunk = Decision("web", 1.0, 3, 2, Reason.CPU_LOW)
    for at, decision in enumerate((steady(), grown(), steady(), shrunk)):
        log.decided(decision, 1000.0 + at)
    assert log.counts == {
        ("none", "steady"): 2,
        ("up", "cpu_overload"): 1,
        ("down", "cpu_low"): 1,
    }
    assert log.last_scale_unix_s == {"up": 1001.0, "down": 1003.0}
    assert (log.newest, log.newest_at) == (shrunk, 1003.0)
    assert len(kept) == 4


def test_when_the_number_last_changed_is_known_after_a_restart() -> None:
    rows: list[Callable[[], dict[str, Any]]] = []
    log = DecisionLog(Decisions(keep=rows.append))
    shrunk = Decision("web", 1.0, 3, 2, Reason.CPU_LOW)
    other = Decision("api", 1.0, 3, 4, Reason.CPU_OVERLOAD)
    for at, decision in enumerate((grown(), steady(), shrunk, steady(), grown(), other, steady())):
        log.decided(decision, NOON + at)
    remembered = Decisions()
    remembered.remember(kept_rows(rows))
    again = DecisionLog(remembered)
    again.recall("web")
    assert again.last_scale_unix_s == {"up": NOON + 4, "down": NOON + 2}
    again.decided(shrunk, NOON + 100)
    assert again.last_scale_unix_s == {"up": NOON + 4, "down": NOON + 100}
