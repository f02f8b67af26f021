"""Wakes the event loop at a moment finer than its own timers.

uvloop's timers count in whole milliseconds: a request due in 0.4 ms would leave at once or late.
Linux' timerfd has nanoseconds and costs no spinning. Python has it from 3.13 on; until then libc
is called. Where that fails, the loop's own timer does, a millisecond coarser.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class WakeUp:
    """One pending wake-up; arming again moves it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.Handle | None = None
        self._spec = _Itimerspec()
        self._fd = -1
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            self._settime = libc.timerfd_settime
            self._fd = libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        except (OSError, AttributeError):  # no libc to load, or one without timerfd
            pass
        if self._fd >= 0:
            self._spec_ref = ctypes.byref(self._spec)
            loop.add_reader(self._fd, self._expired)

    def arm(self, delay: float) -> None:
        """Calls back `delay` seconds from now instead of at any earlier armed moment."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if delay <= 0:
            self._handle = self._loop.call_soon(self._fire)
        elif self._fd < 0:
            self._handle = self._loop.call_later(delay, self._fire)
        else:
            whole = int(delay)
            value = self._spec.value
            value.sec = whole
            # All zero would disarm it.
            value.nsec = max(int((delay - whole) * 1e9), 1)
            self._settime(self._fd, 0, self._spec_ref, None)

    def close(self) -> None:
        """No further call back."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _fire(self) -> None:
        self._handle = None
        self._callback()

    def _expired(self) -> None:
        # Re-armed between expiry and this read: nothing to read, the new moment stands.
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
            self._callback()
