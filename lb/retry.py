"""May a failed request be sent again, or a slow one to a second backend? Pure: what failed, how
often, what has moved. Whether there is room for one more is the budget's answer."""

from __future__ import annotations

from typing import Final

from lb.config_service import RetryConfig
from lb.errors import Repeat

# RFC 9110 §9.2.2. TRACE is left out: it is a diagnosis, and its answer names the one path it took.
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

# RFC 9110 §9.2.1, of those: what nobody minds having done twice at the same time.
_HEDGED: Final = frozenset({"GET", "HEAD"})


def may_retry(
    repeat: Repeat,
    method: str,
    attempt: int,
    *,
    replayable: bool,
    response_bytes: int,
    config: RetryConfig,
    stale_before: bool = False,
) -> bool:
    """Whether attempt number `attempt` (1 = the first), having failed, may be followed by one more.

    `repeat` is the error's, or `repeat_of_status` of an answer. `replayable`: everything of the
    request's body that was taken from the client is kept. `response_bytes` counts anything of a
    final answer that the client was sent. `stale_before`: this request already met a stale
    connection; the retry after the first one takes no attempt (see `costs`).
    """
    if response_bytes or not replayable:
        return False
    if not costs(repeat, stale_before=stale_before):
        return method in IDEMPOTENT
    if attempt >= config.attempts or repeat is Repeat.NEVER:
        return False
    return repeat is Repeat.ALWAYS or method in IDEMPOTENT


def costs(repeat: Repeat, *, stale_before: bool = False) -> bool:
    """Whether the retry counts as an attempt and draws on the budget.

    Not the first one after a stale connection: no backend failed, and where one restarts, all the
    connections kept to it are stale at once. Its retry needs a new connection, else it might meet
    the next stale one.
    """
    return repeat is not Repeat.STALE or stale_before


def repeat_of_status(status: int, config: RetryConfig) -> Repeat:
    """What `may_retry` is to be asked about a backend's answer."""
    return Repeat.IDEMPOTENT if status in config.on_status else Repeat.NEVER


def may_hedge(method: str, alone: bool) -> bool:
    """Whether a second backend may be asked while the first still works on it. `alone`: there is
    but one body, or one tunnel."""
    return method in _HEDGED and not alone
