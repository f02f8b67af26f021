"""Which host a new replica goes to, and which replica leaves first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostRoom:
    """One hypervisor that answers, and how many replicas of ours it has."""

    name: str
    replicas: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that could leave."""

    vm: str
    available: bool
    """Whether it gets requests now."""
    in_flight: int
    age_s: float


def choose_host(hosts: Sequence[HostRoom]) -> str | None:
    """The host with the fewest of our replicas, the first by name among equals; None of none."""
    return min(hosts, key=lambda h: (h.replicas, h.name)).name if hosts else None


def choose_victim(candidates: Sequence[Candidate]) -> str | None:
    """Who leaves: one that gets no requests (yet, or any more), then the least busy, then the
    youngest.

    The youngest, because the older ones have warm caches and have proved themselves.
    """
    if not candidates:
        return None
    return min(candidates, key=lambda c: (c.available, c.in_flight, c.age_s, c.vm)).vm
