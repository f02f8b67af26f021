"""W3C trace context: what is a traceparent, and what one of ours looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb import trace

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"
GOOD = b"00-" + TRACE + b"-" + SPAN + b"-01"


@pytest.mark.parametrize(
    "value",
    [
        GOOD,
        GOOD[:-2] + b"00",
        GOOD[:-2] + b"ff",
        b"cc" + GOOD[2:],
        b"01" + GOOD[2:] + b"-what-the-future-will-be-like",
        b"01" + GOOD[2:] + b"-",
    ],
)
def test_one_valid_traceparent_is_kept(value: bytes) -> None:
    assert trace.valid([value])


@pytest.mark.parametrize(
    "value",
    [
        b"",
        GOOD.upper(),
        b"ff" + GOOD[2:],
        b"0" + GOOD[2:],
        b"0g" + GOOD[2:],
        GOOD + b"-more",
        GOOD + b"\n",
        b" " + GOOD,
        b"01" + GOOD[2:] + b".what",
        GOOD[:-1],
        GOOD[:-3],
        GOOD.replace(b"-", b"_"),
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"00-" + TRACE[:-1] + b"-" + SPAN + b"-01",
        b"00-" + TRACE[:-1] + b"x-" + SPAN + b"-01",
        GOOD + b", " + GOOD,
    ],
)
def test_a_malformed_one_is_not(value: bytes) -> None:
    assert not trace.valid([value])


def test_none_and_several_are_not() -> None:
    assert not trace.valid([])
    assert not trace.valid([GOOD, GOOD])


@given(st.binary(min_size=24, max_size=24))
def test_ours_are_valid_and_sampled_whatever_the_dice_say(drawn: bytes) -> None:
    made = trace.make(lambda size: drawn[:size], 1)[0]
    assert trace.valid([made])
    assert made.startswith(b"00-")
    assert made.endswith(b"-01")


def test_ours_are_of_the_bytes_given() -> None:
    made = trace.make(lambda size: bytes(range(1, size + 1)), 1)[0]
    assert made == b"00-0102030405060708090a0b0c0d0e0f10-1112131415161718-01"


@pytest.mark.parametrize("zeros", [slice(0, 16), slice(16, 24), slice(0, 24)])
def test_zeros_do_not_make_an_invalid_one(zeros: slice) -> None:
    drawn = bytearray(b"\xab" * 24)
    drawn[zeros] = bytes(len(drawn[zeros]))
    assert trace.valid([trace.make(lambda _: bytes(drawn), 1)[0]])
