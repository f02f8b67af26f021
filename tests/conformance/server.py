"""A witness on a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.conformance.witness import Witness


@contextlib.asynccontextmanager
async def backend_for(witness: Witness) -> AsyncIterator[str]:
    """Listen, and yield the address."""
    server = await asyncio.get_running_loop().create_server(witness.wire, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()
