"""May a failed request be sent again? Pure: what failed, how often, how many bytes moved."""

from __future__ import annotations

from typing import Final

from lb.errors import Repeat

# RFC 9110 §9.2.2. TRACE is left out: it is a diagnosis, and its answer names the one path it took.
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

MAX_ATTEMPTS: Final = 3
"""The first and two more: with a third of the backends dead, 96 % of requests find a live one."""


def may_retry(
    repeat: Repeat,
    method: str,
    attempt: int,
    request_bytes: int,
    response_bytes: int,
    max_attempts: int = MAX_ATTEMPTS,
) -> bool:
    """Whether attempt number `attempt` (1 = the first), having failed, may be followed by one more.

    `request_bytes` counts body bytes taken from the client: they are not kept, so once one has
    moved the request cannot be sent again. `response_bytes` counts anything the client was sent.
    """
    if attempt >= max_attempts or request_bytes or response_bytes:
        return False
    if repeat is Repeat.ALWAYS:
        return True
    return repeat is Repeat.IDEMPOTENT and method in IDEMPOTENT
