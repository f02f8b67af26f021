"""Consistent hashing: a request's key, whose it is, and who else takes it while that one is full.

Owns the ring. Pure; a key means nothing else to anybody.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from math import ceil
from operator import itemgetter
from typing import Final

from lb.config_service import HashConfig
from lb.cookies import cookie_values
from lb.headers import Fields, value_of
from lb.slate import C, Candidate, Rng, Slate

POINTS: Final = 8
"""Of a backend on the ring, for each unit of weight."""
PROBES: Final = 21
"""Of a key. With 21 nobody expects more than 1.05 times its share; that, and the points, keep the
deviation near 5 %. A ring of one probe needs 400 points a backend for that, and so a slow rebuild
at each change: 1000 backends have 8000 points here, sorted within 3 ms."""

_MASK: Final = (1 << 64) - 1


class ConsistentHash:
    """Multi-probe consistent hashing (Appleton and O'Reilly, 2015) with bounded loads (Mirrokni,
    Thorup and Zadimoghaddam, 2016).

    A key is hashed to 21 places of the ring; of the points that follow them the nearest owns it.
    So one that leaves gives away its own keys only, and one that comes takes only its share. Who
    has `load` times its share of the running requests is passed over for the next nearest: of a
    hot backend's keys each then goes to another one, not all to its one neighbour.

    A pick costs 21 binary searches: 7 µs with 10 backends, 10 µs with 1000.
    """

    name = "consistent_hash"
    goes_by_latency = False

    def __init__(self, load: float = 1.25) -> None:
        self._load = load
        # of the slate's members as they were last seen
        self._members: object = None
        self._shares = 0.0
        # of their names and weights, which change less often than shares
        self._places: dict[tuple[str, int], list[int]] = {}
        self._points: list[int] = []
        self._owners: list[int] = []

    def pick(self, slate: Slate[C], rng: Rng, now: float, key: bytes | None = None) -> C:
        members = slate.members
        if self._members is not members:
            self._build(members)
        if key is None:
            key = str(rng.random()).encode()
        allowed = self._load * (slate.running + 1) / self._shares
        for _, owner in self._nearest(key):
            member = members[owner]
            if member not in slate.closed and member.in_flight < ceil(allowed * member.share):
                return member
        # With a load of 1.25 at most 4 of 5 are at their bound: all of 21 are so once in 100 times.
        return min(slate.open(), key=lambda member: member.in_flight / member.share)

    def _build(self, members: Sequence[Candidate]) -> None:
        self._members = members
        self._shares = sum(member.share for member in members)
        known = self._places
        places = {
            (m.name, m.weight): known.get((m.name, m.weight)) or _places(m.name, m.weight)
            for m in members
        }
        if list(places) == list(known):
            return
        self._places = places
        ring = sorted(
            (point, owner) for owner, points in enumerate(places.values()) for point in points
        )
        self._points = [point for point, _ in ring]
        self._owners = [owner for _, owner in ring]

    def _nearest(self, key: bytes) -> list[tuple[int, int]]:
        """(distance, owner) for each probe, the nearest first."""
        points, owners, size = self._points, self._owners, len(self._points)
        place, step = _hash(key)
        step |= 1  # odd, so that no two probes fall together
        found = []
        for _ in range(PROBES):
            index = bisect_left(points, place)
            if index == size:
                index = 0
            found.append(((points[index] - place) & _MASK, owners[index]))
            place = (place + step) & _MASK
        found.sort(key=itemgetter(0))
        return found


def _places(name: str, weight: int) -> list[int]:
    return [_hash(f"{name}#{number}".encode())[0] for number in range(POINTS * weight)]


def _hash(data: bytes) -> tuple[int, int]:
    """Two numbers of 64 bits, the same in every process."""
    digest = blake2b(data, digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def hash_key(config: HashConfig, fields: Fields, address: bytes) -> bytes:
    """What of a request the choice hangs on: a header, a cookie, or the client's address, which
    also stands in where the request has no such header or cookie."""
    name = config.name.encode()
    found: bytes | None = None
    if config.by == "header":
        found = value_of(fields, name.lower())
    elif config.by == "cookie":
        found = next(cookie_values(fields, name), None)
    return address if found is None else found
