"""Holds what happened against what the case expects; pure. A fault is a line that says both."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from tests.conformance.case import Arrival, Case, Do, End, Reply, Wanted, raw
from tests.conformance.drive import Transcript
from tests.conformance.reading import Fields, Message, values_of
from tests.conformance.wire import Ended

_HOP_BY_HOP = ("Keep-Alive", "Proxy-Connection")


def faults(case: Case, seen: Transcript) -> list[str]:
    """Everything in which the transcript is not what the case says."""
    return [*_backend_faults(case, seen), *_client_faults(case, seen), *_end_faults(case, seen)]


# ── the backend ──────────────────────────────────────────────────────────────────────────────────


def _backend_faults(case: Case, seen: Transcript) -> Iterator[str]:
    if not case.backend and seen.raw_backend:
        yield f"the backend must see nothing, and saw {_short(seen.raw_backend)}"
        return
    if seen.fragments:
        yield f"the backend saw bytes that are no head: {seen.fragments}"
    if len(seen.requests) != len(case.backend):
        yield f"the backend saw {len(seen.requests)} requests instead of {len(case.backend)}"
    for number, (wanted, request) in enumerate(zip(case.backend, seen.requests, strict=False), 1):
        for fault in (*request_faults(wanted, request), *_sound_request(request)):
            yield f"request {number} at the backend: {fault}"
    if case.connections is not None and seen.connections != case.connections:
        yield f"{seen.connections} connections to the backend instead of {case.connections}"


def request_faults(wanted: Arrival, request: Message, *, ours: bool = True) -> Iterator[str]:
    """In what one request differs. `ours`: also look for what only this proxy writes."""
    if request.method != wanted.method:
        yield f"method {request.method}, not {wanted.method}"
    if request.target != raw(wanted.target):
        yield f"target {request.target!r}, not {wanted.target!r}"
    if wanted.torn and request.complete:
        yield f"it came to a whole end, body {_short(request.body)}"
    if not wanted.torn and not request.complete:
        yield f"it never ended: {_short(request.body)}"
    if not wanted.torn and request.body != wanted.body:
        yield f"body {_short(request.body)}, not {_short(wanted.body)}"
    if wanted.framing not in (None, request.framing):
        yield f"framed by {request.framing}, not {wanted.framing}"
    wants = {**wanted.has, **wanted.ours} if ours else wanted.has
    yield from _field_faults(wants, wanted.lacks, request.fields)
    if wanted.trailers is not None:
        yield from (f"trailers: {f}" for f in _field_faults(wanted.trailers, (), request.trailers))
        yield from _unwanted(wanted.trailers, request.trailers)


def _sound_request(request: Message) -> Iterator[str]:
    """What holds for every request that leaves us."""
    yield from request.faults
    if not request.start.endswith(b" HTTP/1.1"):
        yield f"version in {request.start!r}"
    for name, most in {
        "Host": 1,
        "X-Request-Id": 1,
        "traceparent": 1,
        "X-Forwarded-For": 1,
    }.items():
        if len(request.values(name)) > most:
            yield f"{name} {len(request.values(name))} times"
    for name in _HOP_BY_HOP:
        if request.values(name):
            yield f"{name} was passed on"
    if request.values("Host") == [] and request.values("Via")[:1] != [b"1.0 lbctl"]:
        yield "no Host"


# ── the client ───────────────────────────────────────────────────────────────────────────────────


def _client_faults(case: Case, seen: Transcript) -> Iterator[str]:
    statuses = [answer.status for answer in seen.answers]
    wanted = [reply.status for reply in case.client]
    if len(statuses) != len(wanted):
        yield f"the client got {statuses} instead of {wanted}: {_short(seen.raw_client)}"
    for number, (reply, answer) in enumerate(zip(case.client, seen.answers, strict=False), 1):
        for fault in (*answer_faults(reply, answer), *_sound_answer(answer)):
            yield f"answer {number}: {fault}"
    if seen.rest:
        yield f"bytes after the last answer: {_short(seen.rest)}"


def answer_faults(wanted: Reply, answer: Message) -> Iterator[str]:
    if answer.status != wanted.status:
        yield f"status {answer.status}, not {wanted.status}"
        return
    if wanted.reason not in (None, answer.reason):
        yield f"reason {answer.reason!r}, not {wanted.reason!r}"
    if answer.complete is not wanted.whole:
        yield f"it {'ended' if answer.complete else 'never ended'}: {_short(answer.body)}"
    if wanted.body is not None and answer.body != wanted.body:
        yield f"body {_short(answer.body)}, not {_short(wanted.body)}"
    if wanted.framing not in (None, answer.framing):
        yield f"framed by {answer.framing}, not {wanted.framing}"
    yield from _field_faults(wanted.has, wanted.lacks, answer.fields)
    if wanted.trailers is not None:
        yield from (f"trailers: {f}" for f in _field_faults(wanted.trailers, (), answer.trailers))
        yield from _unwanted(wanted.trailers, answer.trailers)


def _sound_answer(answer: Message) -> Iterator[str]:
    """What holds for every answer that leaves us."""
    yield from answer.faults
    if not answer.start.startswith(b"HTTP/1.1 "):
        yield f"version in {answer.start!r}"
    for name in _HOP_BY_HOP:
        if answer.values(name):
            yield f"{name} was passed on"


def _end_faults(case: Case, seen: Transcript) -> Iterator[str]:
    if case.end is End.KEPT and not seen.kept:
        yield f"the connection does not serve again: {seen.ended}"
    if case.end in (End.CLOSED, End.ABORTED) and seen.ended is None:
        yield "the connection still stands"
    last = seen.answers[-1] if seen.answers else None
    if last is None or last.status < 200:
        return
    if case.end is End.CLOSED and last.complete and Do.HALF_CLOSE not in case.sends:
        # RFC 9112 §9.6: whoever will close says so.
        options = b",".join(last.values("Connection")).lower()
        if b"close" not in options and last.framing != "close":
            yield "it was closed without Connection: close"
    if case.end is End.ABORTED and last.complete:
        yield "it ended as if whole"
    if case.end is End.ABORTED and last.framing == "close" and seen.ended is not Ended.RESET:
        yield "the end of the body looks like a clean one: no reset"


# ── fields ───────────────────────────────────────────────────────────────────────────────────────


def _field_faults(
    has: Mapping[str, Wanted], lacks: tuple[str, ...], fields: Fields
) -> Iterator[str]:
    for name, wanted in has.items():
        values = values_of(fields, name)
        if not _fits(wanted, values):
            yield f"{name} is {values}, not {wanted!r}"
    for name in lacks:
        if values := values_of(fields, name):
            yield f"{name} is there: {values}"


def _fits(wanted: Wanted, values: list[bytes]) -> bool:
    if isinstance(wanted, re.Pattern):
        return len(values) == 1 and wanted.fullmatch(values[0]) is not None
    several = wanted if isinstance(wanted, tuple) else (wanted,)
    return values == [raw(value) for value in several]


def _unwanted(wanted: Mapping[str, Wanted], fields: Fields) -> Iterator[str]:
    known = {name.lower().encode() for name in wanted}
    yield from (f"trailer {name!r} is there" for name, _ in fields if name.lower() not in known)


def _short(data: bytes) -> str:
    return repr(data) if len(data) <= 200 else f"{data[:150]!r}… ({len(data)} bytes)"
