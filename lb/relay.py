"""An answer on its way to the client: streamed with back-pressure, framed anew, perhaps compressed.

Moves bytes; what the head says was decided by `exchange` and `compression`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lb import compression, exchange
from lb.backend import Backend
from lb.backend_exchange import BackendExchange
from lb.compression import Gzip
from lb.config_service import CompressionConfig
from lb.exchange import Asked, Back, Body
from lb.headers import Fields, trailer_fields
from lb.routes import Route
from lb.site import Site
from lb.wire.chunked import chunk, last_chunk
from lb.wire.head import AnswerHead

if TYPE_CHECKING:
    from lb.client_connection import ClientConnection


def compressed(
    request: Asked, answer: AnswerHead, length: int | None, config: CompressionConfig
) -> tuple[AnswerHead, Gzip | None]:
    """The answer's head, and what compresses its body; None where it passes as it is."""
    fields = request.head.fields
    if not compression.eligible(request.method, fields, answer.status, answer.fields, config):
        return answer, None
    if compression.takes_gzip(fields):
        edited = replace(answer, fields=compression.edit(answer.fields))
        return edited, Gzip(config.level, length)
    return replace(answer, fields=compression.vary(answer.fields)), None


def promised(
    request: Asked,
    answer: AnswerHead,
    length: int | None,
    route: Route,
    site: Site,
    backend: Backend,
    scheme: bytes,
    *,
    stay: bool,
    date: bytes,
) -> tuple[Back, Gzip | None]:
    """A backend's answer as this client gets it: its head, and what compresses its body.

    `length`: of the body, None where only its end will tell. `scheme`: what the client speaks,
    perhaps to a proxy before us. `stay`: its connection may be kept.
    """
    head, gzip = compressed(request, answer, length, site.config.compression)

    def edit(fields: Fields) -> Fields:
        fields = route.edit_response(fields)
        cookie = site.cookie(backend, request.head.fields, scheme)
        return fields if cookie is None else [*fields, (b"Set-Cookie", cookie)]

    length = length if gzip is None else None
    return exchange.back(request, head, stay=stay, length=length, date=date, edit=edit), gzip


def whole(back: Back, body: bytes, gzip: Gzip | None, trailers: Fields) -> bytes:
    """What follows the head of an answer all of which is here."""
    if back.body is Body.NONE:
        return b""
    if gzip is not None:
        body = gzip.feed(body) + gzip.finish()
    return _last(body, trailers) if back.body is Body.CHUNKED else body


async def relay(
    sent: BackendExchange,
    connection: ClientConnection,
    back: Back,
    gzip: Gzip | None,
    silence_s: float,
) -> None:
    """Write head and body. Raises BodyCutError where the backend fails, a ClientFaultError where
    the client takes nothing for `silence_s`, or is gone."""
    chunked = back.body is Body.CHUNKED
    if back.body is Body.NONE:
        connection.write(back.head)
    elif sent.complete:
        # Most answers: all of it is here, and leaves in one write.
        connection.write(back.head + whole(back, sent.all(), gzip, sent.trailers))
    else:
        connection.write(back.head)
        if gzip is None and not chunked:
            await sent.pour(connection, silence_s)
        at_once = gzip is not None and sent.length is None
        while piece := await sent.read():
            data = piece if gzip is None else _squeezed(gzip, piece, at_once)
            if data:
                connection.write(chunk(data) if chunked else data)
                await connection.drain(silence_s)
        rest = b"" if gzip is None else gzip.finish()
        if end := _last(rest, sent.trailers) if chunked else rest:
            connection.write(end)
    await connection.drain(silence_s)


def _squeezed(gzip: Gzip, piece: bytes, at_once: bool) -> bytes:
    """Where the backend sends as things come about (`at_once`), nothing may be held back."""
    return gzip.feed_now(piece) if at_once else gzip.feed(piece)


def _last(rest: bytes, trailers: Fields) -> bytes:
    """What is left of a chunked body, and its end."""
    end = last_chunk(trailer_fields(trailers))
    return chunk(rest) + end if rest else end
