"""A client that closed its side is asked whether it waits, where asking does no harm."""

from __future__ import annotations

import pytest

from lb.half_closed import PROBE, PROBES_S, Act, HalfClosed


def test_who_waits_for_an_answer_is_asked_more_and_more_seldom() -> None:
    client = HalfClosed((1, 1), 0, 30.0)
    waits = []
    for _ in range(len(PROBES_S) + 2):
        waits.append(client.next_s)
        assert client.look(0, 0) is Act.ASK
    assert waits == [*PROBES_S, PROBES_S[-1], PROBES_S[-1]]


def test_what_is_asked_is_an_interim_answer() -> None:
    assert PROBE.startswith(b"HTTP/1.1 100 ")
    assert PROBE.endswith(b"\r\n\r\n")


def test_http_1_0_knows_no_interim_answers_and_is_cut_after_its_silence() -> None:
    client = HalfClosed((1, 0), 0, 30.0)
    assert client.next_s == 30.0
    assert client.look(0, 0) is Act.CUT


@pytest.mark.parametrize(
    ("written", "unsent", "act"),
    [
        (500, 0, Act.CUT),  # nothing was added, and it has taken all
        (500, 100, Act.ASK),  # it has not taken all of it yet
        (700, 0, Act.ASK),  # the answer goes on
    ],
)
def test_within_an_answer_only_a_silence_cuts(written: int, unsent: int, act: Act) -> None:
    client = HalfClosed((1, 1), 500, 30.0)
    assert client.next_s == 30.0
    assert client.look(written, unsent) is act


def test_an_answer_that_begins_later_is_waited_for_as_one() -> None:
    client = HalfClosed((1, 1), 0, 30.0)
    assert client.next_s == PROBES_S[0]
    assert client.look(10, 0) is Act.ASK
    assert client.next_s == 30.0
    assert client.look(10, 0) is Act.CUT
