"""What `bench sampling` lists, measures and calls a miss. The run: `./run bench sampling`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from autoscale.hypervisor import LibvirtHypervisor
from autoscale.listing import PIECE
from bench.parts.fixed_rate import Latencies
from bench.parts.sampling_loop import (
    INSTANCE,
    Call,
    Sampled,
    Ticker,
    identity,
    node_xml,
    worst,
)
from bench.sampling import CONFIG, misses, report
from lb.config_file import read_text

ANSWERED = Latencies(10, 10, [], 0.001, 0.002, 0.003, 0.0, realtime=False, cpu_us=1.0)
SAMPLED = Sampled(1000, 0.3, [Call(0.1, 0.005, 0.001)], [0.0, 0.001, 0.005])


async def test_the_domains_are_ours_and_all_are_listed_the_second_time_too(tmp_path: Path) -> None:
    many = 2 * PIECE + 1
    node = tmp_path / "node.xml"
    node.write_text(node_xml(many))
    host = LibvirtHypervisor(
        "many", f"test://{node}", instance=INSTANCE, home=tmp_path, network="network:default"
    )
    await host.open()
    try:
        first, second = await host.observe(), await host.observe()
    finally:
        await host.close()
    assert {domain.name for domain in first} == {f"web-{at:06}" for at in range(many)}
    assert {domain.name: domain.identity for domain in second} == {
        f"web-{at:06}": identity(at) for at in range(many)
    }


def test_the_configuration_is_one(tmp_path: Path) -> None:
    text = CONFIG.format(port=8001, servers='"127.0.0.1:9001"')
    assert read_text(text, tmp_path).service["web"].backends[0].address == "127.0.0.1:9001"


def test_the_worst_tick_is_one_that_was_due_or_came_meanwhile() -> None:
    ticks = [(1.0, 0.5), (2.0, 0.1), (3.0, 0.3)]
    assert worst(ticks, 1.8, 2.5) == 0.1
    assert worst(ticks, 1.4, 2.5) == 0.5  # due before it, and came within
    assert worst(ticks, 2.5, 3.1) == 0.3  # due within, and came after it
    assert worst(ticks, 4.0, 5.0) == 0.0


async def test_a_blocked_loop_makes_ticks_late() -> None:
    ticker = Ticker()
    loop = asyncio.get_running_loop()
    while len(ticker.ticks) < 3:  # noqa: ASYNC110 - a tick is what is waited for
        await asyncio.sleep(0.001)
    began = loop.time()
    while loop.time() - began < 0.05:
        pass
    before = len(ticker.ticks)
    while len(ticker.ticks) == before:  # noqa: ASYNC110 - likewise
        await asyncio.sleep(0.001)
    ticker.close()
    assert ticker.ticks[before][1] > 0.02


def test_a_hundred_milliseconds_and_five_are_within_the_goals() -> None:
    assert misses(SAMPLED, ANSWERED) == []


def test_more_is_a_miss_and_so_is_a_failed_request() -> None:
    late = replace(SAMPLED, calls=[Call(0.12, 0.006, 0.0)] * 2 + SAMPLED.calls)
    answer, took, lag = misses(late, replace(ANSWERED, answered=9))
    assert "9 answers to 10" in answer
    assert "takes 120 ms" in took
    assert "6.0 ms late" in lag
    assert misses(replace(SAMPLED, calls=[]), ANSWERED) == ["nothing was sampled"]


def test_the_report_has_the_listings_and_the_stretches_between() -> None:
    text = "\n".join(report(SAMPLED, ANSWERED))
    assert "| it takes | 100.00 ms | 100.00 ms | 100.00 ms |" in text
    assert "| the same without one | 1.00 ms | 1.00 ms | 1.00 ms |" in text
