"""What is remembered of a host's domains between two listings: whose each is, and its CPU limit.

Owns the lock around it: libvirt's threads write here side by side. It must not ask libvirt.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autoscale.domain_xml import Identity


@dataclass(frozen=True, slots=True)
class Known:
    """One domain."""

    name: str
    identity: Identity | None
    """None: not ours, and never touched."""
    limit_cores: float | None = None
    """The CPU limit in force, None for none."""


class KnownDomains:
    """By UUID. Every call is one step that no other thread sees half of."""

    def __init__(self) -> None:
        self._by_uuid: dict[str, Known] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many the last listing found."""
        with self._lock:
            return len(self._by_uuid)

    def get(self, uuid: str) -> Known | None:
        with self._lock:
            return self._by_uuid.get(uuid)

    def learn(self, uuid: str, known: Known) -> None:
        """First sight of a domain; what another thread wrote meanwhile stands."""
        with self._lock:
            self._by_uuid.setdefault(uuid, known)

    def change(self, uuid: str, **changes: Any) -> None:
        """What we just told libvirt of it. Unknown, the next listing reads it from libvirt."""
        with self._lock:
            known = self._by_uuid.get(uuid)
            if known is not None:
                self._by_uuid[uuid] = replace(known, **changes)

    def listed(self, seen: Mapping[str, Known]) -> None:
        """These are there and no others; what another thread wrote meanwhile stands."""
        with self._lock:
            self._by_uuid = {uuid: self._by_uuid.get(uuid, known) for uuid, known in seen.items()}

    def forget(self) -> None:
        with self._lock:
            self._by_uuid.clear()

    def is_foreign(self, uuid: str) -> bool:
        """Whether it is known not to be ours; False where nothing is known of it."""
        known = self.get(uuid)
        return known is not None and known.identity is None
