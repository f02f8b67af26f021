"""An answer on its way to the client: streamed with back-pressure, framed anew, perhaps compressed.

Moves bytes; what the head says was decided by `exchange` and `compression`.
"""

from __future__ import annotations

from dataclasses import replace

from lb import compression
from lb.backend_exchange import BackendExchange
from lb.client_connection import ClientConnection
from lb.compression import Gzip
from lb.config_service import CompressionConfig
from lb.exchange import Asked, Back, Body
from lb.headers import trailer_fields
from lb.wire.chunked import chunk, last_chunk
from lb.wire.head import AnswerHead


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
        body = sent.all()
        if gzip is not None:
            body = gzip.feed(body) + gzip.finish()
        connection.write(back.head + (_last(body, sent) if chunked else body))
    else:
        connection.write(back.head)
        at_once = gzip is not None and sent.length is None
        while piece := await sent.read():
            data = piece if gzip is None else _squeezed(gzip, piece, at_once)
            if data:
                connection.write(chunk(data) if chunked else data)
                await connection.drain(silence_s)
        rest = b"" if gzip is None else gzip.finish()
        if end := _last(rest, sent) if chunked else rest:
            connection.write(end)
    await connection.drain(silence_s)


def _squeezed(gzip: Gzip, piece: bytes, at_once: bool) -> bytes:
    """Where the backend sends as things come about (`at_once`), nothing may be held back."""
    return gzip.feed_now(piece) if at_once else gzip.feed(piece)


def _last(rest: bytes, sent: BackendExchange) -> bytes:
    """What is left of a chunked body, and its end."""
    end = last_chunk(trailer_fields(sent.trailers))
    return chunk(rest) + end if rest else end
