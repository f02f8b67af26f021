"""Heads and bodies by the thousand, spoiled in every way: nobody behind us reads them otherwise.

The long runs, with more ways to try, are `./run bench fuzz`; this is what CI can wait for.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.wire_corpus import (
    ANSWER_LIES,
    ANSWERS,
    BODIES,
    KINDS,
    LIES,
    REQUESTS,
    TOKENS,
    Edit,
    cuts,
    drawn,
    edited,
)
from tests.wire_reading import check_answer, check_chunks, check_requests, take_requests
from tests.wire_through import check_through, recorded

SHARE = st.floats(0, 0.999)
EDITS = st.lists(
    st.builds(Edit, st.sampled_from(KINDS), SHARE, SHARE, st.sampled_from(TOKENS)), max_size=6
)
# Inputs take milliseconds, but the first of a cold process may take longer.
SETTINGS = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def spoiled(bases: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """One to three of these in a row, edited; or bytes of no shape at all."""
    some = st.lists(st.sampled_from(bases), min_size=1, max_size=3).map(b"".join)
    return st.builds(edited, some, EDITS) | st.binary(max_size=200)


@pytest.mark.parametrize("request_bytes", REQUESTS)
def test_what_is_fine_is_read_and_goes_on(request_bytes: bytes) -> None:
    taken = check_requests(request_bytes)
    assert len(taken.onward) == 1


@pytest.mark.parametrize("lie", LIES)
def test_what_lies_goes_on_as_nothing(lie: bytes) -> None:
    taken = check_requests(lie)
    # empty lines before a request are no lie, only odd
    assert len(taken.onward) == (1 if lie.startswith(b"\r\n") else 0)


@SETTINGS
@given(spoiled(REQUESTS + LIES))
@example(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent_Length: 9\r\n\r\nabc")
def test_a_request_goes_on_as_exactly_one(data: bytes) -> None:
    check_requests(data)


@SETTINGS
@given(spoiled(ANSWERS + ANSWER_LIES), st.sampled_from(["GET", "HEAD", "POST"]), st.booleans())
def test_an_answer_comes_back_as_exactly_one(data: bytes, method: str, newer: bool) -> None:
    check_answer(data, method, newer=newer)


@SETTINGS
@given(spoiled(BODIES), st.integers(0, 2**32))
def test_a_body_reads_the_same_however_it_is_cut(body: bytes, seed: int) -> None:
    check_chunks(body, cuts(random.Random(seed), body))


async def test_a_backend_sees_the_requests_in_the_bytes_and_no_other() -> None:
    seen = held = 0
    async with recorded() as (proxy, recorder):
        for number in range(600):
            chance = random.Random(f"CI:{number}")
            data = drawn(chance, REQUESTS + LIES)
            seen += await check_through(proxy, recorder, data, cuts(chance, data))
            held += len(take_requests(data).read)
    # the rest was answered by us: `Max-Forwards: 0`
    assert 0 < held - held // 10 <= seen <= held
