"""What a process and its children use: CPU time and memory, as Linux's /proc tells.

The readers of its texts are pure; a process that ends while it is read counts as nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
"""Of the kernel's user and system times: 100, so a window of three seconds is known to 0.3 %."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in RAM. `pss`: with what is shared divided among those who share it."""

    rss: int
    pss: int


def cpu_ticks(stat: str) -> int:
    """User and system time of /proc/PID/stat, every thread's, in clock ticks; with those of
    children that ended and were waited for."""
    fields = stat.rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15])


def memory_of(smaps_rollup: str) -> Memory:
    """Raises ValueError where it is no such text."""
    return Memory(_kib("Rss", smaps_rollup) * 1024, _kib("Pss", smaps_rollup) * 1024)


def peak_of(status: str) -> int:
    """The most that was ever in RAM (VmHWM of /proc/PID/status), in bytes."""
    return _kib("VmHWM", status) * 1024


def _kib(name: str, text: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"no {name} in {text[:80]!r}")
    return int(found[1])


def family(pid: int) -> Iterator[int]:
    """It, and every process that comes from it and still runs."""
    yield pid
    for task in _threads(pid):
        for child in _read(task / "children").split():
            yield from family(int(child))


def cpu_s(pid: int) -> float:
    """CPU seconds that it and its children have had so far."""
    return sum(map(_ticks, family(pid))) / TICKS_PER_S


def _ticks(pid: int) -> int:
    text = _read(Path(f"/proc/{pid}/stat"))
    return cpu_ticks(text) if text else 0


def core_wait_ns(schedstat: str) -> int:
    """Of /proc/PID/task/TID/schedstat: how long it was ready to run and others had its core."""
    fields = schedstat.split()
    return int(fields[1]) if len(fields) > 1 else 0


def core_wait_s(pid: int) -> float:
    """The same for all threads of it and its children, in seconds."""
    tasks = (task for one in family(pid) for task in _threads(one))
    return sum(core_wait_ns(_read(task / "schedstat")) for task in tasks) / 1e9


def memory(pid: int) -> Memory:
    """Of it and its children together."""
    each = [memory_of(text) for one in family(pid) if (text := _rollup(one))]
    return Memory(sum(one.rss for one in each), sum(one.pss for one in each))


def _rollup(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/smaps_rollup"))


def peak_bytes(pid: int) -> int:
    """The most that it and its children had in RAM, each at its own time."""
    texts = (_read(Path(f"/proc/{one}/status")) for one in family(pid))
    return sum(peak_of(text) for text in texts if "VmHWM" in text)


def forget_peak(pid: int) -> None:
    """From here on the peak is counted anew. Raises OSError where that is not allowed."""
    for one in family(pid):
        Path(f"/proc/{one}/clear_refs").write_text("5")


def _threads(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
