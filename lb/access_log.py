"""The access log: one line a request, written by a thread of its own, never waited for.

Owns the queue between the event loop and the file, and what is given up where the file does not
keep up: lines, counted and reported, never a request's time. What a line looks like is
`access_line`'s.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lb.access_line import Entry as Entry
from lb.access_line import Format, line_format
from lb.config import AccessLogConfig
from lb.errors import LbError
from lb.slate import Rng

log = logging.getLogger(__name__)

MOST_WAITING: Final = 8192
"""Lines: half a second at 16,000 requests a second."""
MOST_WAITING_BYTES: Final = 16 * 1024**2
"""Of their long texts. Heads of 64 KiB each would otherwise make that 512 MiB."""
GATHER_S: Final = 0.1
"""Lines are written in batches, so the loop wakes the thread ten times a second at most."""
SLICE: Final = 32
"""Lines between two writes. Formatting takes 2 µs a line, 9 µs in JSON, and holds the interpreter's
lock, which a write lets go of. At 8,700 lines of JSON a second, the loop was late by 1.6 ms (p99)
with 32 of them, by 5.4 ms with 1000: the interpreter takes the lock away after 5 ms only."""
SAY_EVERY_S: Final = 60.0
FULL_S: Final = 1.0
"""How long a full pipe is waited for before its lines are given up."""
CLOSE_S: Final = 2.0

_STDOUT: Final = 1


class AccessLogError(LbError):
    """The access log's file cannot be opened."""


@dataclass(frozen=True, slots=True)
class _Output:
    """Where lines go, and what they look like."""

    file: int
    format: Format


class AccessLog:
    """`write` what happened, `configure` on SIGHUP, `close` at the end. Only `close` waits.

    Raises AccessLogError where the file cannot be opened. `written` and `dropped` count lines.
    """

    def __init__(
        self, config: AccessLogConfig, rng: Rng, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rng = rng
        self._clock = clock
        # The loop's: it alone changes these.
        self._config = config
        self._output: _Output | None = None
        self.enabled = False
        """False where it is off: then an entry need not be made."""
        self._refused = 0
        self._put_bytes = 0
        # The thread's.
        self.written = 0
        self._failed = 0
        self._taken_bytes = 0
        self._torn = False
        """The file ends in half a line."""
        self._why = "the disk does not keep up"
        # Shared: deques and events, which need no lock; the lock is for reports of lost lines.
        self._waiting: deque[Entry] = deque()
        self._replaced: deque[_Output] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._reporting = threading.Lock()
        self._reported = 0
        self._silent_until = float("-inf")
        self._thread: threading.Thread | None = None
        self.configure(config)

    @property
    def dropped(self) -> int:
        """Lines lost since the start: the queue was full, or the file took none."""
        return self._refused + self._failed

    def configure(self, config: AccessLogConfig) -> None:
        """Take over a configuration, and open its file anew even if it is the same: the old one may
        have been rotated away. Raises AccessLogError, and then nothing has changed."""
        output = _open(config)
        old, self._output = self._output, output
        self.enabled = output is not None
        self._config = config
        if old is not None:
            self._replaced.append(old)
            self._wake.set()
        if output is not None and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
            self._thread.start()

    def write(self, entry: Entry) -> None:
        """Hand over a line. Never waits: dropped where too many are waiting."""
        if self._output is None:
            return
        sample = self._config.sample
        if sample < 1 and entry.status < 500 and self._rng.random() >= sample:
            return
        cost = entry.text_bytes
        if (
            len(self._waiting) >= MOST_WAITING
            or self._put_bytes - self._taken_bytes + cost > MOST_WAITING_BYTES
            or self._closing.is_set()
        ):
            self._refused += 1
            self._report()
            return
        self._put_bytes += cost
        self._waiting.append(entry)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what is waiting, for at most so long. Blocks: not for the event loop's thread."""
        self._closing.set()
        self._wake.set()
        if self._thread is None:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._refused += len(self._waiting)
            self._waiting.clear()
        self._silent_until = float("-inf")
        self._report()

    # ── the thread ───────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        closing = False
        while not closing:
            self._wake.wait()
            self._closing.wait(GATHER_S)
            # Cleared, and asked, before looking: what comes later sets it again.
            self._wake.clear()
            closing = self._closing.is_set()
            self._write_out()
            self._report()
        self._close_replaced()
        if self._output is not None:
            _close(self._output)

    def _write_out(self) -> None:
        while True:
            # Closed before the current one is read: it cannot be among them.
            self._close_replaced()
            output = self._output
            entries: list[Entry] = []
            # Empty at its end, or at any time where `close` gave up.
            with contextlib.suppress(IndexError):
                while len(entries) < SLICE:
                    entries.append(self._waiting.popleft())
            if not entries:
                return
            self._taken_bytes += sum(entry.text_bytes for entry in entries)
            if output is None:
                self._failed += len(entries)
                continue
            written = self._write_lines(output.file, [output.format(entry) for entry in entries])
            self.written += written
            self._failed += len(entries) - written

    def _write_lines(self, file: int, lines: list[bytes]) -> int:
        """How many went out whole. Half a line is ended before the next one, and not counted."""
        mend = b"\n" if self._torn else b""
        data = memoryview(mend + b"".join(lines))
        done = 0
        try:
            while done < len(data):
                done += _put(file, data[done:])
        except OSError as error:
            self._why = (error.strerror or str(error)).lower()
        if not done:
            return 0
        sent = bytes(data[:done])
        self._torn = not sent.endswith(b"\n")
        return sent.count(b"\n") - len(mend)

    def _close_replaced(self) -> None:
        while self._replaced:
            _close(self._replaced.popleft())

    # ── saying so ────────────────────────────────────────────────────────────────────────────

    def _report(self) -> None:
        """Tell of lost lines, once a minute."""
        if self.dropped == self._reported:
            return
        with self._reporting:
            now, lost = self._clock(), self.dropped
            if now < self._silent_until or lost == self._reported:
                return
            self._silent_until = now + SAY_EVERY_S
            new, self._reported = lost - self._reported, lost
        log.warning("access log, lines lost: %d, since the start %d: %s", new, lost, self._why)


def _open(config: AccessLogConfig) -> _Output | None:
    if config.format == "off":
        return None
    file = _STDOUT
    if config.path != "-":
        # Not blocking: a named pipe that nobody reads is an error now, not a wait for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            file = os.open(config.path, flags, 0o640)
        except OSError as error:
            raise AccessLogError(
                f"cannot open the access log {config.path}: {(error.strerror or '').lower()};"
                " set proxy.access_log.path"
            ) from error
    return _Output(file, line_format(config.format))


def _close(output: _Output) -> None:
    if output.file != _STDOUT:
        # An error of an earlier write may come back here; its lines are gone either way.
        with contextlib.suppress(OSError):
            os.close(output.file)


def _put(file: int, data: memoryview) -> int:
    """Bytes written. Raises OSError."""
    try:
        return os.write(file, data)
    except BlockingIOError:
        ready = select.poll()
        ready.register(file, select.POLLOUT)
        if not ready.poll(FULL_S * 1000):
            raise
        return os.write(file, data)
