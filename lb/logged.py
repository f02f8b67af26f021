"""A request that ended, as the access log's entry: what connection and head tell of it.

Both lanes make their entries here, so that a line does not tell which of them carried a request.
How a line looks is `access_line`'s, when it is written `access_log`'s.
"""

from __future__ import annotations

from typing import Protocol

from lb.access_line import Entry
from lb.headers import value_of
from lb.wire.head import RequestHead


class Connected(Protocol):
    """What is told of a client's connection."""

    @property
    def peer_port(self) -> int: ...
    @property
    def served(self) -> int: ...
    @property
    def tls_version(self) -> str: ...
    @property
    def tls_client(self) -> str: ...


def entry(
    connection: Connected,
    head: RequestHead,
    *,
    began_unix_s: float,
    client: bytes,
    status: int,
    bytes_sent: int,
    bytes_received: int,
    duration_s: float,
    host: bytes | None,
    service: str,
    backend: str,
    attempts: int,
    request_id: bytes,
    queue_s: float = 0.0,
    upstream_s: float = 0.0,
    retry_reason: str = "",
    error_reason: str = "",
) -> Entry:
    """See `Entry`. `client`: who asked, as far as trusted proxies tell."""
    return Entry(
        time=began_unix_s,
        client=client.decode("ascii"),
        client_port=connection.peer_port,
        method=head.method,
        target=head.target,
        version=head.version,
        status=status,
        bytes_sent=bytes_sent,
        bytes_received=bytes_received,
        duration_s=duration_s,
        host=host,
        referer=value_of(head.fields, b"referer"),
        user_agent=value_of(head.fields, b"user-agent"),
        service=service,
        backend=backend,
        attempts=attempts,
        queue_s=queue_s,
        upstream_s=upstream_s,
        retry_reason=retry_reason,
        error_reason=error_reason,
        request_id=request_id,
        tls_version=connection.tls_version,
        tls_client=connection.tls_client,
        connection_requests=connection.served,
    )
