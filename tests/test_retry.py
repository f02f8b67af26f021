"""When a failed request may be sent again: a table, and what must always hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.config_service import RetryConfig
from lb.errors import Repeat
from lb.retry import IDEMPOTENT, costs, may_hedge, may_retry, repeat_of_status

THREE = RetryConfig(attempts=3)

repeats = st.sampled_from(list(Repeat))
methods = st.sampled_from([*sorted(IDEMPOTENT), "POST", "PATCH", "TRACE", "BREW"])


@pytest.mark.parametrize(
    ("repeat", "method", "attempt", "replayable", "received", "expected"),
    [
        (Repeat.ALWAYS, "POST", 1, True, 0, True),
        (Repeat.ALWAYS, "GET", 2, True, 0, True),
        (Repeat.ALWAYS, "GET", 3, True, 0, False),
        (Repeat.ALWAYS, "PUT", 1, False, 0, False),
        (Repeat.ALWAYS, "GET", 1, True, 1, False),
        (Repeat.IDEMPOTENT, "GET", 1, True, 0, True),
        (Repeat.IDEMPOTENT, "DELETE", 1, True, 0, True),
        (Repeat.IDEMPOTENT, "PUT", 2, True, 0, True),
        (Repeat.IDEMPOTENT, "PUT", 1, False, 0, False),
        (Repeat.IDEMPOTENT, "POST", 1, True, 0, False),
        (Repeat.IDEMPOTENT, "GET", 3, True, 0, False),
        (Repeat.IDEMPOTENT, "GET", 1, True, 1, False),
        (Repeat.NEVER, "GET", 1, True, 0, False),
        (Repeat.STALE, "GET", 1, True, 0, True),
        (Repeat.STALE, "GET", 3, True, 0, True),
        (Repeat.STALE, "POST", 1, True, 0, False),
        (Repeat.STALE, "PUT", 1, False, 0, False),
        (Repeat.STALE, "GET", 1, True, 1, False),
    ],
)
def test_the_table(
    repeat: Repeat, method: str, attempt: int, replayable: bool, received: int, expected: bool
) -> None:
    verdict = may_retry(
        repeat, method, attempt, replayable=replayable, response_bytes=received, config=THREE
    )
    assert verdict is expected


def test_a_second_stale_connection_is_a_reset_like_any_other() -> None:
    def after_stale(attempt: int, method: str = "GET") -> bool:
        return may_retry(
            Repeat.STALE, method, attempt, replayable=True, response_bytes=0, config=THREE,
            stale_before=True,
        )  # fmt: skip

    assert after_stale(2)
    assert not after_stale(3)
    assert not after_stale(1, "POST")


def test_only_the_first_stale_connection_is_free() -> None:
    assert not costs(Repeat.STALE)
    assert costs(Repeat.STALE, stale_before=True)
    assert all(costs(repeat) for repeat in Repeat if repeat is not Repeat.STALE)


def test_with_one_attempt_there_is_no_second_but_after_a_stale_connection() -> None:
    once = RetryConfig(attempts=1)
    allowed = {
        repeat
        for repeat in Repeat
        if may_retry(repeat, "GET", 1, replayable=True, response_bytes=0, config=once)
    }
    assert allowed == {Repeat.STALE}


@pytest.mark.parametrize(
    ("status", "on_status", "method", "expected"),
    [
        (503, (502, 503), "GET", True),
        (504, (502, 503), "GET", False),
        (503, (), "GET", False),
        (503, (503,), "POST", False),
        (200, (502, 503, 504), "GET", False),
    ],
)
def test_an_answer_is_tried_elsewhere_where_the_configuration_says_so(
    status: int, on_status: tuple[int, ...], method: str, expected: bool
) -> None:
    config = RetryConfig.model_validate({"on_status": on_status})
    repeat = repeat_of_status(status, config)
    verdict = may_retry(repeat, method, 1, replayable=True, response_bytes=0, config=config)
    assert verdict is expected


@given(repeats, methods, st.integers(1, 12), st.booleans(), st.integers(0, 2), st.integers(1, 10))
def test_never_after_bytes_moved_and_never_without_bound(
    repeat: Repeat, method: str, attempt: int, replayable: bool, received: int, attempts: int
) -> None:
    config = RetryConfig(attempts=attempts)
    if may_retry(
        repeat, method, attempt, replayable=replayable, response_bytes=received, config=config
    ):
        assert replayable
        assert not received
        assert repeat is Repeat.ALWAYS or method in IDEMPOTENT
        assert attempt < attempts or repeat is Repeat.STALE


@pytest.mark.parametrize(
    ("method", "has_body", "expected"),
    [
        ("GET", False, True),
        ("HEAD", False, True),
        ("GET", True, False),
        ("PUT", False, False),
        ("DELETE", False, False),
        ("POST", False, False),
    ],
)
def test_hedged_is_only_what_changes_nothing(method: str, has_body: bool, expected: bool) -> None:
    assert may_hedge(method, has_body) is expected
