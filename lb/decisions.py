"""The planner's decisions, counted and kept: by service the newest, by process the last thousand.

Owns the folding: the planner decides every second, mostly the same, and an operator wants to see
what changed; and when an entry is due to be kept for the next process. Nothing is rendered here.
No clock: every call says what time it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from autoscale.decision import Decision
from autoscale.model import Direction

MOST: Final = 1000
"""Entries kept. A decision with its parts and guards takes about 2 KB."""
KEEP_EVERY_S: Final = 10.0
"""An entry that goes on is kept again after so long: what a kill -9 takes from its count."""

Row = dict[str, Any]
_FIGURES: Final = ("id", "revision", "first_at", "last_at", "count")


@dataclass(frozen=True, slots=True)
class Remembered:
    """A decision of an earlier process, of which only what was shown is known."""

    shown: Mapping[str, Any]

    @property
    def service(self) -> str:
        return str(self.shown["service"])

    @property
    def desired(self) -> int:
        return int(self.shown["desired"])

    @property
    def direction(self) -> Direction:
        return Direction(self.shown["direction"])

    @property
    def sentence(self) -> str:
        return str(self.shown["sentence"])

    def as_dict(self) -> Row:
        return dict(self.shown)


@dataclass(frozen=True, slots=True)
class Entry:
    """Decisions of one service that followed each other and say the same with other numbers."""

    id: int
    revision: int
    """When it last changed: the id that a new entry would have had. Equal to `id` while it stands
    for one decision."""
    first_at: float
    """Unix seconds of the first decision."""
    last_at: float
    count: int
    decision: Decision | Remembered
    """The newest of them."""

    def as_dict(self) -> Row:
        """For JSON: the entry's own figures, and everything of its newest decision."""
        return {
            "id": self.id,
            "revision": self.revision,
            "first_at": self.first_at,
            "last_at": self.last_at,
            "count": self.count,
            **self.decision.as_dict(),
        }


class Decisions:
    """The last ones of every service, those that changed last at the end.

    An id is the Unix time in milliseconds at which something was decided, or one more than the one
    before it. So ids grow over a restart too, and whoever asks `since` the last revision he saw
    gets all that is new, and what was folded into an entry again, with its old `id`.

    `keep` is called with what renders an entry's row, once it begins, ends, and now and then while
    it goes on; the rows of an earlier process come back by `remember`.
    """

    def __init__(
        self, most: int = MOST, keep: Callable[[Callable[[], Row]], None] = lambda _render: None
    ) -> None:
        self._most = most
        self._keep = keep
        self._kept_at: dict[str, float] = {}
        self._entries: dict[int, Entry] = {}
        self._current: dict[str, int] = {}
        self.last_id = 0
        """The newest revision of all."""

    def __len__(self) -> int:
        return len(self._entries)

    def remember(self, rows: Iterable[Row]) -> None:
        """What an earlier process decided, in the order in which it changed; before the first
        `add`. Nothing is folded into it. A row that is none of ours is left out."""
        for row in rows:
            own = dict(row)
            try:
                figures = {key: own.pop(key) for key in _FIGURES}
                entry = Entry(**figures, decision=Remembered(own))
                told = entry.decision
                _ = told.service, told.desired, told.direction, told.sentence
                self.last_id = max(self.last_id, entry.revision)
            except (KeyError, TypeError, ValueError):
                continue
            self._entries[entry.id] = entry
        while len(self._entries) > self._most:
            del self._entries[next(iter(self._entries))]

    def add(self, decision: Decision, unix_s: float) -> None:
        """Fold it into the service's last entry, where it says the same, or begin a new one."""
        self.last_id = max(self.last_id + 1, int(unix_s * 1000))
        last = self._entries.get(self._current.get(decision.service, 0))
        goes_on = (
            last is not None
            and isinstance(last.decision, Decision)
            and _says(last.decision) == _says(decision)
        )
        if last is not None and goes_on:
            del self._entries[last.id]  # it goes to the end
            entry = replace(
                last,
                revision=self.last_id,
                last_at=unix_s,
                count=last.count + 1,
                decision=decision,
            )
        else:
            if last is not None:
                self._keep(last.as_dict)
            entry = Entry(self.last_id, self.last_id, unix_s, unix_s, 1, decision)
        self._entries[entry.id] = entry
        self._current[decision.service] = entry.id
        # a clock that was set back must not end the keeping
        if not goes_on or abs(unix_s - self._kept_at[decision.service]) >= KEEP_EVERY_S:
            self._kept_at[decision.service] = unix_s
            self._keep(entry.as_dict)
        if len(self._entries) > self._most:
            del self._entries[next(iter(self._entries))]

    def page(
        self, since: int | None = None, limit: int = 100, service: str | None = None
    ) -> list[Entry]:
        """Those that changed after the revision `since`, the first `limit` of them; without it the
        last `limit`. In the order in which they changed."""
        found = list(self._after(since or 0, service))
        return found[:limit] if since is not None else found[-limit:]

    def last_scaled(self, service: str) -> dict[str, float]:
        """When its number last changed, by direction, as far as that is remembered."""
        entries = self._after(0, service)
        return {
            entry.decision.direction.value: entry.last_at
            for entry in entries
            if entry.decision.direction is not Direction.NONE
        }

    def _after(self, since: int, service: str | None) -> Iterator[Entry]:
        for entry in self._entries.values():
            if entry.revision > since and service in (None, entry.decision.service):
                yield entry


def _says(decision: Decision) -> tuple[object, ...]:
    """What must be the same for two decisions to be one entry."""
    guards = tuple(guard.reason for guard in decision.guards)
    return (decision.desired, decision.direction, decision.reason, guards, decision.mode)


@dataclass(slots=True)
class DecisionLog:
    """One service's: counted, and the newest with its wall-clock time. `kept` gets each."""

    kept: Decisions = field(default_factory=Decisions)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By direction and reason."""
    last_scale_unix_s: dict[str, float] = field(default_factory=dict)
    """By direction."""
    newest: Decision | None = None
    newest_at: float | None = None
    """Unix seconds."""

    def recall(self, service: str) -> None:
        """When this service's number last changed, where that was before this log began."""
        self.last_scale_unix_s = self.kept.last_scaled(service) | self.last_scale_unix_s

    def decided(self, decision: Decision, unix_s: float) -> None:
        self.counts[decision.direction.value, decision.reason.value] += 1
        self.newest, self.newest_at = decision, unix_s
        if decision.direction is not Direction.NONE:
            self.last_scale_unix_s[decision.direction.value] = unix_s
        self.kept.add(decision, unix_s)
