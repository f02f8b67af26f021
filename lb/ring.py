"""Consistent hashing: a request's key, whose it is, and who else takes it while that one is full.

Owns the ring. Pure; a key means nothing else to anybody.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from typing import ClassVar, Final

from lb.config_service import HashConfig
from lb.cookies import cookie_values
from lb.headers import Fields, value_of
from lb.least_requests import LeastRequests
from lb.slate import C, Rng, Slate

POINTS: Final = 8
"""Of a backend on the ring, for each unit of weight."""
PROBES: Final = 21
"""Of a key. With 21 nobody expects more than 1.05 times its share; that, and the points, keep the
deviation near 5 %. A ring of one probe needs 400 points a backend for that, and so a slow rebuild
at each change: 1000 backends have 8000 points here, sorted within 3 ms."""

REMEMBERED: Final = 16_384
REMEMBERED_BYTES: Final = 64
"""So many keys, none longer than this, are not looked up again: 7 MB at most. Addresses and session
ids are shorter; who sends longer ones to fill our memory fills nothing."""

_MASK: Final = (1 << 64) - 1


class ConsistentHash:
    """Multi-probe consistent hashing (Appleton and O'Reilly, 2015) with bounded loads (Mirrokni,
    Thorup and Zadimoghaddam, 2016).

    A key is hashed to 21 places of the ring; of the points that follow them the nearest owns it.
    So one that leaves gives away its own keys only, and one that comes takes only its share. Who
    has `load` times its share of the running requests is passed over for the next nearest: of a
    hot backend's keys each then goes to another one, not all to its one neighbour.

    Looking a key up takes 21 binary searches, 8 to 12 µs, so the last keys' owners are remembered.
    """

    name: ClassVar[str] = "consistent_hash"
    goes_by_latency: ClassVar[bool] = False

    def __init__(self, load: float = 1.25) -> None:
        self._load = load
        self._ring = Ring([], {})

    def slate(self, members: Sequence[C], rng: Rng) -> Slate[C]:
        names = [(member.name, member.weight) for member in members]
        if names != self._ring.names:  # they change less often than shares
            self._ring = Ring(names, self._ring.places)
        return _Hashed(members, rng, self._ring, self._load)


class _Hashed(Slate[C]):
    """A slate whose requests go to the owners of their keys."""

    __slots__ = ("_load", "_random", "_rest", "_ring", "_running", "_shares")

    def __init__(self, members: Sequence[C], rng: Rng, ring: Ring, load: float) -> None:
        super().__init__(members)
        self._ring = ring
        self._load = load
        self._random = rng.random
        self._rest = LeastRequests().slate(members, rng)
        """For those whose nearest are all full."""
        self._running = sum(member.in_flight for member in members)
        self._shares = sum(member.share for member in members)

    def pick(self, now: float, key: bytes | None = None) -> C:
        if key is None:
            key = str(self._random()).encode()
        allowed = self._load * (self._running + 1) / self._shares
        members, closed = self.members, self.closed
        for owner in self._ring.owners(key):
            member = members[owner]
            # (an integer is below x where it is below x rounded up)
            if member.in_flight < allowed * member.share and member not in closed:
                return member
        # With a load of 1.25 at most 4 of 5 are at their bound: all of 21 are so once in 100 times.
        return self._rest.pick(now)

    def took(self, member: C) -> None:
        self._running += 1
        self._rest.took(member)

    def gave(self, member: C) -> None:
        self._running -= 1
        self._rest.gave(member)

    def close(self, member: C) -> None:
        super().close(member)
        self._rest.close(member)

    def reopen(self, member: C) -> None:
        super().reopen(member)
        self._rest.reopen(member)


class Ring:
    """The points of those with these names and weights, and who owns a key. Their numbers are
    their places in `names`."""

    def __init__(
        self, names: list[tuple[str, int]], known: dict[tuple[str, int], list[int]]
    ) -> None:
        """`known`: points of some of them."""
        self.names = names
        self.places = {one: known.get(one) or _places(*one) for one in names}
        ring = sorted(
            (point, owner) for owner, one in enumerate(names) for point in self.places[one]
        )
        self._points = [point for point, _ in ring]
        self._owners = [owner for _, owner in ring]
        self.remembered: dict[bytes, tuple[int, ...]] = {}

    def owners(self, key: bytes) -> tuple[int, ...]:
        """Whose it is, then who takes it in that one's place, one after the other."""
        remembered = self.remembered
        owners = remembered.get(key)
        if owners is None:
            owners = tuple(dict.fromkeys(self._probe(key)))
            if len(key) <= REMEMBERED_BYTES:
                if len(remembered) >= REMEMBERED:
                    remembered.clear()
                remembered[key] = owners
        return owners

    def _probe(self, key: bytes) -> list[int]:
        """The owner found by each probe, the nearest first."""
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
        found.sort()
        return [owner for _, owner in found]


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
