"""How figures read wherever people see them: in lbctl's listings and on the page at `/`. Pure."""

from __future__ import annotations


def milliseconds(seconds: float) -> str:
    """0.0123 → 12.3 ms, 2.0 → 2000 ms: a tenth matters only below 100 ms."""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def percent(ratio: float) -> str:
    """1.25 → 125%."""
    return f"{ratio:.0%}"
