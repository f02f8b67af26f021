"""Does a figure grow? A line through its samples, and what it says of the time they span."""

from __future__ import annotations

from collections.abc import Sequence

Sample = tuple[float, float]
"""When, in seconds, and how much."""


def slope(samples: Sequence[Sample]) -> float:
    """Growth per second of the least-squares line; 0 for fewer than two moments."""
    if not samples:
        return 0.0
    mean_t = sum(t for t, _ in samples) / len(samples)
    mean_y = sum(y for _, y in samples) / len(samples)
    spread = sum((t - mean_t) ** 2 for t, _ in samples)
    if not spread:
        return 0.0
    return sum((t - mean_t) * (y - mean_y) for t, y in samples) / spread


def after(samples: Sequence[Sample], warm_s: float) -> Sequence[Sample]:
    """The samples from `warm_s` on."""
    return [sample for sample in samples if sample[0] >= warm_s]
