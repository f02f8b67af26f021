"""What the soak calls a miss, and a soak of a few seconds. The whole is `./run bench soak`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.parts.growth import after, slope
from bench.soak import Soak, figures, misses, report, run

MIB = 1024 * 1024
SECONDS = 600.0


def soaked(grown_mib: float = 0.0) -> Soak:
    """Ten minutes with nothing to complain of but, where asked for, memory that grows."""
    soak = Soak(files_before=30, files_after=30)
    soak.asked.update(kept=1000, posting=10)
    soak.memory = [(t, 80 * MIB + grown_mib * MIB * t / SECONDS) for t in range(int(SECONDS))]
    soak.files = [(t, 90) for t in range(int(SECONDS))]
    return soak


def missed(soak: Soak) -> list[str]:
    return misses(soak, figures(soak, SECONDS))


def test_a_good_run_misses_nothing() -> None:
    assert missed(soaked()) == []
    assert missed(soaked(grown_mib=2)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"failed": ["kept: reset"]}, "failed: kept: reset"),
        ({"files_after": 35}, "35 files are open"),
        ({"leases_after": 2}, "2 leases are left"),
        ({"complaints": ["12:00 ERROR lb: task failed"]}, "log: 12:00 ERROR"),
    ],
)
def test_whatever_is_left_or_lost_is_a_miss(change: dict[str, object], words: str) -> None:
    (found,) = missed(replace(soaked(), **change))  # type: ignore[arg-type]
    assert words in found


def test_memory_that_grows_is_a_miss() -> None:
    (found,) = missed(soaked(grown_mib=10))
    assert found.startswith("memory grew by 8.")


def test_nothing_asked_is_a_miss() -> None:
    soak = soaked()
    soak.asked.clear()
    assert missed(soak) == ["nothing was asked"]


def test_hundreds_of_failures_are_told_in_some_lines() -> None:
    soak = soaked()
    soak.failed = [f"kept: {number}" for number in range(300)]
    assert len(missed(soak)) == 21
    assert missed(soak)[-1] == "and 280 more failed"


def test_the_slope_is_that_of_a_line() -> None:
    assert slope([(t, 3 * t + 7) for t in range(10)]) == pytest.approx(3)
    assert slope([]) == slope([(1, 5)]) == 0.0
    assert after([(1, 5), (2, 6)], 2) == [(2, 6)]


async def test_a_few_seconds_of_it_go_well() -> None:
    soak = await run(8.0, settle_s=6.0)
    # Memory is still growing to what it needs; that is for the whole run to judge.
    soak.memory = [(t, 80 * MIB) for t, _ in soak.memory]
    assert misses(soak, found := figures(soak, 8.0)) == []
    assert {"drain", "remove"} & set(soak.events)
    assert "SIGHUP" in soak.events
    assert "websocket messages" in soak.asked
    assert f"{found.requests} requests in 8 s" in report(found)
