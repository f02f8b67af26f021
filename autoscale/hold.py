"""Taking hold of one instance's machines at a libvirt daemon, keeping it, and letting go.

Owns the domain that says so (`holder` says what is in it), and who we are. Every method blocks; any
thread may call it. It must not import libvirt: its connection is given, and what it raises.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from autoscale.holder import (
    BEAT_S,
    STALE_S,
    Process,
    Record,
    Watched,
    foreign_words,
    held_words,
    holder_xml,
    is_gone,
    name_of,
    parse,
    unwritable_words,
    watched,
)
from autoscale.host import HostHeld, HostUnreachable

log = logging.getLogger(__name__)

PERSISTENT = 4
"""`VIR_CONNECT_LIST_DOMAINS_PERSISTENT`: the holder is the only kind of ours that is defined."""
INACTIVE_XML = 2
"""`VIR_DOMAIN_XML_INACTIVE`: as it was defined, should somebody have started it."""

PATIENCE_S = 1.0
"""So long a thread that is not certain waits for another that finds out: the services of one host
start at the same instant, and each would fail its first listing but one."""

SETTLE_S = 1.0
"""Longer than the three calls take by which somebody takes over."""

PROC = Path("/proc")


class Hold:
    """One instance's, at one host. Mutable."""

    def __init__(
        self,
        host: str,
        instance: str,
        us: Process,
        clock: Callable[[], float],
        errors: type[Exception],
        wall_clock: Callable[[], float] = time.time,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._host = host
        self._instance = instance
        self._us = us
        self._clock = clock
        self._wall_clock = wall_clock
        self._pause = pause
        self._errors = errors
        self._lock = threading.Lock()
        """Around everything below but `_checked_at`."""
        self._record: Record | None = None
        self._watched: Watched | None = None
        self._said = False
        self._released = False
        self._checked_at: float | None = None
        """When it was last certain that we hold."""

    @property
    def holds(self) -> bool:
        """Whether we took hold, and have not found anybody else since."""
        return self._record is not None

    def keep(self, conn: Any, domain_type: str) -> None:
        """Take hold, or beat where it is time. Raises HostHeld where somebody else holds, and
        HostUnreachable where that cannot be found out, or another thread is at it for long."""
        if self._certain_for(BEAT_S):
            return
        if not self._lock.acquire(timeout=0 if self._certain_for(STALE_S) else PATIENCE_S):
            if self._certain_for(STALE_S):
                return
            raise HostUnreachable(f"{self._host}: finding out who acts there")
        try:
            if self._released:
                raise HostUnreachable(f"{self._host}: let go of")
            if not self._certain_for(BEAT_S):
                self._take(conn, domain_type)
        except self._errors as error:
            # also where the holder vanished while we looked: to whoever asked for another domain,
            # that must not mean that it is gone
            words = f"{self._host}: it cannot be found out who acts there: {error}"
            raise HostUnreachable(words) from error
        finally:
            self._lock.release()

    def release(self, conn: Any) -> None:
        """Let go, for good: the next one may begin at once. What fails here costs him the wait
        only."""
        with self._lock, contextlib.suppress(self._errors):
            self._released = True
            record, self._record, self._checked_at = self._record, None, None
            found = self._find(conn) if record is not None else None
            if record is not None and found is not None and found.uuid == record.uuid:
                self._undefine(conn, record)

    def _certain_for(self, seconds: float) -> bool:
        checked_at = self._checked_at
        return checked_at is not None and self._clock() - checked_at < seconds

    def _take(self, conn: Any, domain_type: str) -> None:
        found = self._find(conn)
        if found is not None and not self._is_ours(found):
            self._record = self._checked_at = None
            self._displace(conn, domain_type, found)
        # after so long a silence somebody may be taking over in this instant: he looked before we
        # beat, and has replaced it by the time of the second beat, which is refused then
        is_late = self._record is not None and not self._certain_for(STALE_S - BEAT_S)
        if found is not None and self._is_ours(found):
            self._record = found
        if self._beat(conn, domain_type) and is_late:
            self._pause(SETTLE_S)
            self._beat(conn, domain_type)
        if not self._said:
            self._checked_at = self._clock()

    def _displace(self, conn: Any, domain_type: str, found: Record) -> None:
        """Remove the holder of one that is gone. Raises HostHeld where he is not.

        Of several that find him gone, libvirt lets one undefine it, by its UUID; whoever held meant
        to write it in that instant is refused too, as its name has another UUID by then. To define
        it anew under the old UUID would let each overwrite the other."""
        now = self._clock()
        self._watched = watched(self._watched, found, now)
        runs = is_running(found.process)
        if not is_gone(found, self._watched, now, us=self._us, runs=runs):
            raise HostHeld(held_words(self._host, found))
        try:
            # as it is: where nothing can be written, he could not beat either, and may well live
            conn.defineXML(holder_xml(self._instance, found, domain_type))
            self._undefine(conn, found)
        except self._errors as error:
            there = self._find(conn)
            if there is not None and there.uuid != found.uuid:
                raise HostHeld(held_words(self._host, there)) from error
            raise self._unwritable(error) from error
        log.warning(
            "%s: lbctl up on %s, pid %d, is gone: taking over",
            self._host, found.process.host, found.process.pid,
        )  # fmt: skip

    def _beat(self, conn: Any, domain_type: str) -> bool:
        """Whether it could be written. Raises as `keep` does."""
        now, held = self._wall_clock(), self._record
        before = held or Record(str(uuid4()), self._us, now, 0)
        record = replace(before, beat=before.beat + 1)
        try:
            conn.defineXML(holder_xml(self._instance, record, domain_type))
        except self._errors as error:
            found = self._find(conn)
            if found is not None and not self._is_ours(found):
                self._record = self._checked_at = None
                raise HostHeld(held_words(self._host, found)) from error
            if held is None:
                raise self._unwritable(error) from error
            # No room on its disk, say. We go on, and look again before each call, until it can be
            # written: as soon as anybody can, it may be somebody else.
            if not self._said:
                log.warning("%s: it cannot be told there who acts: %s", self._host, error)
            self._said = True
            return False
        self._record, self._said = record, False
        return True

    def _find(self, conn: Any) -> Record | None:
        """What the holder says. Raises HostHeld where a domain of that name is none of ours."""
        name = name_of(self._instance)
        for domain in conn.listAllDomains(PERSISTENT):
            if domain.name() == name:
                record = parse(domain.XMLDesc(INACTIVE_XML))
                if record is None:
                    raise HostHeld(foreign_words(self._host, self._instance))
                return record
        return None

    def _undefine(self, conn: Any, record: Record) -> None:
        conn.lookupByUUIDString(record.uuid).undefine()

    def _unwritable(self, error: Exception) -> HostUnreachable:
        return HostUnreachable(unwritable_words(self._host, self._instance, str(error)))

    def _is_ours(self, found: Record) -> bool:
        if self._record is not None and found.uuid == self._record.uuid:
            return True
        return bool(self._us.seat) and found.process == self._us


# --- who is who


def this_process() -> Process:
    """Who we are, as far as this system tells."""
    pid = os.getpid()
    try:
        return Process(socket.gethostname(), pid, _started(pid), _seat())
    except OSError:
        return Process(socket.gethostname(), pid)


def is_running(process: Process) -> bool:
    """Whether a process of that number, started at that time, runs beside us. In doubt it does."""
    try:
        return _started(process.pid) == process.started
    except OSError:
        return not PROC.exists()


def _started(pid: int) -> str:
    """The 22nd field of its stat, counted from behind the name, which may hold anything."""
    text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _seat() -> str:
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""
