"""The journal's SQLite file: its schema, its bounds, what to do when it is broken. Blocking.

Owns the file and one connection for writing; knows nothing of queues, threads or followers, which
are `journal`'s. Lets `sqlite3.Error` and `OSError` out: the journal turns them into lost history.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
PRUNE_EVERY: Final = 1000
"""Inserts between two prunings: the file may hold this many rows more than its bound."""

_COLUMNS: Final = "id, at, kind, service, subject, reason, message, data"
_CREATE: Final = """
CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    service TEXT NOT NULL,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    data TEXT NOT NULL
)"""
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

Scalar = float | int | str | bool | None


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


class _UnusableError(sqlite3.DatabaseError):
    """A database, but not one that this journal can go on with."""


class JournalFile:
    """The file, and the one connection that writes it. One thread at a time.

    `begun_anew` tells that an earlier file was moved aside, with ids that nobody knows any more.
    """

    def __init__(
        self, path: Path, wall_clock: Callable[[], float], *, max_rows: int, max_age_s: float
    ) -> None:
        self.path = path
        self.begun_anew = False
        self._wall_clock = wall_clock
        self._max_rows = max_rows
        self._max_age_s = max_age_s
        self._since_prune = PRUNE_EVERY
        self._db: sqlite3.Connection | None = None

    def open(self) -> sqlite3.Connection:
        """Open or begin the file, if that is still to do; a broken one is moved aside first."""
        if self._db is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._db = self._connect()
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise
                self._move_aside(error)
                self._db = self._connect()
        return self._db

    def newest_id(self) -> int:
        """0 for an empty file."""
        (newest,) = self.open().execute("SELECT max(id) FROM event").fetchone()
        return int(newest or 0)

    def append(self, events: Sequence[Event]) -> None:
        """In one transaction: once this returns, a kill -9 does not undo it.

        When it raises nothing was kept, and the next call opens the file again.
        """
        try:
            try:
                self._insert(events)
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise
                self.close()
                self._move_aside(error)
                self._insert(events)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _insert(self, events: Sequence[Event]) -> None:
        rows = [
            (e.id, e.at, e.kind, e.service, e.subject, e.reason, e.message, _dump(e.data))
            for e in events
        ]
        db = self.open()
        with db:
            db.executemany(_INSERT, rows)
            self._since_prune += len(rows)
            if self._since_prune >= min(PRUNE_EVERY, self._max_rows):
                self._since_prune = 0
                db.execute(_PRUNE_ROWS, (self._max_rows,))
                db.execute(_PRUNE_AGE, (self._wall_clock() - self._max_age_s,))

    def _connect(self) -> sqlite3.Connection:
        # Opened by the thread that starts the journal, used by the writer's, never by both.
        db = sqlite3.connect(self.path, timeout=2.0, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            # NORMAL: no fsync at each commit. A killed process loses nothing; a power cut, the
            # last moments.
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA journal_size_limit=4194304")
            _check(db)
            db.execute(_CREATE)
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except BaseException:
            db.close()
            raise
        return db

    def _move_aside(self, why: Exception) -> None:
        """Make room, and keep the broken file, one generation, for whoever wants to look."""
        aside = self.path.with_name(self.path.name + ".broken")
        self.path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.begun_anew = True
        log.warning("journal %s cannot be used (%s): moved to %s", self.path, why, aside.name)


def read_page(path: Path, since_id: int | None, limit: int, service: str | None) -> list[Event]:
    """Oldest first: the first `limit` after `since_id`, or without it the newest `limit`.

    On a connection of its own: WAL lets any number of readers proceed beside the writer.
    """
    order = " ORDER BY id DESC LIMIT ?" if since_id is None else " ORDER BY id LIMIT ?"
    values = (since_id or 0, service, service, limit)
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=2.0)) as db:
        rows = db.execute(_PAGE + order, values).fetchall()
    events = [_event(row) for row in rows]
    return events[::-1] if since_id is None else events


def _event(row: tuple[Any, ...]) -> Event:
    number, at, kind, service, subject, reason, message, data = row
    return Event(number, at, kind, service, subject, reason, message, json.loads(data))


def _check(db: sqlite3.Connection) -> None:
    """Raise _UnusableError for a file of another version, or one whose pages do not add up."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in (0, SCHEMA_VERSION):
        raise _UnusableError(f"another version of lbctl wrote it: schema {version}")
    # 60 ms for the 25 MB of a full journal, once a start.
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _UnusableError(str(verdict))


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    """Is the file itself no good, so that only a new one helps? A full disk is not that."""
    if isinstance(error, _UnusableError):
        return True
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _dump(data: dict[str, Scalar]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=str)
