"""How long this process was ready to run and another had the core: the machine's share of a lag.

Linux counts it for every thread (`/proc/thread-self/schedstat`, the second number, nanoseconds);
where it does not, nothing is said.
"""

from __future__ import annotations

from pathlib import Path

_SCHEDSTAT = Path("/proc/thread-self/schedstat")


def core_wait_s(path: Path = _SCHEDSTAT) -> float | None:
    """Seconds since the calling thread began, None where the kernel does not count them."""
    try:
        return int(path.read_text("ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None
