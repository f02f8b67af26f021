"""W3C trace context: is a `traceparent` one, and a new one where there is none. Pure.

The balancer records no spans, so it is no member of a trace: a valid `traceparent` passes as it
came, with its `tracestate`, and the application's span hangs below the client's own. A request
without one gets one, so that every log behind the balancer has the same id for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Final

_BYTES: Final = 24
AT_ONCE: Final = 128
_ZEROS: Final = b"0" * 16

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


def traces(random: Callable[[int], bytes]) -> Callable[[], bytes]:
    """Makes a new `traceparent` for each request that has none: 24 random bytes, not secret.

    They say `sampled` (flags 01) although we record nothing: under 00 a tracer that follows its
    parent, as OpenTelemetry's do by default, records nothing either, and an application would lose
    its traces by being put behind a balancer. Made many at a time: asking the kernel for each
    request's own would take longer than the rest.
    """
    made = chain.from_iterable(map(make, repeat(random), repeat(AT_ONCE)))
    return partial(next, made)


def make(random: Callable[[int], bytes], number: int) -> list[bytes]:
    """So many of them. `random` gives so many random bytes."""
    digits = random(_BYTES * number).hex().encode()
    # where so many zeros in a row are nowhere, neither part is all zeros, which it may not be
    careful = _ZEROS in digits
    made = []
    for at in range(0, 2 * _BYTES * number, 2 * _BYTES):
        trace_id, parent_id = digits[at : at + 32], digits[at + 32 : at + 48]
        if careful:
            trace_id = trace_id if trace_id.strip(b"0") else b"%032x" % 1
            parent_id = parent_id if parent_id.strip(b"0") else b"%016x" % 1
        made.append(b"00-" + trace_id + b"-" + parent_id + b"-01")
    return made
