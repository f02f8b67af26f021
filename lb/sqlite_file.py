"""One SQLite file for history: opened, checked, begun anew where it is broken. Blocking.

Owns the connection that writes, the pragmas and the moving aside; what the tables mean is its
user's. Lets `sqlite3.Error` and `OSError` out: whoever records turns them into lost history.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

WAL_BYTES: Final = 4 * 1024 * 1024
"""What is left of the write-ahead log after it was written back."""


class UnusableError(sqlite3.DatabaseError):
    """A database, but not one that its user can go on with."""


class SqliteFile:
    """The file, and the one connection that writes it. One thread at a time.

    `what` names it in the log, such as "journal"; `create` are statements that make its tables
    where they are missing. `begun_anew` says why an earlier file was moved aside, if one was.
    """

    def __init__(self, path: Path, what: str, version: int, create: Sequence[str]) -> None:
        self.path = path
        self.begun_anew = ""
        self._what = what
        self._version = version
        self._create = tuple(create)
        self._db: sqlite3.Connection | None = None
        self._checked = False

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

    def write(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do `work` in one transaction: once this returns, a kill -9 does not undo it.

        When it raises nothing was kept, and the next call opens the file again. A file found
        broken is moved aside, and the work done once more on a new one.
        """
        try:
            try:
                self._transact(work)
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise
                self.close()
                self._move_aside(error)
                self._transact(work)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _transact(self, work: Callable[[sqlite3.Connection], None]) -> None:
        db = self.open()
        with db:
            work(db)

    def _connect(self) -> sqlite3.Connection:
        # Opened by the thread that starts its user, used by the writer's, never by both.
        db = sqlite3.connect(self.path, timeout=2.0, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            # NORMAL: no fsync at each commit. A killed process loses nothing; a power cut, the
            # last moments.
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
            self._check(db)
            for statement in self._create:
                db.execute(statement)
            db.execute(f"PRAGMA user_version={self._version}")
        except BaseException:
            db.close()
            raise
        return db

    def _check(self, db: sqlite3.Connection) -> None:
        """Raise UnusableError for a file of another version, or one whose pages do not add up."""
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, self._version):
            raise UnusableError(f"another version of lbctl wrote it: schema {version}")
        if self._checked:
            return
        # 60 ms for the 25 MB of a full journal: once a start, not at each try on a full disk
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise UnusableError(str(verdict))
        self._checked = True

    def _move_aside(self, why: Exception) -> None:
        """Make room, and keep the broken file, one generation, for whoever wants to look."""
        self._checked = False
        aside = self.path.with_name(self.path.name + ".broken")
        self.path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.begun_anew = f"{why}: moved to {aside.name}"
        log.warning(
            "%s %s cannot be used (%s): moved to %s", self._what, self.path, why, aside.name
        )


def used_bytes(db: sqlite3.Connection) -> int:
    """What its pages hold; those that a deletion left empty are used before the file grows."""
    size, pages, free = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_size", "page_count", "freelist_count")
    )
    return int(size * (pages - free))


def read_only(path: Path) -> sqlite3.Connection:
    """A connection of a reader's own: WAL lets any number of them proceed beside the writer."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    """Is the file itself no good, so that only a new one helps? A full disk is not that."""
    if isinstance(error, UnusableError):
        return True
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
