"""Asks one backend once whether it is ready, on a connection of its own, and reads the answer as
strictly as a request's would be read. When to ask, and what follows, is not its business.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from lb.address import split_address
from lb.backend_connection import BackendConnection
from lb.config_service import HealthConfig
from lb.dial import dial, encrypt
from lb.wire.chunked import ChunkReader
from lb.wire.errors import WireError
from lb.wire.framing import Ends, answer_framing
from lb.wire.head import END, AnswerHead, answer_head, hopeless

TIMEOUT: Final = "timeout"

SILENT: Final = frozenset({"refused", "reset", TIMEOUT})
"""What is said of one where no application answers."""
_VAGUE: Final = frozenset({"unreachable", "tls", "bad answer", TIMEOUT})

_HEAD_BYTES: Final = 65536
_FIELDS: Final = 1000
_BODY_BYTES: Final = 65536
_MOST_INTERIM: Final = 32


@dataclass(frozen=True, slots=True)
class Manner:
    """How a service's backends are spoken to, beside what `HealthConfig` says."""

    tls: ssl.SSLContext | None = None
    server_name: str = ""
    """Asked for and verified instead of the host of the address."""
    greeting: bytes = b""
    """Sent first on every connection, before TLS too: a PROXY header where backends expect one."""


class Refusal(Exception):
    """The answer is no; the word says in which way."""


def certain(ok: bool, said: str) -> bool:
    """Whether it is a no that leaves nothing to wait for: nobody listens, or the application says
    that it is not ready. A network that is lost for a moment, or no answer in time, is none."""
    return not ok and said not in _VAGUE


async def probe(address: str, health: HealthConfig, manner: Manner) -> tuple[bool, str]:
    """Is the backend at `address` ready? And what it said: a status, or one of `refused`,
    `unreachable`, `tls`, `reset`, `bad answer`, `wrong body`, `timeout`."""
    try:
        async with asyncio.timeout(health.timeout):
            return await _ask(address, health, manner)
    except TimeoutError:
        return False, TIMEOUT
    except Refusal as refusal:
        return False, str(refusal)


async def _ask(address: str, health: HealthConfig, manner: Manner) -> tuple[bool, str]:
    async with connected(address, manner) as connection:
        try:
            connection.write(
                f"GET {health.path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: lbctl-probe\r\n"
                "Accept: */*\r\nConnection: close\r\n\r\n".encode("ascii")
            )
            head, rest = await read_head(connection)
            if head.status not in good_statuses(health.status):
                return False, str(head.status)
            # Without a text to look for, the head is the answer; a body may be a page, or endless.
            if health.body and not await _contains(connection, head, rest, health.body.encode()):
                return False, "wrong body"
            return True, str(head.status)
        except WireError:
            raise Refusal("bad answer") from None


@contextlib.asynccontextmanager
async def connected(address: str, manner: Manner) -> AsyncIterator[BackendConnection]:
    """A connection of its own, for one exchange. Raises Refusal."""
    try:
        connection = await dial(address)
    except ConnectionRefusedError:
        raise Refusal("refused") from None
    except (OSError, UnicodeError):  # the latter: no resolver could ask for such a name
        raise Refusal("unreachable") from None
    try:
        if manner.greeting:
            connection.write(manner.greeting)
        if manner.tls is not None:
            name = manner.server_name or split_address(address)[0]
            await encrypt(connection, manner.tls, name)
        yield connection
    except ssl.SSLError:
        raise Refusal("tls") from None
    except OSError:
        raise Refusal("reset") from None
    finally:
        # Says goodbye where TLS wants one, and waits for no answer to it.
        connection.transport.close()
        connection.close()


async def read_head(connection: BackendConnection) -> tuple[AnswerHead, bytes]:
    """The final answer's head, and what came behind it. Raises WireError, ConnectionError."""
    data = b""
    for _ in range(_MOST_INTERIM):
        while (end := data.find(END)) < 0:
            if len(data) > _HEAD_BYTES or hopeless(data):
                raise WireError("this is no head")
            data += await _more(connection)
        head = answer_head(data[: end + 4], most_fields=_FIELDS)
        data = data[end + 4 :]
        if head.status >= 200:
            return head, data
    raise WireError("interim answers without end")


async def _contains(
    connection: BackendConnection, head: AnswerHead, data: bytes, text: bytes
) -> bool:
    """Does the beginning of the body hold the text? Raises WireError, ConnectionError."""
    framing = answer_framing(head, "GET")
    chunks = ChunkReader(
        extension_bytes=1024, trailer_bytes=_HEAD_BYTES, most_fields=_FIELDS
    )  # fmt: skip
    body = b""
    while True:
        body += b"".join(chunks.feed(data)) if framing is Ends.CHUNKED else data
        if isinstance(framing, int):
            body = body[:framing]
        if text in body[:_BODY_BYTES]:
            return True
        if len(body) >= _BODY_BYTES or chunks.done or len(body) == framing:
            return False
        try:
            data = await _more(connection)
        except EOFError:
            if framing is Ends.CLOSE:
                return False
            raise


class _Ended(ConnectionError, EOFError):
    """The connection ended where more was to come."""


async def _more(connection: BackendConnection) -> bytes:
    while not connection.buffer:
        if connection.ended:
            raise _Ended
        await connection.more()
    return connection.take(_HEAD_BYTES)


@lru_cache(maxsize=64)
def good_statuses(ranges: str) -> frozenset[int]:
    """`200-299, 401` → every status in it."""
    found: set[int] = set()
    for part in ranges.split(","):
        low, _, high = part.strip().partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return frozenset(found)
