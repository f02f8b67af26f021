"""Two attempts at once, in every order in which they can end: one counts, the other is ended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lb.errors import BadAnswerError, RequestError, UpstreamResetError
from lb.hedge import hedged
from tests.proxy_harness import until


class Attempt:
    """As much of one as is needed: it ends as told, and counts its ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent = False
        self.cancelled = False
        self.ended = 0

    async def send(self) -> None:
        self.sent = True
        try:
            await self.outcome
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    def answers(self) -> None:
        self.outcome.set_result(None)

    def fails(self, error: Exception) -> None:
        self.outcome.set_exception(error)

    def end(self) -> None:
        self.ended += 1


def race(first: Attempt, second: Attempt | None, after_s: float = 0.0) -> asyncio.Task[Attempt]:
    run: Any = hedged
    return asyncio.ensure_future(run(first, lambda: second, Attempt.send, after_s))


async def both() -> tuple[Attempt, Attempt, asyncio.Task[Attempt]]:
    first, second = Attempt("first"), Attempt("second")
    task = race(first, second)
    await until(lambda: second.sent)
    return first, second, task


async def test_who_answers_in_time_is_alone() -> None:
    first, second = Attempt("first"), Attempt("second")
    task = race(first, second, after_s=60.0)
    await until(lambda: first.sent)
    first.answers()
    assert await task is first
    assert (first.ended, second.sent) == (0, False)


@pytest.mark.parametrize("winner", ["first", "second"])
async def test_the_first_answer_counts_and_the_other_one_is_cut(winner: str) -> None:
    pair = await both()
    task = pair[2]
    won, lost = (pair[0], pair[1]) if winner == "first" else (pair[1], pair[0])
    won.answers()
    assert await task is won
    assert (won.ended, won.cancelled) == (0, False)
    assert (lost.ended, lost.cancelled) == (1, True)


@pytest.mark.parametrize("failing", ["first", "second"])
async def test_where_one_fails_the_other_is_waited_for(failing: str) -> None:
    pair = await both()
    task = pair[2]
    failed, other = (pair[0], pair[1]) if failing == "first" else (pair[1], pair[0])
    failed.fails(UpstreamResetError("reset"))
    await asyncio.sleep(0.01)
    assert not task.done()
    other.answers()
    assert await task is other
    assert (failed.ended, other.ended) == (1, 0)


async def test_where_both_fail_it_is_the_last_ones_failure() -> None:
    first, second, task = await both()
    second.fails(UpstreamResetError("reset"))
    await asyncio.sleep(0.01)
    first.fails(BadAnswerError("garbage"))
    with pytest.raises(BadAnswerError):
        await task
    assert (first.ended, second.ended) == (1, 1)


async def test_where_both_fail_at_once_it_is_a_failure() -> None:
    first, second, task = await both()
    first.fails(BadAnswerError("garbage"))
    second.fails(UpstreamResetError("reset"))
    with pytest.raises(RequestError):
        await task
    assert (first.ended, second.ended) == (1, 1)


async def test_where_both_answer_at_once_one_counts() -> None:
    first, second, task = await both()
    first.answers()
    second.answers()
    won = await task
    lost = second if won is first else first
    assert (won.ended, lost.ended) == (0, 1)


async def test_without_a_second_the_first_is_waited_for() -> None:
    first = Attempt("first")
    task = race(first, None)
    await asyncio.sleep(0.02)
    first.answers()
    assert await task is first
    failing = Attempt("failing")
    task = race(failing, None)
    await asyncio.sleep(0.02)
    failing.fails(UpstreamResetError("reset"))
    with pytest.raises(UpstreamResetError):
        await task
    assert failing.ended == 1


async def test_cancelled_both_are_ended() -> None:
    first, second, task = await both()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (first.ended, first.cancelled) == (1, True)
    assert (second.ended, second.cancelled) == (1, True)
