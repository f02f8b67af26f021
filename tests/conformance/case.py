"""What one case is: bytes in, what the backend answers, what each side must see. Data only.

`Case` says it all; `refused`, `passed`, `answered` and `bad_answer` fill in what most cases share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

Text = str | bytes
"""A line of a table; str is sent as Latin-1, a byte a character."""

Wanted = Text | tuple[Text, ...] | re.Pattern[bytes]
"""The values of one field name: exactly this one, exactly these in this order, or one like this."""


class Do(Enum):
    """What a side does between its bytes."""

    PAUSE = "let what was sent arrive by itself"
    HALF_CLOSE = "send no more, go on reading"
    READ_BODY = "read the request's body to its end"
    CLOSE = "close the connection"
    RESET = "end the connection with a TCP reset"


@dataclass(frozen=True, slots=True)
class Until:
    """Wait until the client has got these bytes; both sides may."""

    seen: bytes


@dataclass(frozen=True, slots=True)
class Came:
    """Wait until the backend has got these bytes; both sides may."""

    seen: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """Wait until the backend has done every step for so many requests."""

    requests: int


Step = bytes | Do | Until | Came | Answered
Steps = tuple[Step, ...]


class End(Enum):
    """What becomes of the client's connection."""

    KEPT = "kept"
    """It serves one more request."""
    CLOSED = "closed"
    ABORTED = "aborted"
    """Ended within a body, in a way that cannot be taken for the body's end."""
    EITHER = "either"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that the client must see; 1xx are answers of their own."""

    status: int
    body: bytes | None = None
    """None: not looked at. After a 101, all that comes."""
    has: Mapping[str, Wanted] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    to: str = "GET"
    """The method, which decides whether a body follows."""
    framing: str | None = None
    """none, length, chunked or close."""
    trailers: Mapping[str, Wanted] | None = None
    reason: bytes | None = None
    whole: bool = True
    """False: it must break off within its body."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that the backend must see."""

    method: str = "GET"
    target: Text = b"/"
    body: bytes = b""
    has: Mapping[str, Wanted] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    ours: Mapping[str, Wanted] = field(default_factory=dict)
    """What only this proxy writes: not asked of others."""
    framing: str | None = None
    """none, length or chunked."""
    trailers: Mapping[str, Wanted] | None = None
    torn: bool = False
    """It begins and must never come to its end."""


OK: Final[Steps] = (Do.READ_BODY, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@dataclass(frozen=True)
class Case:
    """One row. Bytes in `sends` leave one after the other, each let arrive before the next."""

    name: str
    rfc: str
    """Of what it follows, such as `9112 §6.3`, or `ours` for a choice that no RFC makes."""
    sends: Steps
    answers: tuple[Steps, ...] = ()
    """What the backend does for the first request, the second, …; then OK."""
    client: tuple[Reply, ...] = (Reply(200, b"ok"),)
    backend: tuple[Arrival, ...] = (Arrival(),)
    """Empty: not one byte may arrive there."""
    end: End = End.KEPT
    connections: int | None = None
    """How many the backend must have seen used."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of ProxyConfig, where not the defaults."""
    haproxy: str = ""
    """Why HAProxy does otherwise: the word of `compare.Verdict`, a colon, the reason. Several
    words (`refuses or differs: …`) where timing or chance decides."""
    nginx: str = ""
    alone: str = ""
    """Why others are not asked at all."""

    def __repr__(self) -> str:
        return self.name

    @property
    def is_about_answers(self) -> bool:
        return bool(self.answers)


def raw(text: Text) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def head(*lines: Text) -> bytes:
    """These lines, each ended by CRLF, and the empty one."""
    return b"".join(raw(line) + b"\r\n" for line in (*lines, b""))


def request(method: str, *lines: Text, target: str = "/", body: bytes = b"") -> bytes:
    """A good request line and Host, then these lines, then the body as it stands."""
    return head(f"{method} {target} HTTP/1.1", "Host: a.example", *lines) + body


def get(*lines: Text, target: str = "/") -> bytes:
    return request("GET", *lines, target=target)


def post(*lines: Text, body: bytes = b"") -> bytes:
    return request("POST", *lines, body=body)


def answer(*lines: Text, body: bytes = b"", status: str = "200 OK") -> bytes:
    """A backend's answer: a good status line, these lines, the body as it stands."""
    return head(f"HTTP/1.1 {status}", *lines) + body


def refused(
    name: str, rfc: str, *sends: Step, status: int = 400, end: End = End.CLOSED,
    after: Sequence[Reply] = (), backend: tuple[Arrival, ...] = (), **rest: Any,
) -> Case:  # fmt: skip
    """Answered by us; the backend sees nothing of it. `after`: the answers that come before."""
    client = (*after, Reply(status, to=rest.pop("to", "GET")))
    return Case(name, rfc, sends, client=client, backend=backend, end=end, **rest)


def passed(name: str, rfc: str, *sends: Step, **rest: Any) -> Case:
    """Forwarded; what is special about it stands in `rest`, fields of `Case`."""
    return Case(name, rfc, sends, **rest)


def answered(
    name: str, rfc: str, steps: bytes | Steps, *client: Reply, to: str = "GET",
    sends: Steps = (), **rest: Any,
) -> Case:  # fmt: skip
    """A plain request; the case lies in what the backend answers and what becomes of that."""
    steps = (Do.READ_BODY, steps) if isinstance(steps, bytes) else steps
    rest.setdefault("backend", (Arrival(to),))
    return Case(name, rfc, sends or (request(to),), answers=(steps,), client=client, **rest)


def bad_answer(name: str, rfc: str, steps: bytes | Steps, **rest: Any) -> Case:
    """What the backend answers is not HTTP, or not so that it could be passed on: 502."""
    return answered(name, rfc, steps, Reply(502, to=rest.get("to", "GET")), **rest)
