"""The values that go into the pool and come out of it: what a probe saw, what flipped."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from autoscale.model import Reason


class Aspect(StrEnum):
    """What of a backend changed."""

    LIFECYCLE = "lifecycle"
    HEALTH = "health"
    EJECTION = "ejection"


@dataclass(frozen=True, slots=True)
class Change:
    """One flip, told to subscribers once it is done.

    `before` and `after` are lifecycle words, `healthy`/`unhealthy`, or `ejected` and, before that,
    `serving`, after it, `reinstated`; `before` is empty for one that just joined. The reason of a
    flip of health or ejection is the word after it; a backend that turns ready carries the reason
    it joined for.
    """

    service: str
    backend: str
    aspect: Aspect
    before: str
    after: str
    reason: Reason
    message: str
    """One sentence for the journal."""
    at: float
    address: str = ""
    vm: str | None = None
    dead: bool = False
    """It answers nobody any more: what runs on it will not end well. Never told of a drain, nor of
    one that says itself that it is not ready."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a probe saw. `address` guards against a late answer about a predecessor's machine."""

    backend: str
    address: str
    ok: bool
    detail: str = ""
    asked_at: float = 0.0
    timed_out: bool = False
    """No answer in time, which a busy application and a dead one have in common."""
    certain: bool = False
    """A no that leaves nothing to wait for: a closed door, or its own word. See `probe.CERTAIN`."""
    silent: bool = False
    """No answer of an application at all."""
