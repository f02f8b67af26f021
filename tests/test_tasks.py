"""Tasks: none lost, none failing unheard."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from lb.tasks import cancel, spawn


async def test_a_task_nobody_holds_runs_to_its_end() -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    spawn(work(), name="work")
    gc.collect()
    await asyncio.wait_for(done.wait(), 5)


async def test_what_a_task_swallows_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise RuntimeError("lost?")

    with caplog.at_level(logging.ERROR):
        task = spawn(fail(), name="unlucky")
        await asyncio.wait([task])
        await asyncio.sleep(0)
    assert "unlucky" in caplog.text
    assert "lost?" in caplog.text


async def test_cancel_waits_until_they_have_ended() -> None:
    ended = []

    async def tidy(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    tasks = [spawn(tidy("a"), name="a"), spawn(tidy("b"), name="b")]
    await asyncio.sleep(0)
    await cancel(*tasks, None)
    assert sorted(ended) == ["a", "b"]
