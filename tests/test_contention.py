"""When a host's cores count as taken."""

from __future__ import annotations

import pytest

from autoscale.contention import CONTENDED, delay_of
from autoscale.model import Signal


def signal(delay: float | None) -> Signal:
    return Signal("web-1", 1.0, 0.5, 0.5, 0.5, delay, 1.0)


def test_the_delay_of_a_host_is_its_guests_mean() -> None:
    assert delay_of([signal(0.2), signal(0.5)]) == pytest.approx(0.35)
    assert delay_of(iter([signal(0.0)])) == 0.0


def test_a_guest_without_a_figure_counts_neither_way() -> None:
    assert delay_of([signal(None), signal(0.6), signal(None)]) == pytest.approx(0.6)


def test_where_nothing_is_known_nothing_is_said() -> None:
    assert delay_of([]) is None
    assert delay_of([signal(None)]) is None


def test_a_host_counts_as_contended_before_its_guests_lose_half_their_time() -> None:
    assert 0.1 < CONTENDED < 0.5
