"""What happened and why: recorded without waiting, kept in SQLite, handed out by page or live.

Owns the ids of the events, the queue and the one thread that writes `journal_file`; takes in what
the planner decided too, so that it outlives the process. Decides nothing, and never stands in
traffic's way: a full disk, a broken file or a full queue costs history, is counted, and is said
once in the log. It must not raise into the code that records.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

from autoscale.model import Happening, Reason
from lb.journal_file import MAX_BYTES, Event, JournalFile, Row, Scalar, read_page

__all__ = ["Event", "Following", "Journal"]

log = logging.getLogger(__name__)

MAX_ROWS: Final = 100_000
"""About 25 MB; at ten events a minute, a week."""
MAX_AGE_S: Final = 30 * 86400.0
MAX_BATCH: Final = 500
"""Events in one transaction, and on one page of a follower."""
QUEUE_SIZE: Final = 4096


class _Decided:
    """One to be kept. Rendered in the writer's thread: most of its cost."""

    def __init__(self, render: Callable[[], Row]) -> None:
        self.render = render


class _Flush:
    """Travels through the queue behind the events it waits for."""

    def __init__(self) -> None:
        self.done = threading.Event()


def _sayable(text: str) -> str:
    """Without halves of surrogate pairs, which a name that is not UTF-8 brings along: neither the
    file nor an answer could hold the event, nor any page that it stands on."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _plain(value: Scalar) -> Scalar:
    return _sayable(value) if isinstance(value, str) else value


class Journal:
    """Records happenings and hands them out again, by page or live.

    State, all under `_lock`: the next id, the recent events, the followers and the loss count.
    The file belongs to the thread that starts the journal, then to the writer's.
    """

    def __init__(
        self,
        path: Path,
        wall_clock: Callable[[], float] = time.time,
        *,
        max_rows: int = MAX_ROWS,
        max_age_s: float = MAX_AGE_S,
        max_bytes: int = MAX_BYTES,
        queue_size: int = QUEUE_SIZE,
    ) -> None:
        self._path = path
        self._wall_clock = wall_clock
        self._file = JournalFile(
            path, wall_clock, max_rows=max_rows, max_age_s=max_age_s, max_bytes=max_bytes
        )
        self._lock = threading.Lock()
        self._queue: queue.Queue[Event | _Decided | _Flush | None] = queue.Queue(queue_size)
        # The last events stay in memory too: readers see what the writer has not yet committed,
        # and the live feed goes on while the disk is full. Long enough for all that is queued
        # and in the writer's hands, so that a follower never skips one.
        self._recent: deque[Event] = deque(maxlen=queue_size + MAX_BATCH)
        self._followers: set[Following] = set()
        self._next_id = 1
        self._lost = 0
        self._full_said = False
        self._closed = False
        self._failing = False
        self._thread: threading.Thread | None = None
        self.decisions: list[Row] = []
        """What was decided before the start, in the order in which it changed."""

    @property
    def lost(self) -> int:
        """Events that are not in the file and never will be."""
        return self._lost

    @property
    def last_id(self) -> int:
        """Id of the newest event, 0 before the first."""
        return self._next_id - 1

    # ── recording ────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Open the file and start the writer. Never raises: without a file it records in memory."""
        unkept = self._queue.maxsize + MAX_BATCH
        last = self._file.beyond(0, unkept)
        try:
            last = self._file.begin(unkept)
            self.decisions = self._file.decisions()
        except (sqlite3.Error, OSError, ValueError) as error:
            self._file.close()
            self._lose(0, error)
        self._next_id = last + 1
        self._thread = threading.Thread(target=self._write_all, name="journal", daemon=True)
        self._thread.start()
        self._tell_of_a_new_file()

    def record(self, happening: Happening) -> None:
        """Take it down. Returns at once and never raises; may be called from any thread."""
        with self._lock:
            if self._closed:
                return
            event = Event(
                id=self._next_id,
                at=self._wall_clock(),
                kind=happening.kind,
                service=happening.service,
                subject=_sayable(happening.subject),
                reason=str(happening.reason),
                message=_sayable(happening.message),
                data={name: _plain(value) for name, value in happening.data.items()},
            )
            self._next_id += 1
            self._recent.append(event)
            followers = tuple(self._followers)
            # Inside the lock, so that the queue holds the events in the order of their ids.
            try:
                self._queue.put_nowait(event)
            except queue.Full:
                self._lost += 1
                say_full, self._full_said = not self._full_said, True
            else:
                say_full = False
        if say_full:
            log.warning("the journal's writer cannot keep up: events are lost (traffic goes on)")
        for follower in followers:
            follower.wake()

    def keep(self, render: Callable[[], Row]) -> None:
        """Take down what was decided: `render` makes the row, with its `id` and `revision`, in the
        writer's thread. Returns at once and never raises; one that finds no room is not kept."""
        with self._lock:
            if not self._closed:
                with contextlib.suppress(queue.Full):
                    self._queue.put_nowait(_Decided(render))

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was recorded is in the file, or lost. Blocks: not for the loop."""
        if self._thread is None or not self._thread.is_alive():
            return False
        marker = _Flush()
        try:
            self._queue.put(marker, timeout=timeout_s)
        except queue.Full:
            return False
        return marker.done.wait(timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """End the followers, write what is queued, close the file. Idempotent; blocks briefly."""
        with self._lock:
            self._closed = True
            followers = tuple(self._followers)
        for follower in followers:
            follower.close()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        thread.join(timeout_s)

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    async def events(
        self, since_id: int | None = None, limit: int = 100, service: str | None = None
    ) -> list[Event]:
        """Oldest first. With `since_id`: the first `limit` after it; without: the newest `limit`.

        An id newer than the newest means that the file was begun anew: everything is after it.
        Events that the file has lost are given as long as memory holds them.
        """
        if since_id is not None and since_id > self.last_id:
            since_id = 0
        after = since_id or 0
        found: dict[int, Event] = {}
        if since_id is None or not self._remembers(after):
            for event in await asyncio.to_thread(self._stored, since_id, limit, service):
                found[event.id] = event
        with self._lock:
            for event in reversed(self._recent):
                if event.id <= after:
                    break
                if service is None or service == event.service:
                    found.setdefault(event.id, event)
        ordered = [found[key] for key in sorted(found)]
        return ordered[-limit:] if since_id is None else ordered[:limit]

    def _remembers(self, since_id: int) -> bool:
        """Does memory hold everything after this id?"""
        with self._lock:
            return bool(self._recent) and self._recent[0].id <= since_id + 1

    def _stored(self, since_id: int | None, limit: int, service: str | None) -> list[Event]:
        """A page of the file; nothing where it cannot be read."""
        try:
            return read_page(self._path, since_id, limit, service)
        except (sqlite3.Error, OSError, ValueError) as error:
            log.debug("the journal %s cannot be read: %s", self._path, error)
            return []

    def subscribe(self, since_id: int | None = None, service: str | None = None) -> Following:
        """Follow from now on, or from after `since_id`. Use as a context manager, or close it."""
        if since_id is None:
            since_id = self.last_id
        elif since_id > self.last_id:
            since_id = 0  # the file was begun anew, as in `events`
        following = Following(self, since_id, service)
        with self._lock:
            closed = self._closed
            self._followers.add(following)
        if closed:
            following.close()
        return following

    def unsubscribe(self, following: Following) -> None:
        with self._lock:
            self._followers.discard(following)

    # ── the writer's thread ──────────────────────────────────────────────────────────────────

    def _write_all(self) -> None:
        stopping = False
        while not stopping:
            items = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(items) < MAX_BATCH:
                    items.append(self._queue.get_nowait())
            stopping = None in items
            batch = [item for item in items if isinstance(item, Event)]
            decided = [item.render() for item in items if isinstance(item, _Decided)]
            if batch or decided:
                self._write(batch, decided)
            for item in items:
                if isinstance(item, _Flush):
                    item.done.set()
        with contextlib.suppress(sqlite3.Error, OSError):
            self._file.end(self.last_id)
        self._file.close()

    def _write(self, batch: list[Event], decided: list[Row]) -> None:
        try:
            self._file.append(batch, decided)
        except (sqlite3.Error, OSError, ValueError) as error:
            self._lose(len(batch), error)
        else:
            self._wrote()

    # ── losses ───────────────────────────────────────────────────────────────────────────────

    def _lose(self, events: int, why: Exception) -> None:
        with self._lock:
            self._lost += events
        if not self._failing:
            self._failing = True
            log.warning("the journal %s loses events: %s (traffic goes on)", self._path, why)

    def _tell_of_a_new_file(self) -> None:
        """Whoever reads the history shall know that there was more."""
        why = self._file.begun_anew()
        if why:
            message = f"the journal begins anew, what was before cannot be read: {why}"
            self.record(Happening("journal.new", "", "journal", Reason.UNREADABLE, message))

    def _wrote(self) -> None:
        self._tell_of_a_new_file()
        if self._failing:
            self._failing = False
            log.warning("the journal is written again; lost so far: %d", self._lost)
        if self._full_said and self._queue.empty():
            with self._lock:
                self._full_said = False


class Following:
    """A cursor over the journal that waits for what comes next; made by `Journal.subscribe`.

    It keeps no queue of its own: a slow reader finds the events in the journal when it asks. All
    but `wake` and `close` belong to the loop that made it.
    """

    def __init__(self, journal: Journal, since_id: int, service: str | None) -> None:
        self._journal = journal
        self._seen = since_id
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._ready: deque[Event] = deque()
        self.closed = False

    async def batch(self, timeout_s: float | None = None) -> list[Event]:
        """The next events, at least one; none when the time is up or the following is closed.

        Safe to cancel: what was not returned comes again.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.closed:
                    self._woken.clear()
                    newest = self._journal.last_id
                    if newest > self._seen:
                        events = await self._journal.events(self._seen, MAX_BATCH, self._service)
                        # Without any, all up to `newest` were another service's.
                        self._seen = events[-1].id if events else newest
                        if events:
                            return events
                        continue
                    await self._woken.wait()
        return []

    def wake(self) -> None:
        """Something was recorded. From any thread."""
        with contextlib.suppress(RuntimeError):  # its loop has ended, and it with it
            self._loop.call_soon_threadsafe(self._woken.set)

    def close(self) -> None:
        """End it: whoever waits in `batch` gets an empty list. From any thread; idempotent."""
        self.closed = True
        self._journal.unsubscribe(self)
        self.wake()

    def __aiter__(self) -> Following:
        return self

    async def __anext__(self) -> Event:
        while not self._ready:
            if self.closed:
                raise StopAsyncIteration
            self._ready.extend(await self.batch())
        return self._ready.popleft()

    def __enter__(self) -> Following:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
