"""The journal's SQLite file: events, decisions, the last id told; schema and bounds. Blocking.

Knows nothing of queues, threads or followers, which are `journal`'s. Lets `sqlite3.Error` and
`OSError` out: the journal turns them into lost history.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from lb.sqlite_file import SqliteFile, read_only, used_bytes

SCHEMA_VERSION: Final = 1
PRUNE_EVERY: Final = 1000
"""Inserts between two prunings: the file may hold this many rows more than its bound."""
PRUNE_EVERY_BYTES: Final = 1_000_000
"""The same in bytes of text."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of its pages. The file itself may be larger by what came between two prunings."""
MAX_DECISIONS: Final = 1000
"""As many as are shown. One with its parts and guards takes about 2 KB."""

_COLUMNS: Final = "id, at, kind, service, subject, reason, message, data"
_CREATE: Final = (
    """
CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    service TEXT NOT NULL,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    data TEXT NOT NULL
)""",
    """
CREATE TABLE IF NOT EXISTS decision (
    id INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    data TEXT NOT NULL
)""",
    # The last id that was told, whether its event was kept or not. While a process tells more, and
    # for ever where it was killed, NULL stands beside it.
    "CREATE TABLE IF NOT EXISTS ending (last_id INTEGER)",
)
_RUNS: Final = (
    "INSERT INTO ending SELECT NULL WHERE NOT EXISTS (SELECT 1 FROM ending WHERE last_id IS NULL)"
)
# The column list is a constant of this file; every value is bound.
_INSERT: Final = f"INSERT INTO event ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)"  # noqa: S608
_SELECT: Final = f"SELECT {_COLUMNS} FROM event"  # noqa: S608
_PAGE: Final = f"{_SELECT} WHERE id > ? AND (? IS NULL OR service = ?)"
# `at` has no index: ids and times grow together, so the aged rows are a prefix.
_PRUNE_ROWS: Final = (
    "DELETE FROM event WHERE id <= (SELECT id FROM event ORDER BY id DESC LIMIT 1 OFFSET ?)"
)
_PRUNE_AGE: Final = (
    "DELETE FROM event WHERE id < (SELECT id FROM event WHERE at >= ? ORDER BY id LIMIT 1)"
)
_PRUNE_TENTH: Final = (
    "DELETE FROM event WHERE id <= (SELECT id FROM event ORDER BY id LIMIT 1"
    " OFFSET (SELECT count(*) / 10 FROM event))"
)
_PRUNE_DECISIONS: Final = (
    "DELETE FROM decision WHERE revision <="
    " (SELECT revision FROM decision ORDER BY revision DESC LIMIT 1 OFFSET ?)"
)

Scalar = float | int | str | bool | None
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the journal as it is kept: `at` is Unix seconds, `id` only ever grows."""

    id: int
    at: float
    kind: str
    service: str
    subject: str
    reason: str
    message: str
    data: dict[str, Scalar] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class JournalFile:
    """Bounded by rows, age and bytes. One thread at a time."""

    def __init__(
        self,
        path: Path,
        wall_clock: Callable[[], float],
        *,
        max_rows: int,
        max_age_s: float,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._file = SqliteFile(path, "journal", SCHEMA_VERSION, _CREATE)
        self._wall_clock = wall_clock
        self._max_rows = max_rows
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._rows_since_prune = PRUNE_EVERY
        self._bytes_since_prune = 0

    def begin(self, unkept: int) -> int:
        """The last id that may have been told; from now on they are this process's to tell. It had
        told up to `unkept` more than it kept where it was killed."""
        db = self._file.open()
        # The one commit that must outlive a power cut: a process that nobody saw begin could not
        # be told from one that ended well.
        db.execute("PRAGMA synchronous=FULL")
        with db:
            (newest,) = db.execute("SELECT max(id) FROM event").fetchone()
            found = db.execute("SELECT last_id FROM ending").fetchall()
            last = max([newest or 0, *(told for (told,) in found if told is not None)])
            if self._file.begun_anew or (None,) in found:
                last = self.beyond(last, unkept)
            # the next process begins after this one, also where this one keeps nothing
            db.execute("DELETE FROM ending")
            db.executemany("INSERT INTO ending VALUES (?)", [(last,), (None,)])
        db.execute("PRAGMA synchronous=NORMAL")
        return int(last)

    def beyond(self, known: int, unkept: int) -> int:
        """An id that nobody was told, where `known` was: the file is lost, or whoever wrote it was
        killed between telling and keeping. Milliseconds since 1970 are beyond them all, but for a
        thousand events a second. So ids still only grow, and a follower that resumes misses
        nothing."""
        return max(known + unkept, int(self._wall_clock() * 1000))

    def end(self, last_id: int) -> None:
        """The last id that was told, for the next `begin`."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM ending")
            db.execute("INSERT INTO ending VALUES (?)", (last_id,))

        self._file.write(work)

    def begun_anew(self) -> str:
        """Why the file before this one was moved aside, if one was; told once."""
        told, self._file.begun_anew = self._file.begun_anew, ""
        return told

    def append(self, events: Sequence[Event], decisions: Sequence[Row] = ()) -> None:
        """In one transaction: once this returns, a kill -9 does not undo it.

        A decision takes the place of the one with its `id`. When it raises nothing was kept, and
        the next call opens the file again.
        """
        rows: list[tuple[Any, ...]] = [
            (e.id, e.at, e.kind, e.service, e.subject, e.reason, e.message, _dump(e.data))
            for e in events
        ]
        kept = [(row["id"], row["revision"], _dump(row)) for row in decisions]
        self._rows_since_prune += len(rows) + len(kept)
        self._bytes_since_prune += sum(sum(map(len, row[2:])) for row in rows)
        self._bytes_since_prune += sum(len(text) for _, _, text in kept)
        due = (
            self._rows_since_prune >= min(PRUNE_EVERY, self._max_rows)
            or self._bytes_since_prune >= min(PRUNE_EVERY_BYTES, self._max_bytes)
        )  # fmt: skip

        def work(db: sqlite3.Connection) -> None:
            # the file may be another one than at the start, or was not to be had
            db.execute(_RUNS)
            db.executemany(_INSERT, rows)
            db.executemany("INSERT OR REPLACE INTO decision VALUES (?,?,?)", kept)
            if due:
                self._prune(db)

        self._file.write(work)
        if due:
            self._rows_since_prune = self._bytes_since_prune = 0

    def decisions(self) -> list[Row]:
        """Those kept, in the order in which they changed."""
        found = self._file.open().execute("SELECT data FROM decision ORDER BY revision")
        return [json.loads(data) for (data,) in found]

    def close(self) -> None:
        self._file.close()

    def _prune(self, db: sqlite3.Connection) -> None:
        db.execute(_PRUNE_ROWS, (self._max_rows,))
        db.execute(_PRUNE_AGE, (self._wall_clock() - self._max_age_s,))
        db.execute(_PRUNE_DECISIONS, (MAX_DECISIONS,))
        while used_bytes(db) > self._max_bytes and db.execute(_PRUNE_TENTH).rowcount > 0:
            pass


def read_page(path: Path, since_id: int | None, limit: int, service: str | None) -> list[Event]:
    """Oldest first: the first `limit` after `since_id`, or without it the newest `limit`."""
    order = " ORDER BY id DESC LIMIT ?" if since_id is None else " ORDER BY id LIMIT ?"
    values = (since_id or 0, service, service, limit)
    with contextlib.closing(read_only(path)) as db:
        rows = db.execute(_PAGE + order, values).fetchall()
    events = [_event(row) for row in rows]
    return events[::-1] if since_id is None else events


def _event(row: tuple[Any, ...]) -> Event:
    number, at, kind, service, subject, reason, message, data = row
    return Event(number, at, kind, service, subject, reason, message, json.loads(data))


def _dump(data: Row) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=str)
