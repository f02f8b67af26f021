"""The demo's configuration: one service whose figures suit a story of some minutes on two cores."""

from __future__ import annotations

from lb.config import Config, parse_config

SERVICE = "web"
LIMIT_CORES = 0.4
"""On two cores: two replicas at 0.4 each leave 1.2 for proxy, load tester and a booting VM."""
TARGET_CPU = 0.85
SHRINK_MARGIN = 0.95
"""A request costs more CPU when few come, and each emulated replica pays for its own timers: at
half of what one can serve, a pair was seen at 0.35 each. Their 0.70 must lie below 0.95 × 0.85."""
PANIC_WINDOW_S = 4.0
"""Shorter than the windows of a story that is over in three minutes."""
MAX_IN_FLIGHT = 8
"""Enough to keep one virtual CPU busy; the rest of the overload waits in the proxy."""


def demo_config(
    listen: str, admin: str, ceiling: int, window_s: float, *, quick: bool = False
) -> Config:
    """Up to `ceiling` replicas, which boot; where `quick`, a standby is kept and copies are
    allowed. `window_s`: how long fewer must have been enough before one leaves."""
    return parse_config(
        {
            "proxy": {
                "listen": [listen],
                "timeouts": {"first_byte": 170.0},
                "shutdown_grace": 5.0,
            },
            "admin": {"listen": admin},
            "service": {
                SERVICE: {
                    "max_in_flight": MAX_IN_FLIGHT,
                    "queue": {"length": 20_000, "max_wait": 170.0},
                    "vm": {"cpu_limit": LIMIT_CORES, "snapshot": "auto" if quick else "off"},
                    "scale": {
                        "min": 1,
                        "max": ceiling,
                        "target_cpu": TARGET_CPU,
                        "shrink_margin": SHRINK_MARGIN,
                        "shrink_window": window_s,
                        # or the second lull, which the story ends on purpose, would teach it to
                        # wait for 66 s in the last one
                        "shrink_window_max": window_s,
                        "stable_window": window_s,
                        "panic_window": PANIC_WINDOW_S,
                        "forecast": "off",
                        "standby": 1 if quick else 0,
                    },
                }
            },
        }
    )
