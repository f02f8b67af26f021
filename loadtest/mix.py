"""What is asked: the requests of a test as bytes, and which of them comes when. Pure.

With weights, the n-th request of a target of weight w is at (n + ½)/w, and the smallest of those
comes next: every stretch holds each target in its proportion, without chance. Equal weights keep
the order of the file, from the top again after its end.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loadtest.errors import InputError
from loadtest.request import IDEMPOTENT, Target, build_request
from loadtest.timeline import ALL, Share

Headers = tuple[tuple[str, str], ...]


class Origin(NamedTuple):
    """Where connections go: those of one origin may carry any of its requests."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as it is written; `where` it stands ("targets.txt:3"), for what is wrong with it.

    `weight` is how often it is sent compared with the others.
    """

    method: str
    url: str
    headers: Headers = ()
    body: bytes = b""
    weight: float = 1.0
    where: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """The bytes that go out. `origin` is an index into the mix's."""

    data: bytes
    origin: int
    bodiless: bool
    """The answer has a Content-Length but no body: it was HEAD."""
    idempotent: bool


@dataclass(frozen=True, slots=True)
class Mix:
    """All requests of a test; `order` are indexes into `requests`, `weights` go with it."""

    requests: tuple[Request, ...]
    order: tuple[int, ...]
    weights: tuple[float, ...] | None
    """None: all the same."""
    origins: tuple[Origin, ...]
    where: tuple[str, ...]
    """Where each origin is first mentioned; empty: on the command line."""
    method: str
    """That of all, or "mixed"."""

    @classmethod
    def of(cls, asks: Sequence[Ask], headers: Headers = (), base: Target | None = None) -> Mix:
        """Builds the bytes. `headers` go with every request that has none of that name itself;
        with `base`, all go to its server. Raises InputError saying where."""
        requests: dict[Request, int] = {}
        origins: dict[Origin, int] = {}
        where: list[str] = []
        order = []
        for ask in asks:
            try:
                target = _target(ask, base)
                own = {name.lower() for name, _ in ask.headers}
                rest = tuple(pair for pair in headers if pair[0].lower() not in own)
                data = build_request(target, ask.method, (*ask.headers, *rest), ask.body)
            except InputError as wrong:
                raise InputError(f"{ask.where}: {wrong}" if ask.where else str(wrong)) from None
            origin = Origin(target.scheme, target.host, target.port)
            if origin not in origins:
                origins[origin] = len(origins)
                where.append(ask.where)
            request = Request(data, origins[origin], ask.method == "HEAD", ask.method in IDEMPOTENT)
            order.append(requests.setdefault(request, len(requests)))
        if not order:
            raise InputError("there is no request to send")
        weights = tuple(ask.weight for ask in asks)
        methods = {ask.method for ask in asks}
        return cls(
            tuple(requests),
            tuple(order),
            None if len(set(weights)) == 1 else weights,
            tuple(origins),
            tuple(where),
            methods.pop() if len(methods) == 1 else "mixed",
        )


class Rotation:
    """Hands out a mix's requests in turn; with a share, those that fall to it."""

    def __init__(self, mix: Mix, share: Share = ALL) -> None:
        self._requests = mix.requests
        self._order = mix.order
        self._stride = share.of
        self._at = share.index
        self._only = mix.requests[0] if len(mix.requests) == 1 else None
        # (where its next one is, place in the file, how far apart they are)
        weights = mix.weights or ()
        self._turns = [(0.5 / weight, place, 1 / weight) for place, weight in enumerate(weights)]
        heapq.heapify(self._turns)
        for _ in range(share.index if weights else 0):
            self._take()

    def next(self) -> Request:
        """The next one; there is always one."""
        if self._only is not None:
            return self._only
        if not self._turns:
            at = self._at
            self._at = at + self._stride
            return self._requests[self._order[at % len(self._order)]]
        chosen = self._take()
        for _ in range(self._stride - 1):
            self._take()
        return self._requests[self._order[chosen]]

    def _take(self) -> int:
        due, place, apart = self._turns[0]
        heapq.heapreplace(self._turns, (due + apart, place, apart))
        return place


def _target(ask: Ask, base: Target | None) -> Target:
    if base is None:
        if ask.url.startswith("/"):
            raise InputError(f"URL {ask.url!r} names no server: give one, `loadtest run URL …`")
        return Target.parse(ask.url)
    path = ask.url
    if not path.startswith("/"):
        path = Target.parse(ask.url).path
    return Target.parse(f"{base.scheme}://{base.authority}{path}")
