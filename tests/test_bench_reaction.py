"""What the reaction benchmark calls relief, a first answer and a miss. The run itself, on real
machines, is `./run bench reaction`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.parts.reaction_figures import (
    FLOOR_S,
    STAYS_S,
    TARGETS,
    WINDOW_S,
    Event,
    Kill,
    Overload,
    Restart,
    Sent,
    allowed,
    first_answer,
    kill,
    misses,
    overload,
    p99s,
    relief,
    seconds,
    values,
)
from bench.parts.reaction_load import Recorder, replica_of
from bench.parts.reaction_page import BEGIN, END, page, table, write
from bench.reaction import Found, document, earlier
from loadtest.connect import resolve
from loadtest.plan import Plan
from loadtest.target import Settings

T = 1000.0


def load(*latencies: tuple[float, float], gap: float = 0.1, phase: str = "high") -> list[Sent]:
    """For so many seconds requests of such a latency, ten a second, from T on."""
    sent, at = [], T
    for lasting, latency in latencies:
        for _ in range(round(lasting / gap)):
            done = at + latency if latency < math.inf else None
            sent.append(Sent(at, done, 200 if done else 0, "web-a", phase))
            at += gap
    return sent


# ── relief ───────────────────────────────────────────────────────────────────────────────────────


def test_relief_is_when_the_last_late_one_was_sent() -> None:
    sent = load((0.5, 0.1), (2.0, 0.9), (6.0, 0.1))
    found = relief(sent, T, 0.5)
    assert found is not None
    assert found - T == pytest.approx(2.4, abs=0.001), "the one sent at 2.5 s was served well"


def test_who_waits_until_help_comes_was_sent_before_the_relief() -> None:
    """One second of queue that another replica works off: what counts is not when answers come."""
    sent = load((1.0, 2.0), (6.0, 0.1))
    found = relief(sent, T, 0.5)
    assert found is not None
    assert found - T < 1.0


def test_a_pause_between_two_crests_is_no_relief() -> None:
    sent = load((1.0, 0.9), (2.0, 0.1), (1.0, 0.9), (8.0, 0.1))
    found = relief(sent, T, 0.5)
    assert found is not None
    assert found - T == pytest.approx(3.9, abs=0.001)


def test_one_that_comes_back_long_after_is_another_matter() -> None:
    sent = load((1.0, 0.9), (STAYS_S + 2 * WINDOW_S + 0.5, 0.1), (1.0, 0.9), (8.0, 0.1))
    found = relief(sent, T, 0.5)
    assert found is not None
    assert found - T == pytest.approx(0.9, abs=0.001)


@pytest.mark.parametrize("more", [0.0, 1.0, STAYS_S + WINDOW_S - 0.2])
def test_what_was_not_seen_to_its_end_is_none(more: float) -> None:
    assert relief(load((1.0, 0.9), (more, 0.1)), T, 0.5) is None


def test_who_is_not_answered_yet_is_late() -> None:
    assert relief(load((1.0, 0.1), (0.5, math.inf), (2.0, 0.1)), T, 0.5) is None
    found = relief(load((1.0, 0.1), (0.5, math.inf), (6.0, 0.1)), T, 0.5)
    assert found is not None
    assert found - T == pytest.approx(1.4, abs=0.001)


def test_an_error_is_as_bad_as_no_answer() -> None:
    sent = load((8.0, 0.1))
    sent[20] = sent[20]._replace(status=503)
    found = relief(sent, T, 0.5)
    assert found is not None
    assert found - T == pytest.approx(2.0, abs=0.001)


def test_an_overload_that_nobody_noticed_was_over_at_once() -> None:
    assert relief(load((8.0, 0.1)), T, 0.5) == T
    assert relief([], T, 0.5) is None


def test_of_many_requests_the_slowest_hundredth_does_not_count() -> None:
    sent = load((8.0, 0.1), gap=0.005)
    sent[400] = sent[400]._replace(done=sent[400].at + 3.0)
    assert relief(sent, T, 0.5) == T


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 12), st.floats(0, 2)), max_size=60), st.floats(0.1, 1))
def test_relief_is_what_its_definition_says(made: list[tuple[float, float]], most: float) -> None:
    sent = sorted(Sent(T + at, T + at + took, 200, "web-a", "high") for at, took in made)
    found = relief(sent, T, most)
    if found is None:
        return
    assert T <= found <= sent[-1].at - STAYS_S - WINDOW_S
    for step in range(30):
        begin = found + step * STAYS_S / 30
        window = [s.latency_s for s in sent if begin <= s.at < begin + WINDOW_S]
        assert max(window, default=0.0) <= most, "of fewer than a hundred, p99 is the slowest"
    before = [s for s in sent if T <= s.at < found]
    assert not before or before[-1].latency_s > most, "no earlier instant would do"


def test_what_counts_as_relief_is_twice_the_low_load_or_half_a_second() -> None:
    assert allowed(load((6.0, 0.4)), T, T + 6) == pytest.approx(0.8)
    assert allowed(load((6.0, 0.04)), T, T + 6) == FLOOR_S
    assert allowed([], T, T + 6) == FLOOR_S
    # one bad second of six is no measure
    assert allowed(load((1.0, 5.0), (5.0, 0.3)), T, T + 6) == pytest.approx(0.6)


def test_only_whole_seconds_count() -> None:
    assert p99s(load((3.5, 0.2)), T, T + 3.5) == pytest.approx([0.2] * 3)


# ── one round ────────────────────────────────────────────────────────────────────────────────────


EVENTS = [
    Event(T + 9.0, "scale.up", "web"),  # of the round before
    Event(T + 11.0, "scale.up", "web"),
    Event(T + 11.01, "vm.wake", "web-b"),
    Event(T + 11.02, "vm.launch", "web-c"),
]


def overloaded() -> list[Sent]:
    low = [s._replace(phase="low") for s in load((10.0, 0.1))]
    high = [s._replace(at=s.at + 10.03, done=(s.done or 0) + 10.03) for s in load((9.0, 0.1))]
    return [
        *low,
        *(s._replace(replica="web-b" if n >= 12 else "web-a") for n, s in enumerate(high)),
    ]


def test_an_overload_is_measured_from_the_first_request_of_the_high_load() -> None:
    found = overload("standby", overloaded(), EVENTS, {"web-a"}, T + 2, T + 10)
    assert found.decided == pytest.approx(0.97)
    assert found.answered == pytest.approx(0.33)
    assert found.started == pytest.approx(0.32), "by the event of the one that answered"
    assert (found.relief, found.failed, found.allowed_p99) == (0.0, 0, FLOOR_S)


def test_what_did_not_happen_is_none() -> None:
    found = overload("cold", load((3.0, 0.9)), [], {"web-a"}, T - 8, T)
    assert (found.decided, found.answered, found.started, found.relief) == (None,) * 4


def test_the_old_ones_answers_and_errors_are_no_first_answer() -> None:
    sent = [
        Sent(T, T + 0.1, 200, "web-a", "low"),
        Sent(T, T + 0.2, 503, "", "low"),
        Sent(T, T + 0.4, 200, "web-c", "low"),
        Sent(T + 0.1, T + 0.3, 200, "web-b", "low"),
        Sent(T + 0.2, None, 0, "", "low"),
    ]
    answer = first_answer(sent, {"web-a"}, T)
    assert answer is not None
    assert answer.replica == "web-b"
    assert first_answer(sent, {"web-a"}, T + 1) is None


def test_a_kill_is_measured_from_the_signal() -> None:
    sent = [Sent(T - 0.01, T + 0.06, 200, "web-b", "low"), Sent(T, T + 9.0, 502, "", "low")]
    events = [
        Event(T - 5, "backend.gone", "web-a"),
        Event(T + 0.01, "backend.unhealthy", "web-z"),
        Event(T + 0.02, "backend.gone", "web-a"),
        Event(T + 0.021, "vm.wake", "web-b"),
    ]
    found = kill("standby", sent, events, "web-a", T)
    assert found.ejected == pytest.approx(0.02)
    assert found.replaced == pytest.approx(0.06)
    assert found.started == pytest.approx(0.039)
    assert found.failed == 1


# ── all rounds ───────────────────────────────────────────────────────────────────────────────────


GOOD = Overload("standby", 0.9, 0.2, 0.2, 1.6, 0.5, 0)
LOST = Kill("standby", 0.02, 0.07, 0.04, 0)


def test_rounds_within_the_targets_are_no_miss() -> None:
    assert misses([GOOD] * 3 + [LOST] * 3) == []
    assert misses([]) == []


def test_the_median_decides() -> None:
    bad = replace(GOOD, relief=None)
    assert misses([GOOD, GOOD, bad, LOST]) == []
    (missed,) = misses([GOOD, bad, bad, LOST])
    assert "by a standby: never, more than 2.00 s (3 rounds)" in missed


def test_of_waking_the_worst_of_twenty_decides() -> None:
    for way, where in (("standby", ""), ("wake", ", without any load")):
        one = replace(LOST, way=way)
        late = replace(one, started=0.08)
        (missed,) = misses([GOOD, *[one] * 19, late])
        assert f"woken to its first answer{where} (p99): 80 ms, more than 50 ms (20" in missed
        assert misses([GOOD, *[one] * 199, late]) == []


def test_a_failed_request_is_a_miss() -> None:
    assert misses([replace(GOOD, failed=2), replace(LOST, failed=1)]) == ["3 requests failed"]


def test_every_target_looks_at_something_that_is_measured() -> None:
    rounds = [replace(GOOD, way=way) for way in ("standby", "snapshot")]
    lost = [replace(LOST, way=way) for way in ("standby", "wake", "snapshot")]
    again = Restart("any", 0.9)
    assert all(len(values([*rounds, *lost, again], target.of)) == 1 for target in TARGETS)


def test_seconds_are_for_people() -> None:
    assert [seconds(x) for x in (0.0204, 0.1, 12.345, None)] == [
        "20 ms",
        "0.10 s",
        "12.35 s",
        "never",
    ]


# ── what is shown ────────────────────────────────────────────────────────────────────────────────


def test_the_tables_show_medians_and_the_worst_beside_the_published_figures() -> None:
    overloads = [GOOD, replace(GOOD, relief=1.2), replace(GOOD, relief=None)]
    text = page([*overloads, LOST], {"standby": 21.7}, 1_795_000_000)
    assert "2026-11-18" in text
    assert "22/s (standby)" in text
    assert "| a standby is woken | 3 | 0.90 s (0.90 s) | 0.20 s (0.20 s) | 1.60 s (never) |" in text
    assert "| a standby is woken | 1 | 20 ms (20 ms) | 70 ms (70 ms) | 40 ms (40 ms) |" in text
    assert "| 36 s |" in text
    assert "| 243 s |" in text
    assert "a saved guest" not in text, "nobody played that"
    assert "36 s" not in table([*overloads, LOST])


def test_the_page_keeps_what_is_around_its_tables(tmp_path: Path) -> None:
    into = tmp_path / "page.md"
    into.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(into, "new")
    assert into.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    into.write_text("nothing to fill")
    with pytest.raises(SystemExit, match="has no lines"):
        write(into, "new")


def test_rounds_of_an_earlier_part_are_read_as_they_were_written(tmp_path: Path) -> None:
    rounds: list[Overload | Kill | Restart] = [
        GOOD,
        replace(LOST, replaced=None),
        Restart("any", 0.8),
    ]
    told = Found({"standby": 21.5}, rounds, ["standby: busy"])
    (tmp_path / "part.json").write_text(json.dumps(document(told, ["one target"])))
    assert earlier(tmp_path / "part.json") == told


# ── who answered ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Replica: web-1\r\nContent-Length: 0\r\n\r\n", "web-1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nx-replica:web-2\r\n\r\n", "web-2"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", ""),
        (b"", ""),
    ],
)
def test_the_head_says_who_answered(head: bytes, name: str) -> None:
    assert replica_of(head) == name


async def test_the_load_tester_keeps_who_answered_each_request_and_when() -> None:
    answered = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                answered += 1
                name = f"X-Replica: web-{answered}"
                writer.write(f"HTTP/1.1 200 OK\r\n{name}\r\nContent-Length: 2\r\n\r\nok".encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    plan = Plan.parse("low=50@100ms,high=50@100ms")
    sent: list[Sent] = []
    async with server:
        settings_ = Settings(f"http://127.0.0.1:{port}/", plan)
        test = Recorder(settings_, await resolve(settings_.target))
        result = await test.run()
        sent = test.since(result.started_unix - 1)
    assert len(sent) == result.counts.completed == 10
    assert {one.replica for one in sent} == {f"web-{n}" for n in range(1, 11)}
    assert [one.phase for one in sent] == ["low"] * 5 + ["high"] * 5
    assert all(one.ok and 0 < one.latency_s < 60 for one in sent)
    assert test.since(sent[5].at) == sent[5:]
    assert test.since(sent[0].at) == sent[5:], "what was before is forgotten"
