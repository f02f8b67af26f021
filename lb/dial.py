"""Opens a connection to a backend: TCP, and TLS over it. Requests and checks alike begin here.

Lets foreign errors out as they are (OSError, ssl.SSLError): each caller has words of its own.
"""

from __future__ import annotations

import asyncio
import ssl

from lb.address import split_address
from lb.backend_connection import BackendConnection


async def dial(address: str) -> BackendConnection:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    host, port = split_address(address)
    _, connection = await loop.create_connection(lambda: BackendConnection(loop), host, port)
    return connection


async def encrypt(connection: BackendConnection, context: ssl.SSLContext, name: str) -> None:
    """Raises ssl.SSLError or OSError; then the connection is cut."""
    plain = connection.transport
    if connection.buffer:
        # It would be read as the first bytes of what came encrypted, whoever sent it.
        plain.abort()
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, "it spoke before the handshake")
    try:
        encrypted = await asyncio.get_running_loop().start_tls(
            plain, connection, context, server_hostname=name
        )
    except BaseException:
        plain.abort()
        raise
    if encrypted is None:
        raise ConnectionResetError("the connection was closed within the TLS handshake")
    connection.transport = encrypted
