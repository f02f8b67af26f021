"""What connection and head tell of a request that ended: the same entry in both lanes."""

from __future__ import annotations

from types import SimpleNamespace

from lb.access_line import Entry
from lb.logged import entry
from lb.wire.head import RequestHead

CONNECTION = SimpleNamespace(
    peer_port=4711, tls_version="TLSv1.3", tls_client="CN=somebody", served=7
)
HEAD = RequestHead(
    "GET", b"/x?y", (1, 1), [(b"USER-agent", b"curl"), (b"Referer", b"/from"), (b"Referer", b"2")]
)


def test_it_says_all_there_is() -> None:
    made = entry(
        CONNECTION, HEAD, began_unix_s=1.5, client=b"192.0.2.1", status=200, bytes_sent=2,
        bytes_received=3, duration_s=0.25, host=b"a.example", service="web", backend="b:1",
        attempts=2, request_id=b"id", queue_s=0.1, upstream_s=0.2, retry_reason="stale",
        error_reason="gone",
    )  # fmt: skip
    assert made == Entry(
        time=1.5, client="192.0.2.1", client_port=4711, method="GET", target=b"/x?y",
        version=(1, 1), status=200, bytes_sent=2, bytes_received=3, duration_s=0.25,
        host=b"a.example", referer=b"/from", user_agent=b"curl", service="web", backend="b:1",
        attempts=2, queue_s=0.1, upstream_s=0.2, retry_reason="stale", error_reason="gone",
        request_id=b"id", tls_version="TLSv1.3", tls_client="CN=somebody", connection_requests=7,
    )  # fmt: skip


def test_what_the_head_does_not_say_is_nothing() -> None:
    made = entry(
        CONNECTION, RequestHead("GET", b"/", (1, 0), []), began_unix_s=0.0, client=b"unknown",
        status=499, bytes_sent=0, bytes_received=0, duration_s=0.0, host=None, service="",
        backend="", attempts=0, request_id=b"id",
    )  # fmt: skip
    assert (made.host, made.referer, made.user_agent) == (None, None, None)
    assert (made.queue_s, made.upstream_s, made.retry_reason, made.error_reason) == (0, 0, "", "")
