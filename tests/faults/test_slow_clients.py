"""A thousand slow clients beside ordinary ones. Ten thousand: `./run bench slow_clients`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.parts.slow import allowed
from bench.slow_clients import Found, misses, report, run

FEW = 1000


async def test_ordinary_clients_do_not_notice_a_thousand_slow_ones() -> None:
    found = await run(allowed(FEW), hold_s=3.0)
    assert misses(found) == []
    assert found.ordinary > 0


GOOD = Found(
    clients=1000,
    held=1000,
    ordinary=500,
    failed=[],
    p50_s=0.001,
    p99_s=0.01,
    worst_s=0.1,
    p50_alone_s=0.001,
    memory_before=80 * 2**20,
    memory_most=92 * 2**20,
    files_before=30,
    files_most=1400,
    files_after=30,
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"failed": ["GET /: reset"]}, "GET /: reset"),
        ({"ordinary": 0}, "no ordinary request"),
        ({"held": 900}, "only 900 of 1000"),
        ({"memory_most": 180 * 2**20}, "takes 102 KiB"),
        ({"files_after": 31}, "31 files are open"),
    ],
)
def test_what_is_a_miss(change: dict[str, object], words: str) -> None:
    assert misses(GOOD) == []
    (missed,) = misses(replace(GOOD, **change))  # type: ignore[arg-type]
    assert words in missed


def test_the_report_says_what_a_slow_client_takes() -> None:
    assert "12.3 KiB for each slow client" in report(GOOD)
