"""When a failed request may be sent again: a table, and what must always hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.errors import Repeat
from lb.retry import IDEMPOTENT, MAX_ATTEMPTS, may_retry

repeats = st.sampled_from(list(Repeat))
methods = st.sampled_from([*sorted(IDEMPOTENT), "POST", "PATCH", "TRACE", "BREW"])


@pytest.mark.parametrize(
    ("repeat", "method", "attempt", "sent", "received", "expected"),
    [
        (Repeat.ALWAYS, "POST", 1, 0, 0, True),
        (Repeat.ALWAYS, "GET", 2, 0, 0, True),
        (Repeat.ALWAYS, "GET", 3, 0, 0, False),
        (Repeat.IDEMPOTENT, "GET", 1, 0, 0, True),
        (Repeat.IDEMPOTENT, "DELETE", 1, 0, 0, True),
        (Repeat.IDEMPOTENT, "POST", 1, 0, 0, False),
        (Repeat.IDEMPOTENT, "PUT", 1, 5, 0, False),
        (Repeat.ALWAYS, "PUT", 1, 1, 0, False),
        (Repeat.IDEMPOTENT, "GET", 1, 0, 1, False),
        (Repeat.NEVER, "GET", 1, 0, 0, False),
    ],
)
def test_the_table(
    repeat: Repeat, method: str, attempt: int, sent: int, received: int, expected: bool
) -> None:
    assert may_retry(repeat, method, attempt, sent, received) is expected


@given(repeats, methods, st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_never_after_bytes_moved_and_never_without_bound(
    repeat: Repeat, method: str, attempt: int, sent: int, received: int
) -> None:
    if may_retry(repeat, method, attempt, sent, received):
        assert sent == received == 0
        assert attempt < MAX_ATTEMPTS
        assert repeat is Repeat.ALWAYS or method in IDEMPOTENT
