"""Figures over time in SQLite: each second for an hour, each minute for a month. Blocking.

Owns the tables, the folding of seconds into minutes and the bounds; knows nothing of tasks, and not
what a figure means. Lets `sqlite3.Error` and `OSError` out.

A row holds all figures of one subject at one time, as a JSON object, and rows lie in the order of
their time: so a second costs one or two pages however many figures there are, and what has aged is
a prefix. A figure by itself is picked out by SQLite while it reads, outside Python's lock.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lb.sqlite_file import SqliteFile, read_only, used_bytes

SCHEMA_VERSION: Final = 1
SECONDS_S: Final = 3600
"""How long each second is kept."""
MINUTES_S: Final = 30 * 86400
"""How long each minute is kept."""
MAX_BYTES: Final = 256 * 1024 * 1024
"""Of its pages. A month of a service with four VMs takes about 60 MB."""
MINUTE: Final = 60

_COLUMNS: Final = """(
    at INTEGER NOT NULL,
    service TEXT NOT NULL,
    subject TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (at, service, subject)
) WITHOUT ROWID"""
_CREATE: Final = tuple(
    f"CREATE TABLE IF NOT EXISTS {table} {_COLUMNS}" for table in ("second", "minute")
)
_FIND: Final = """
SELECT figure.key, row.at / :step * :step AS slot,
    avg({mean}), min({low}), max({high})
FROM {table} AS row, json_each(row.data) AS figure
WHERE row.at >= :start AND row.at < :end AND row.service = :service AND row.subject = :subject
    AND (:names IS NULL OR figure.key IN (SELECT value FROM json_each(:names)))
GROUP BY figure.key, slot ORDER BY figure.key, slot"""
# Everything that is filled in is a constant of this file; every value is bound.
_FIND_SECONDS: Final = _FIND.format(
    table="second", mean="figure.value", low="figure.value", high="figure.value"
)
_FIND_MINUTES: Final = _FIND.format(
    table="minute",
    mean="json_extract(figure.value, '$[0]')",
    low="json_extract(figure.value, '$[1]')",
    high="json_extract(figure.value, '$[2]')",
)
_PRUNE_TENTH: Final = (
    "DELETE FROM minute WHERE at <= (SELECT at FROM minute ORDER BY at LIMIT 1"
    " OFFSET (SELECT count(*) / 10 FROM minute))"
)

Figures = Mapping[str, float]
Point = tuple[int, float, float, float]
"""When it begins (Unix seconds), mean, least and greatest."""


@dataclass(frozen=True, slots=True)
class Row:
    """All figures of one subject at one time. Those that nobody measured are left out."""

    service: str
    subject: str
    """A VM's name; empty for the service itself."""
    figures: Figures


class SeriesFile:
    """One thread at a time."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._file = SqliteFile(path, "series", SCHEMA_VERSION, _CREATE)
        self._max_bytes = max_bytes
        self._folded_to = 0

    def append(self, at: int, rows: Iterable[Row]) -> None:
        """What was so at `at`, Unix seconds, in one transaction; once a minute also folds and
        prunes. A second that was told before is told anew. When it raises nothing was kept."""
        told = [(at, row.service, row.subject, _dump(row.figures)) for row in rows]
        minute = at // MINUTE * MINUTE
        due = minute != self._folded_to  # the clock may go back too

        def work(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR REPLACE INTO second VALUES (?,?,?,?)", told)
            if due:
                _fold(db, minute)
                self._prune(db, at)

        self._file.write(work)
        self._folded_to = minute

    def close(self) -> None:
        self._file.close()

    def _prune(self, db: sqlite3.Connection, now: int) -> None:
        for table, kept_s in (("second", SECONDS_S), ("minute", MINUTES_S)):
            db.execute(f"DELETE FROM {table} WHERE at < ?", (now - kept_s,))  # noqa: S608
            # what a clock that was wrong left in the future would never age
            db.execute(f"DELETE FROM {table} WHERE at > ?", (now,))  # noqa: S608
        while used_bytes(db) > self._max_bytes and db.execute(_PRUNE_TENTH).rowcount > 0:
            pass


def read_series(
    path: Path,
    service: str,
    subject: str,
    names: Sequence[str] | None,
    start: int,
    end: int,
    step: int,
) -> dict[str, list[Point]]:
    """By name, the figures from `start` to before `end`, folded to `step` seconds; of all names
    where `names` is None. Below a minute's step they come from the seconds, else from the minutes,
    each of which counts as much as another. A step without a figure is left out."""
    values = {
        "service": service,
        "subject": subject,
        "names": None if names is None else json.dumps(list(names)),
        "start": start,
        "end": end,
        "step": step,
    }
    found: dict[str, list[Point]] = {}
    with contextlib.closing(read_only(path)) as db:
        query = _FIND_SECONDS if step < MINUTE else _FIND_MINUTES
        for name, at, mean, low, high in db.execute(query, values):
            found.setdefault(name, []).append((at, mean, low, high))
    return found


def read_subjects(path: Path, service: str, start: int, end: int) -> list[str]:
    """The VMs of a service of which something is known from `start` to before `end`."""
    each = (
        "SELECT subject FROM {} WHERE at >= :start AND at < :end AND service = :service"
        " AND subject != ''"
    )
    query = f"{each.format('second')} UNION {each.format('minute')} ORDER BY subject"
    values = {"service": service, "start": start, "end": end}
    with contextlib.closing(read_only(path)) as db:
        return [name for (name,) in db.execute(query, values)]


def _fold(db: sqlite3.Connection, before: int) -> None:
    """Make a minute of each whole one whose seconds are there, and that is none yet."""
    (last,) = db.execute("SELECT max(at) FROM minute WHERE at < ?", (before,)).fetchone()
    first = before - SECONDS_S if last is None else max(last + MINUTE, before - SECONDS_S)
    found = db.execute(
        "SELECT at, service, subject, data FROM second WHERE at >= ? AND at < ?", (first, before)
    )
    minutes: dict[tuple[int, str, str], dict[str, list[float]]] = {}
    for at, service, subject, data in found:
        figures = minutes.setdefault((at // MINUTE * MINUTE, service, subject), {})
        for name, value in json.loads(data).items():
            figures.setdefault(name, []).append(value)
    db.executemany(
        "INSERT OR REPLACE INTO minute VALUES (?,?,?,?)",
        [(*key, _folded(figures)) for key, figures in minutes.items()],
    )


def _folded(figures: Mapping[str, Sequence[float]]) -> str:
    shown = {
        name: [_short(sum(values) / len(values)), min(values), max(values)]
        for name, values in figures.items()
    }
    return json.dumps(shown, separators=(",", ":"))


def _dump(figures: Figures) -> str:
    shown = {name: _short(value) for name, value in figures.items() if math.isfinite(value)}
    return json.dumps(shown, separators=(",", ":"))


def _short(value: float) -> float:
    """Five digits are more than any of them is good for, and half the bytes."""
    short = float(f"{value:.5g}")
    return int(short) if short.is_integer() else short
