"""The same bytes read by us and by others: llhttp (what Node is made of) and h11, both strict.

`check_requests` and `check_answer` are what fuzzing asserts; they know no sockets. AssertionError
means that somebody behind us could read something else than we did.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import h11
import httptools

from lb import exchange, headers
from lb.errors import RequestError
from lb.wire.chunked import ChunkReader, chunk, last_chunk
from lb.wire.errors import WireError
from lb.wire.framing import Ends, answer_framing, request_framing
from lb.wire.head import END, answer_head, request_head

CLIENT = headers.Connection(peer=b"192.0.2.1", port=b"80")
IDENTIFIER = b"fuzz-00000001"
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


@dataclass
class Read:
    """One message as somebody read it."""

    start: bytes = b""
    """Of a request its method, of an answer its status."""
    target: bytes = b""
    body: bytes = b""
    whole: bool = False
    end: int = 0
    """Ours: where in the input it ended."""
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def meaning(self) -> tuple[bytes, bytes, bytes]:
        return self.start, self.target, self.body


# ── ours ─────────────────────────────────────────────────────────────────────────────────────────


def chunk_reader() -> ChunkReader:
    return ChunkReader(extension_bytes=256, trailer_bytes=65536, most_fields=128)


@dataclass
class Taken:
    """What we made of a stream: the requests as read, and each as it goes on."""

    read: list[Read] = field(default_factory=list)
    onward: list[bytes] = field(default_factory=list)
    error: Exception | None = None


def take_requests(data: bytes) -> Taken:
    """Read a client's bytes as its connection does, one request after the other, and write each
    as a backend gets it. Only what came whole counts."""
    taken = Taken()
    at = 0
    try:
        while True:
            while data.startswith(b"\r\n", at):
                at += 2
            end = data.find(END, at)
            if end < 0:
                return taken
            head = request_head(data[at : end + 4], target_bytes=8192, most_fields=128)
            framing = request_framing(head)
            at = end + 4
            trailers: list[tuple[bytes, bytes]] = []
            if isinstance(framing, Ends):
                reader = chunk_reader()
                pieces = reader.feed(data[at:])
                if not reader.done:
                    return taken
                at = len(data) - len(reader.rest)
                trailers = reader.trailers
            else:
                pieces = [data[at : at + framing]] if framing else []
                if at + framing > len(data):
                    return taken
                at += framing
            asked = exchange.asked(head)
            taken.read.append(
                Read(head.method.encode(), head.target, b"".join(pieces), True, at, head.fields)
            )
            onward = exchange.onward(
                asked,
                framing,
                CLIENT,
                identifier=IDENTIFIER,
                target=asked.target,
                host=asked.host or b"local",
            )
            if onward.chunked:
                body = b"".join(map(chunk, pieces)) + last_chunk(onward.trailers(trailers))
            else:
                body = b"".join(pieces)
            taken.onward.append(onward.head + body)
            if not asked.keep_alive:
                return taken
    except (WireError, RequestError) as error:
        taken.error = error
    return taken


# ── others ───────────────────────────────────────────────────────────────────────────────────────


class _Told:
    def __init__(self) -> None:
        self.messages: list[Read] = []
        self.parser: Any = None
        """Of requests: asked for the method."""

    def on_message_begin(self) -> None:
        self.messages.append(Read())

    def on_url(self, url: bytes) -> None:
        self.messages[-1].target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.messages[-1].fields.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.messages[-1].body += body

    def on_message_complete(self) -> None:
        self.messages[-1].whole = True
        if self.parser is not None:
            self.messages[-1].start = self.parser.get_method()


def llhttp_requests(data: bytes) -> tuple[list[Read], str]:
    """(messages, what it refused in the end or nothing). The last message may be incomplete."""
    messages: list[Read] = []
    while data:
        told = _Told()
        told.parser = parser = httptools.HttpRequestParser(told)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            messages += told.messages
            data = data[upgrade.args[0] :]
            continue
        except httptools.HttpParserError as error:
            return messages + told.messages, repr(error)
        return messages + told.messages, ""
    return messages, ""


def h11_request(data: bytes) -> Read:
    """Exactly one request and nothing behind it, else an h11.RemoteProtocolError or an
    AssertionError."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    read = Read()
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            read.start, read.target = event.method, event.target
            read.fields = list(event.headers)
        elif isinstance(event, h11.Data):
            read.body += event.data
        else:
            assert isinstance(event, h11.EndOfMessage), f"h11 stopped with {event!r} in {data!r}"
            break
    assert connection.trailing_data[0] == b"", f"h11 has bytes left over of {data!r}"
    read.whole = True
    return read


def h11_answer(data: bytes, method: bytes, ends: bool) -> Read:
    """Exactly one answer to such a request; `ends`: the connection, behind it."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    if ends:
        connection.receive_data(b"")
    read = Read()
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            read.start = b"%d" % event.status_code
            read.fields = list(event.headers)
        elif isinstance(event, h11.Data):
            read.body += event.data
        else:
            assert isinstance(event, h11.EndOfMessage), f"h11 stopped with {event!r} in {data!r}"
            break
    assert connection.trailing_data[0] == b"", f"h11 has bytes left over of {data!r}"
    read.whole = True
    return read


def llhttp_answer(data: bytes) -> tuple[list[Read], str]:
    told = _Told()
    parser: Any = httptools.HttpResponseParser(told)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        return told.messages, repr(error)
    return told.messages, ""


# ── what must hold ───────────────────────────────────────────────────────────────────────────────

# What llhttp does not know, though RFC 9110 allows it: these it may refuse, and only so.
_NOT_KNOWN = ("HttpParserInvalidMethodError", "HttpParserInvalidURLError")


def check_requests(data: bytes) -> Taken:
    """No exception but a WireError (or a refusal of ours); each request that was accepted goes on
    as exactly one, and the client's bytes hold the same for llhttp where that reads them at all."""
    taken = take_requests(data)
    for read, onward in zip(taken.read, taken.onward, strict=False):
        other = h11_request(onward)
        assert (other.start, other.body) == (read.start, read.body), (data, onward)
        _framed_once(other.fields, onward, b"_.")
        messages, refused = llhttp_requests(onward)
        if not refused:
            assert len(messages) == 1, (data, onward, messages)
            assert messages[0].whole, (data, onward)
            assert (messages[0].start, messages[0].body) == (read.start, read.body), (data, onward)
        else:
            assert refused.startswith(_NOT_KNOWN), (refused, data, onward)
    same_boundaries(data, taken)
    return taken


def same_boundaries(data: bytes, taken: Taken) -> None:
    """As far as llhttp reads the client's bytes, it reads the same requests in them."""
    theirs, _ = llhttp_requests(data)
    for ours, other in zip(taken.read, theirs, strict=False):
        if not other.whole:
            return
        assert ours.meaning == other.meaning, (data, ours, other)


def _framed_once(fields: Iterable[tuple[bytes, bytes]], written: bytes, odd: bytes = b"") -> None:
    """`odd`: bytes of names that somebody may take for a `-`."""
    lengths = (b"content-length", b"transfer-encoding")
    names = [name.lower().translate(bytes.maketrans(odd, b"-" * len(odd))) for name, _ in fields]
    assert sum(name in lengths for name in names) <= 1, written


def check_answer(data: bytes, method: str, *, newer: bool) -> bool:
    """Whether it was accepted; then the client gets exactly one answer, of the same body."""
    end = data.find(END)
    if end < 0:
        return False
    request = request_head(
        b"%b / HTTP/1.%d\r\nHost: a\r\n\r\n" % (method.encode(), newer),
        target_bytes=128,
        most_fields=8,
    )
    trailers: list[tuple[bytes, bytes]] = []
    try:
        head = answer_head(data[: end + 4], most_fields=128)
        framing = answer_framing(head, method)
        if head.status < 200:
            exchange.interim(head)
            return False
        rest = data[end + 4 :]
        length: int | None = None
        if framing is Ends.CHUNKED:
            reader = chunk_reader()
            pieces = reader.feed(rest)
            trailers = reader.trailers
            if not reader.done:
                return False
        elif isinstance(framing, int):
            length = framing
            pieces = [rest[:framing]] if framing else []
            if len(rest) < framing:
                return False
        else:
            pieces = [rest] if rest else []
    except (WireError, RequestError):
        return False
    back = exchange.back(exchange.asked(request), head, stay=True, length=length, date=DATE)
    body = b"".join(pieces)
    written = back.head
    if back.body is exchange.Body.CHUNKED:
        written += b"".join(map(chunk, pieces)) + last_chunk(headers.trailer_fields(trailers))
    elif back.body is not exchange.Body.NONE:
        written += body
    read = h11_answer(written, method.encode(), ends=back.body is exchange.Body.CLOSE)
    assert (read.start, read.body) == (b"%d" % head.status, body), (data, written)
    _framed_once(read.fields, written)
    if method != "HEAD" and back.body is not exchange.Body.CLOSE:
        messages, refused = llhttp_answer(written)
        assert not refused, (refused, data, written)
        assert [(one.body, one.whole) for one in messages] == [(body, True)], (data, written)
    return True


def check_chunks(body: bytes, pieces: Iterable[bytes]) -> None:
    """A body reads the same however it is cut, and what was read is not read otherwise."""

    def read(parts: Iterable[bytes]) -> tuple[bytes, bool, bytes, Any]:
        reader = chunk_reader()
        out, rest = b"", b""
        for part in parts:
            if reader.done:
                rest += part
                continue
            out += b"".join(reader.feed(part))
            rest += reader.rest
        return out, reader.done, rest, reader.trailers

    outcomes: list[Any] = []
    for parts in ([body], pieces):
        try:
            outcomes.append(read(parts))
        except WireError:
            outcomes.append("refused")
    assert outcomes[0] == outcomes[1], (body, outcomes)
