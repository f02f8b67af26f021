"""A line of the access log: Apache's formats to the byte, and nothing a client can do to them."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from datetime import timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.access_line import Entry, line_format

ZONE = timezone(timedelta(hours=-7))
FRANK = Entry(
    time=971211336.789,
    client="127.0.0.1",
    user=b"frank",
    method="GET",
    target=b"/apache_pb.gif",
    version=(1, 0),
    status=200,
    bytes_sent=2326,
    bytes_received=0,
    duration_s=0.25,
    referer=b"http://www.example.com/start.html",
    user_agent=b"Mozilla/4.08 [en] (Win98; I ;Nav)",
)
common, combined, as_json = (line_format(name, ZONE) for name in ("common", "combined", "json"))


def test_the_examples_in_apaches_documentation() -> None:
    start = b'127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326'
    assert common(FRANK) == start + b"\n"
    assert combined(FRANK) == (
        start + b' "http://www.example.com/start.html" "Mozilla/4.08 [en] (Win98; I ;Nav)"\n'
    )


def test_what_is_not_there_is_a_dash() -> None:
    bare = replace(FRANK, user=None, referer=None, user_agent=None, bytes_sent=0, method="")
    assert combined(bare) == b'127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] "-" 200 - "-" "-"\n'
    empty = replace(FRANK, user=b"", referer=b"", user_agent=b"")
    assert combined(empty).endswith(b' 200 2326 "" ""\n')
    assert b' - "" [' in combined(empty), "as Apache writes a user without a name"


def test_what_could_mislead_a_reader_is_escaped() -> None:
    nasty = replace(
        FRANK,
        client="fe80::1%e\nth0",
        user=b'a "b" [c',
        target=b'/\xc3\xa5"\r\n\x1b[31m\\x41\x00\x7f',
        user_agent=b"caf\xe9\t",
    )
    assert combined(nasty) == (
        rb"fe80::1%e\x0ath0 - a\x20\x22b\x22\x20[c [10/Oct/2000:13:55:36 -0700] "
        rb'"GET /\xc3\xa5\x22\x0d\x0a\x1b[31m\x5cx41\x00\x7f HTTP/1.0" 200 2326 '
        rb'"http://www.example.com/start.html" "caf\xe9\x09"'
        b"\n"
    )


def test_text_that_is_no_unicode_does_not_end_the_log() -> None:
    assert combined(replace(FRANK, client="\udce5")).startswith(rb"\x5cudce5 - frank")
    assert json.loads(as_json(replace(FRANK, client="\udce5")))["client"] == "\udce5"


texts = st.text(max_size=30)
raw = st.none() | st.binary(max_size=40)
entries = st.builds(
    Entry, time=st.floats(0, 4e9), client=texts, method=texts, target=st.binary(max_size=40),
    version=st.tuples(st.integers(0, 9), st.integers(0, 9)), status=st.integers(100, 999),
    bytes_sent=st.integers(0, 2**60), bytes_received=st.integers(0, 2**60),
    duration_s=st.floats(0, 1e6), user=raw, host=raw, referer=raw, user_agent=raw,
    service=texts, backend=texts, retry_reason=texts, error_reason=texts,
    request_id=st.binary(max_size=20), tls_version=texts, tls_client=texts,
)  # fmt: skip
LINE = re.compile(
    rb'(?P<client>[!-~]*) - (?P<user>[!-~]+) \[(?P<time>[^\]"]+)\] "(?P<line>[^"]*)"'
    rb" \d{3} (?:-|\d+)"
    rb' "(?P<referer>[^"]*)" "(?P<agent>[^"]*)"\n'
)


def unescaped(text: bytes) -> bytes:
    return re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), text)


@settings(max_examples=200)
@given(entry=entries)
def test_the_simplest_of_readers_finds_every_column(entry: Entry) -> None:
    line = combined(entry)
    found = LINE.fullmatch(line)
    assert found is not None
    assert all(0x20 <= byte <= 0x7E for byte in line[:-1])
    assert line.startswith(common(entry)[:-1])
    if entry.user:
        assert unescaped(found["user"]) == entry.user
    if entry.user_agent is not None:
        assert unescaped(found["agent"]) == entry.user_agent
    if entry.method:
        request = unescaped(found["line"])
        assert request.startswith(entry.method.encode("utf-8", "backslashreplace") + b" ")
        assert b" " + entry.target + b" HTTP/" in request


@settings(max_examples=200)
@given(entry=entries)
def test_json_is_one_object_a_line_with_every_field(entry: Entry) -> None:
    line = as_json(entry)
    assert line.endswith(b"}\n")
    assert all(0x20 <= byte <= 0x7E for byte in line[:-1])
    row = json.loads(line)
    assert set(row) == {field.name for field in fields(Entry)}
    assert row["status"] == entry.status
    assert row["client"] == entry.client
    assert row["backend"] == (entry.backend or None)
    if entry.target.isascii():
        assert row["target"] == entry.target.decode()


def test_json_field_by_field() -> None:
    whole = replace(
        FRANK, host=b"app.example.org", client_port=4711, service="web", backend="web-3",
        attempts=2, queue_s=0.0123456789, upstream_s=0.2, retry_reason="reset", error_reason="",
        version=(1, 1), request_id=b"ab12-00000001", tls_version="TLSv1.3",
        tls_client="CN=alice", connection_requests=3, bytes_received=5,
        target="/å?q=\"".encode() + b"\xff",
    )  # fmt: skip
    assert json.loads(as_json(whole)) == {
        "time": "2000-10-10T20:55:36.789Z",
        "client": "127.0.0.1",
        "client_port": 4711,
        "user": "frank",
        "method": "GET",
        "target": '/å?q="\\xff',
        "version": "HTTP/1.1",
        "status": 200,
        "bytes_sent": 2326,
        "bytes_received": 5,
        "duration_s": 0.25,
        "host": "app.example.org",
        "referer": "http://www.example.com/start.html",
        "user_agent": "Mozilla/4.08 [en] (Win98; I ;Nav)",
        "service": "web",
        "backend": "web-3",
        "attempts": 2,
        "queue_s": 0.012346,
        "upstream_s": 0.2,
        "retry_reason": "reset",
        "error_reason": None,
        "request_id": "ab12-00000001",
        "tls_version": "TLSv1.3",
        "tls_client": "CN=alice",
        "connection_requests": 3,
    }


@pytest.mark.parametrize("name", ["common", "combined"])
def test_times_are_told_where_we_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a zone given: this machine's, summer time included."""
    import time

    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        here = line_format(name)  # type: ignore[arg-type]
        # seconds that no other test has asked for: a second's text is kept
        summer = replace(FRANK, time=FRANK.time + 3)
        assert b"[10/Oct/2000:22:55:39 +0200]" in here(summer)
        winter = replace(FRANK, time=FRANK.time + 30 * 86400)
        assert b"[09/Nov/2000:21:55:36 +0100]" in here(winter)
    finally:
        monkeypatch.undo()
        time.tzset()
