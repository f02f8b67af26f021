"""W3C trace context: is a `traceparent` one, and a new one where there is none. Pure.

The balancer records no spans, so it is no member of a trace: a valid `traceparent` passes as it
came, with its `tracestate`, and the application's span hangs below the client's own. A request
without one gets one, so that every log behind the balancer has the same id for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

# Trace Context §3.2: trace-id and parent-id in lower-case hex, neither of them zeros, then flags.
_IDS: Final = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
# Version 00 ends there, a later one may go on after another dash, and ff is none.
_PARENT: Final = re.compile(
    rb"00" + _IDS + rb"|(?!00|ff)[0-9a-f]{2}" + _IDS + rb"(?:-[ -~]*)?"
).fullmatch


def valid(parents: Sequence[bytes]) -> bool:
    """Whether the values of a request's `traceparent` fields are one that is to be kept.

    Several are as good as none: nobody can say which of them is meant.
    """
    return len(parents) == 1 and _PARENT(parents[0]) is not None


def make(random: Callable[[int], bytes]) -> bytes:
    """A new `traceparent` of 24 random bytes, which need not be secret.

    It says `sampled` (flags 01) although we record nothing: under 00 a tracer that follows its
    parent, as OpenTelemetry's do by default, records nothing either, and an application would lose
    its traces by being put behind a balancer.
    """
    digits = random(24).hex()
    trace_id, parent_id = digits[:32], digits[32:]
    if not trace_id.strip("0"):
        trace_id = f"{1:032x}"
    if not parent_id.strip("0"):
        parent_id = f"{1:016x}"
    return f"00-{trace_id}-{parent_id}-01".encode("ascii")
