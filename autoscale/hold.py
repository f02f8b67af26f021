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
    held_words,
    holder_xml,
    is_gone,
    name_of,
    parse,
    watched,
)
from autoscale.host import HostHeld, HostUnreachable

log = logging.getLogger(__name__)

PERSISTENT = 4
"""`VIR_CONNECT_LIST_DOMAINS_PERSISTENT`: the holder is the only kind of ours that is defined."""
INACTIVE_XML = 2
"""`VIR_DOMAIN_XML_INACTIVE`: as it was defined, should somebody have started it."""

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
    ) -> None:
        self._host = host
        self._instance = instance
        self._us = us
        self._clock = clock
        self._wall_clock = wall_clock
        self._errors = errors
        self._lock = threading.Lock()
        """Around everything below but `_checked_at`."""
        self._record: Record | None = None
        self._watched: Watched | None = None
        self._said = False
        self._checked_at: float | None = None
        """When it was last certain that we hold."""

    def keep(self, conn: Any, domain_type: str) -> None:
        """Take hold, or beat where it is time. Raises HostHeld where somebody else holds, and
        HostUnreachable where another thread is finding out."""
        if self._certain_for(BEAT_S):
            return
        if not self._lock.acquire(blocking=False):
            if self._certain_for(STALE_S):
                return
            raise HostUnreachable(f"{self._host}: finding out who acts there")
        try:
            self._take(conn, domain_type)
        finally:
            self._lock.release()

    def release(self, conn: Any) -> None:
        """Let go: the next one may begin at once. What fails here costs him the wait only."""
        with self._lock, contextlib.suppress(self._errors):
            found = self._find(conn)
            if found is not None and self._record is not None:
                domain, record = found
                if record.uuid == self._record.uuid:
                    domain.undefine()
            self._record, self._checked_at = None, None

    def _certain_for(self, seconds: float) -> bool:
        checked_at = self._checked_at
        return checked_at is not None and self._clock() - checked_at < seconds

    def _take(self, conn: Any, domain_type: str) -> None:
        found = self._find(conn)
        if found is not None and not self._is_ours(found[1]):
            domain, record = found
            self._record = self._checked_at = None
            now = self._clock()
            self._watched = watched(self._watched, record, now)
            runs = is_running(record.process)
            if not is_gone(record, self._watched, now, us=self._us, runs=runs):
                raise HostHeld(held_words(self._host, record))
            log.warning(
                "%s: lbctl up on %s, pid %d, is gone: taking over",
                self._host, record.process.host, record.process.pid,
            )  # fmt: skip
            domain.undefine()
        elif found is not None:
            self._record = found[1]
        self._beat(conn, domain_type)

    def _beat(self, conn: Any, domain_type: str) -> None:
        now = self._wall_clock()
        before = self._record or Record(str(uuid4()), self._us, now, 0)
        record = replace(before, beat=before.beat + 1)
        try:
            conn.defineXML(holder_xml(self._instance, record, domain_type))
        except self._errors as error:
            found = self._find(conn)
            if found is not None and not self._is_ours(found[1]):
                self._record = self._checked_at = None
                raise HostHeld(held_words(self._host, found[1])) from error
            # no room on its disk, say: nobody else can take hold there either, so we go on
            if not self._said:
                log.warning("%s: it cannot be told there who acts: %s", self._host, error)
            self._said = True
        else:
            self._record, self._said = record, False
        self._checked_at = self._clock()

    def _find(self, conn: Any) -> tuple[Any, Record] | None:
        name = name_of(self._instance)
        for domain in conn.listAllDomains(PERSISTENT):
            if domain.name() == name:
                return domain, parse(domain.XMLDesc(INACTIVE_XML))
        return None

    def _is_ours(self, record: Record) -> bool:
        if self._record is not None and record.uuid == self._record.uuid:
            return True
        return bool(self._us.seat) and record.process == self._us


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
