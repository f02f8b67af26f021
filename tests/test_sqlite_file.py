"""A file of SQLite: looked at whole when it should be, and not more often."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lb.sqlite_file import SqliteFile


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each statement that looked at a whole file."""
    told: list[str] = []

    def take(statement: str) -> None:
        if "quick_check" in statement:
            told.append(statement)

    real: Callable[..., sqlite3.Connection] = sqlite3.connect

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        db = real(*args, **options)
        db.set_trace_callback(take)
        return db

    monkeypatch.setattr(sqlite3, "connect", connect)
    return told


def put(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO t VALUES (1)")


def no_room(_db: sqlite3.Connection) -> None:
    raise sqlite3.OperationalError("database or disk is full")


def broken(_db: sqlite3.Connection) -> None:
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    raise error


def make(path: Path) -> SqliteFile:
    return SqliteFile(path, "journal", 1, ["CREATE TABLE IF NOT EXISTS t (n INTEGER)"])


def test_a_full_disk_has_the_whole_file_looked_at_once_and_not_at_each_try(
    tmp_path: Path, checks: list[str]
) -> None:
    file = make(tmp_path / "journal.db")
    file.write(put)
    for _ in range(5):
        with pytest.raises(sqlite3.OperationalError):
            file.write(no_room)
    file.write(put)
    file.close()
    assert len(checks) == 1
    make(tmp_path / "journal.db").open().close()
    assert len(checks) == 2, "another process looks again"


def test_a_new_file_in_the_place_of_a_broken_one_is_looked_at(
    tmp_path: Path, checks: list[str]
) -> None:
    file = make(tmp_path / "journal.db")
    file.write(put)
    with pytest.raises(sqlite3.DatabaseError):
        file.write(broken)
    file.close()
    assert len(checks) == 2
    assert (tmp_path / "journal.db.broken").exists()
