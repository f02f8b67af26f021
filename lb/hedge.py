"""Two backends asked the same: the first answer counts, the other one is cut.

For requests that nobody minds being done twice; which those are, `retry` says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from lb.attempt import Attempt
from lb.errors import RequestError
from lb.tasks import cancel, spawn


async def hedged(
    first: Attempt,
    second: Callable[[], Attempt | None],
    send: Callable[[Attempt], Awaitable[None]],
    after_s: float,
) -> Attempt:
    """Send the first; where it has no answer after `after_s`, the second too, if there is one.

    Returns the attempt that was answered first; the other has been ended. Raises the error of the
    last to fail where none was answered.
    """
    tasks = {spawn(_sent(send, first), name="request"): first}
    try:
        pending = set(tasks)
        done, pending = await asyncio.wait(pending, timeout=after_s)
        if pending and (other := second()) is not None:
            hedge = spawn(_sent(send, other), name="hedge")
            tasks[hedge] = other
            pending.add(hedge)
        while True:
            failure: RequestError | None = None
            for task in done:
                failure = task.result()
                if failure is None:
                    return tasks.pop(task)
            if failure is not None and not pending:
                raise failure
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(*tasks)
        for loser in tasks.values():
            loser.end()


async def _sent(
    send: Callable[[Attempt], Awaitable[None]], attempt: Attempt
) -> RequestError | None:
    try:
        await send(attempt)
    except RequestError as error:
        return error
    return None
