"""Each request's own id, in order, and those of two processes apart."""

from __future__ import annotations

from itertools import islice

from lb.request_ids import request_ids


def test_they_count_on_from_one() -> None:
    made = request_ids("cafe")
    ids = [made() for _ in range(1000)]
    assert ids == [b"cafe-%08x" % number for number in range(1, 1001)]


def test_two_processes_have_none_in_common() -> None:
    one, other = (set(islice(iter(request_ids(prefix), None), 600)) for prefix in ("a1", "b2"))
    assert len(one | other) == 1200
