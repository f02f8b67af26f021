"""How many drain a queue in time, in numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.decision import Part
from autoscale.model import Path, Way
from autoscale.parts.queue import drain_s, queue_part
from autoscale.rules import Rules
from tests.readings import COLD, fleet, reading, replicas

RULES = Rules()
SOON = (Way(Path.STANDBY, 0.05), *COLD)


def asked(
    *used: float | None,
    each: float | None = 20.0,
    booting: int = 0,
    base: int = 1,
    rules: Rules = RULES,
    ways: tuple[Way, ...] = SOON,
    **others: Any,
) -> Part | None:
    signals = replicas(*used, **others)
    there = fleet(len(used), booting, ways=ways)
    return queue_part(signals, reading(*used), each, there, rules, base)


def part(*used: float | None, **others: Any) -> Part:
    found = asked(*used, **others)
    assert found is not None
    return found


def test_help_that_comes_later_than_the_queue_is_gone_helps_nobody() -> None:
    assert drain_s(fleet(ways=SOON), RULES) == 5.0
    assert drain_s(fleet(ways=COLD), RULES) == 10.0
    assert drain_s(fleet(ways=()), RULES) == 5.0


def test_littles_law() -> None:
    """One answers 20 a second, 10 come in, 50 wait: it works off 10 a second and takes 5 s. 51 do
    not drain in 5 s by one; two replicas drain up to 150."""
    by_queue = {"arrivals_per_s": 10.0, "base": 1}
    assert part(0.5, queued=50, **by_queue).asks == 1
    assert part(0.5, queued=51, **by_queue).asks == 2
    assert part(0.5, queued=150, **by_queue).asks == 2
    assert part(0.5, queued=151, **by_queue).asks == 3
    # a cold boot takes 10 s, and so may the queue
    assert part(0.5, queued=100, ways=COLD, **by_queue).asks == 1
    assert part(0.5, queued=101, ways=COLD, **by_queue).asks == 2


def test_what_comes_in_is_carried_at_the_target() -> None:
    """30 a second at 20 each are 1.5 replicas' work, and 1.5 ÷ 0.6 = 2.5."""
    assert part(1.0, arrivals_per_s=30.0, queued=1).asks == 3
    # CPU used up, nobody waits yet
    assert part(1.0, arrivals_per_s=30.0).asks == 3
    assert part(0.9, arrivals_per_s=13.0).asks == 1, "0.65 is within the tolerance"


def test_where_cpu_tells_enough_nothing_is_added() -> None:
    assert asked(0.89, arrivals_per_s=100.0) is None
    assert asked(1.0, None, arrivals_per_s=100.0) is None, "idle, the other one has room"


def test_nobody_knows_what_one_can_do() -> None:
    assert asked(1.0, each=None, arrivals_per_s=100.0, queued=50) is None
    assert asked(1.0, arrivals_per_s=None, queued=50) is None


def test_while_some_wait_nobody_leaves() -> None:
    assert part(0.1, 0.1, 0.1, base=3, arrivals_per_s=2.0, queued=1).keeps == 3
    assert part(1.0, base=3, arrivals_per_s=2.0).keeps == 0


def test_a_queue_of_a_slow_boot_is_for_those_that_boot() -> None:
    """400 wait and 10 come in: five could drain that. Two are on their way, and are not made four;
    what comes in counts all the same."""
    assert part(1.0, arrivals_per_s=10.0, queued=400).asks == 5
    assert part(1.0, booting=2, arrivals_per_s=10.0, queued=400).asks == 3
    assert part(1.0, booting=2, arrivals_per_s=60.0, queued=400).asks == 5


def test_its_words() -> None:
    drains = part(0.5, queued=14, arrivals_per_s=13.0)
    assert (
        drains.words
        == "queue 14 drains in 2.0 s while 13.0/s come and one answers 20.0/s, which asks for 1"
    )
    assert drains.numbers["drain_s"] == pytest.approx(2.0)
    grows = part(1.0, queued=14, arrivals_per_s=20.0)
    assert (
        grows.words == "queue 14 grows while 20.0/s come and one answers 20.0/s, which asks for 2"
    )
    assert grows.numbers["drain_s"] is None
    words = part(1.0, arrivals_per_s=30.0).words
    assert "drains" not in words, "there is no queue"
    assert "30.0 requests/s" in words
    assert "20.0" in words


def test_with_none_that_serves_the_queue_grows() -> None:
    found = part(booting=1, base=1, arrivals_per_s=20.0, queued=30)
    assert "grows" in found.words
    assert found.asks == 2  # 20 a second ÷ (20 × 0.6)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.integers(1, 500),
    st.integers(0, 500),
    st.floats(0, 200),
    st.floats(0, 200),
    st.integers(0, 3),
)
def test_more_that_wait_or_come_never_ask_for_fewer(
    used: list[float], queued: int, more: int, arrivals: float, faster: float, booting: int
) -> None:
    low = part(*used, booting=booting, queued=queued, arrivals_per_s=arrivals)
    longer = part(*used, booting=booting, queued=queued + more, arrivals_per_s=arrivals)
    busier = part(*used, booting=booting, queued=queued, arrivals_per_s=arrivals + faster)
    assert longer.asks >= low.asks
    assert busier.asks >= low.asks


@given(st.integers(1, 400), st.floats(0.1, 100), st.floats(1, 50))
def test_so_many_really_drain_it_in_time(queued: int, arrivals: float, each: float) -> None:
    asks = part(0.5, each=each, queued=queued, arrivals_per_s=arrivals).asks
    spare = asks * each - arrivals
    assert spare > 0
    assert queued / spare <= 5.0 + 1e-6
