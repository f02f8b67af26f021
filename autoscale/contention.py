"""Whether a host's cores are all taken, from what its guests' vCPUs waited for one. Pure.

Owns the threshold and the mean; what of a guest's waiting is the host's doing and not its own
limit's, `signals` has worked out before.
"""

from __future__ import annotations

from collections.abc import Iterable

from autoscale.model import Signal

CONTENDED = 0.25
"""From here on, as a share of the time, vCPUs that could run wait for a host core so long that
another replica on that host would take from those there what it gets."""


def delay_of(signals: Iterable[Signal]) -> float | None:
    """Mean run-queue delay of these guests, as a share of the time; None where none is known."""
    delays = [signal.delay_ratio for signal in signals if signal.delay_ratio is not None]
    return sum(delays) / len(delays) if delays else None
