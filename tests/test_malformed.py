"""What aiohttp's parser refuses is refused in our form, and counted."""

from __future__ import annotations

import json
import logging

import pytest

from tests.proxy_harness import one, proxied

HUGE = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01 not http\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nbad field\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        HUGE,
    ],
    ids=["not http", "bad field", "bad length", "too long"],
)
async def test_it_is_our_refusal(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with proxied() as proxy, proxy.client() as client:
        with caplog.at_level(logging.INFO):
            await client.send(sent)
            answer = await client.answer()
            assert await client.ended()
        assert answer.raw_head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.value("Content-Type") == "application/problem+json"
        assert answer.value("Connection") == "close"
        assert answer.value("Server") is None
        problem = json.loads(answer.body)
        assert (problem["status"], problem["reason"]) == (400, "bad_request")
        assert problem["detail"].startswith("the request cannot be parsed: ")
        assert "\n" not in problem["detail"]
        assert problem["request_id"] == answer.value("X-Request-Id")
        assert proxy.counters.requests == {("other", 400): 1}
    assert caplog.text.count("cannot be parsed") == 0, "a scanner must not fill the log"
    assert "Traceback" not in caplog.text


async def test_it_ends_a_connection_that_was_fine_so_far() -> None:
    async with one() as (proxy, _), proxy.client() as client:
        await client.request("GET", "/")
        assert (await client.answer()).status == 200
        await client.send(b"no http\r\n\r\n")
        assert (await client.answer()).status == 400
        assert await client.ended()
        assert proxy.codes() == {200: 1, 400: 1}
