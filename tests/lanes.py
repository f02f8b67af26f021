"""The same bytes through a proxy with the fast lane and through one without: what each side saw.

What may differ is taken out here, and nothing else: times, ports, the ids and traces that the proxy
makes, and where it cuts a chunked body. `both` asserts that nothing else does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from lb.config import AccessLogConfig
from tests.conformance.case import Case, Do, Steps
from tests.conformance.drive import Played, warm_up
from tests.conformance.reading import Message, read_requests
from tests.conformance.server import backend_for
from tests.conformance.wire import Wire
from tests.conformance.witness import Witness
from tests.proxy_harness import Proxied, proxied

PATIENCE_S: Final = 3.0
"""For the answers that a story is to have; those that have fewer end their connection."""
TRIES: Final = 3
"""What the lanes make of a story may hang on 0.1 s, and one of two runs may be that late on a busy
machine. A difference that is one comes every time."""

_OURS: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{8}")
_TRACE: Final = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01")
_LONG: Final = re.compile(r"(.{1,10}?)\1{30,}")
_PORT: Final = re.compile(rb"127\.0\.0\.1:[0-9]+")
_COOKIE: Final = re.compile(rb"\Albctl=[\w-]+;")
_MADE: Final = (
    (_TRACE, b"(trace)"), (_OURS, b"(id)"), (_PORT, b"(address)"), (_COOKIE, b"lbctl=(backend);"),
)  # fmt: skip
_VARIES: Final = {b"Date": b"(now)", b"X-Forwarded-Port": b"(ours)"}
_VOLATILE: Final = ("time", "client_port", "duration_s", "queue_s", "request_id", "backend")


@dataclass(frozen=True)
class Story:
    """What a client sends, piece by piece, and what the backend does for each request."""

    sends: tuple[bytes, ...]
    answers: tuple[Steps, ...] = ()
    """Then OK."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of `proxied`."""

    def __repr__(self) -> str:
        said = f"Story({self.sends!r}, {self.answers!r}, {dict(self.settings)!r})"
        return _LONG.sub(lambda run: f"{run[1]}[{len(run[0])} of these]", said)


@dataclass
class Told:
    """What became of a story."""

    client: list[Message]
    rest: bytes
    stands: bool
    """The client's connection, until it closed its side."""
    cut: bool
    """It ended with a reset."""
    backend: list[Message]
    fragments: list[bytes]
    counters: dict[str, object]
    log: list[dict[str, object]]
    fast: int = 0
    """Requests that the fast lane carried."""


async def both(story: Story) -> int:
    """How many requests the fast lane carried, after asserting that nobody could tell which."""
    for _ in range(TRIES):
        fast, slow = await told(story, fast=True), await told(story, fast=False)
        assert slow.fast == 0
        found = list(differences(fast, slow))
        if not found:
            return fast.fast
    raise AssertionError("\n".join([repr(story), *found]))


def differences(fast: Told, slow: Told) -> Iterator[str]:
    for part in fields(Told):
        if part.name == "fast":
            continue
        one, other = getattr(fast, part.name), getattr(slow, part.name)
        if isinstance(one, list) and len(one) == len(other):
            pairs = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
        else:
            pairs = [(one, other)] if one != other else []
        for a, b in pairs:
            yield f"{part.name}\n  with    {a}\n  without {b}"


async def told(story: Story, *, fast: bool) -> Told:
    """Play it, with a connection to the backend that is kept already."""
    case = Case("", "", story.sends, answers=story.answers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "access.json"
        log = AccessLogConfig(format="json", path=str(path))
        settings = {**story.settings, "fast_lane": fast, "access_log": log}
        async with Witness(case) as witness:
            async with backend_for(witness) as address, proxied(address, **settings) as proxy:
                await warm_up(proxy.port, witness)
                played, stands = await _play(case, proxy.port, witness)
                await asyncio.sleep(0)
            seen = played.transcript()
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    seen_requests = [_plain(message) for message in seen.requests]
    return Told(
        [_plain(message) for message in seen.answers],
        _same(seen.rest),
        stands,
        seen.ended is not None and seen.ended.value == "reset",
        seen_requests,
        [_same(fragment) for fragment in seen.fragments],
        _counters(proxy),
        [_line(line) for line in lines],
        proxy.counters.fast,
    )


async def _play(case: Case, port: int, witness: Witness) -> tuple[Played, bool]:
    """Send it all, wait for the answers, then close our side and wait for the other's."""
    played = Played(case, witness)
    await played.connect(port)
    whole = b"".join(step for step in case.sends if isinstance(step, bytes))
    requests, _ = read_requests(whole.lstrip(b"\r\n"), ended=True)
    requests = [request for request in requests if request.complete]
    played.expect([request.method for request in requests])
    wire = played.wire
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            await played.send()
            await wire.until(lambda: played.finals() >= len(requests))
            await _settled(wire)
    stands = wire.ended is None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            wire.half_close()
            await wire.until(lambda: False)
    await played.leave()
    return played, stands


async def _settled(wire: Wire) -> None:
    """The end that follows an answer is on its way."""
    for _ in range(20):
        await asyncio.sleep(0.001)
        if wire.ended is not None:
            return


def _plain(message: Message) -> Message:
    plain = [(name, _VARIES.get(name) or _same(value)) for name, value in message.fields]
    return replace(message, fields=plain, body=_same(message.body))


def _same(data: bytes) -> bytes:
    """Without what the proxy makes anew each time."""
    for made, name in _MADE:
        data = made.sub(name, data)
    return data


def _line(line: dict[str, Any]) -> dict[str, object]:
    """How long the backend took is not told where its answer never came whole."""
    upstream = line.pop("upstream_s") > 0 and line["error_reason"] is not None
    given = not _OURS.fullmatch((line["request_id"] or "").encode())
    identifier = line["request_id"] if given else "(id)"
    plain = {name: value for name, value in line.items() if name not in _VOLATILE}
    return {**plain, "upstream": upstream, "id": identifier, "asked": line["backend"] is not None}


def _counters(proxy: Proxied) -> dict[str, object]:
    counters = proxy.counters
    (backend,) = proxy.pool
    return {
        "requests": dict(sorted(counters.requests.items())),
        "arrived": counters.arrived,
        "in flight": counters.in_flight,
        "timed": counters.duration.count,
        "waited": counters.queue_wait.count + counters.unqueued,
        "retries": counters.retries,
        "errors": counters.upstream_errors,
        "leases": backend.requests_total,
        "answers": backend.latency.count,
        "bad": backend.bad_total,
        "failures": backend.failures,
        "healthy": backend.healthy,
        "connections": counters.connections,
        "tunnels": counters.tunnels,
    }


def pieces(data: bytes, shares: list[float]) -> tuple[bytes, ...]:
    """The same bytes, cut at these shares of their length."""
    ends = sorted({int(share * len(data)) for share in shares} - {0})
    cuts = [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]
    return tuple(cut for cut in cuts if cut)


def steps(data: bytes, shares: list[float], then: Do | None) -> Steps:
    """The request is read, these bytes are answered in pieces, and then the connection may end."""
    out: list[Any] = [Do.READ_BODY]
    for number, piece in enumerate(pieces(data, shares)):
        out += [Do.PAUSE, piece] if number else [piece]
    return (*out, Do.PAUSE, then) if then is not None else tuple(out)
