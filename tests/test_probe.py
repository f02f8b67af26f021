"""One question to one backend: which answers are good, and what is said of those that are not."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from lb.config_service import HealthConfig
from lb.probe import Manner, good_statuses, probe
from lb.proxy_protocol import encode
from tests.fake_backend import Exchange, FakeBackend, Script, hang, refused_address, reset_at_once
from tests.fake_backend import send as reply
from tests.tls_harness import Authority, serving

HEALTH = HealthConfig(path="/ready", timeout=20)
OK = b"HTTP/1.1 200 OK\r\n"


async def asked(script: Script, **settings: object) -> tuple[bool, str]:
    async with FakeBackend(script) as backend:
        return await probe(backend.address, HEALTH.model_copy(update=settings), Manner())


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (reply(b"HTTP/1.1 204 None\r\n\r\n"), (True, "204")),
        (reply(OK + b"Content-Length: 5000\r\n\r\nbeginning"), (True, "200")),
        (reply(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", OK + b"\r\n"), (True, "200")),
        (reply(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"), (False, "302")),
        (reply(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), (False, "503")),
        (reply(b"garbage\r\n\r\n", then="hang"), (False, "bad answer")),
        (reply(b"HTTP/1.1 200 OK\nServer: bare\n\n", then="hang"), (False, "bad answer")),
        (reply(OK + b"A: " + b"x" * 70000, then="hang"), (False, "bad answer")),
        (reply(b"HTTP/1.1 100 Continue\r\n\r\n" * 40, then="hang"), (False, "bad answer")),
        (reply(OK + b"Conte", then="close"), (False, "reset")),
        (reply(then="close"), (False, "reset")),
        (reset_at_once, (False, "reset")),
    ],
)  # fmt: skip
async def test_what_an_answer_amounts_to(script: Script, said: tuple[bool, str]) -> None:
    assert await asked(script) == said


async def test_nobody_listening_is_refused_and_nowhere_is_unreachable() -> None:
    assert await probe(refused_address(), HEALTH, Manner()) == (False, "refused")
    for nowhere in ("no.such.name.invalid:80", "a..b:80"):
        assert await probe(nowhere, HEALTH, Manner()) == (False, "unreachable")


async def test_no_answer_in_time_is_a_timeout() -> None:
    assert await asked(hang, timeout=0.1) == (False, "timeout")
    assert await asked(reply(OK, then="hang"), timeout=0.1) == (False, "timeout")


async def test_what_is_asked() -> None:
    async with FakeBackend() as backend:
        await probe(backend.address, HEALTH, Manner())
        assert backend.seen[0].head == (
            b"GET /ready HTTP/1.1\r\nHost: " + backend.address.encode() + b"\r\n"
            b"User-Agent: lbctl-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
    assert await asked(reply(b"HTTP/1.1 401 No\r\n\r\n"), status="200-204, 401") == (True, "401")


@pytest.mark.parametrize(
    ("ranges", "good", "bad"),
    [
        ("200-299", (200, 250, 299), (199, 300)),
        ("200", (200,), (201,)),
        ("200,204-206, 401", (200, 204, 205, 206, 401), (201, 203, 207, 400)),
    ],
)
def test_which_statuses_are_good(ranges: str, good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    assert good_statuses(ranges).issuperset(good)
    assert good_statuses(ranges).isdisjoint(bad)


# ── the body ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (reply(OK + b"Content-Length: 8\r\n\r\ndb: fine"), (True, "200")),
        (reply(OK + b"Content-Length: 8\r\n\r\ndb: f", b"ine"), (True, "200")),
        (reply(OK + b"Content-Length: 8\r\n\r\ndb: down"), (False, "wrong body")),
        (reply(OK + b"Content-Length: 4\r\n\r\ndb: fine"), (False, "wrong body")),
        (reply(OK + b"Content-Length: 20\r\n\r\ndb: f", then="close"), (False, "reset")),
        (reply(OK + b"\r\n", b"db: ", b"fine", then="close"), (True, "200")),
        (reply(OK + b"\r\ndb: down", then="close"), (False, "wrong body")),
        (
            reply(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\ndb: f\r\n3\r\nine\r\n0\r\n\r\n"),
            (True, "200"),
        ),
        (
            reply(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"),
            (False, "wrong body"),
        ),
        (
            reply(OK + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", then="hang"),
            (False, "bad answer"),
        ),
        (reply(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"), (False, "bad answer")),
        (reply(OK + b"Content-Length: 0\r\n\r\n"), (False, "wrong body")),
        (reply(b"HTTP/1.1 500 No\r\nContent-Length: 8\r\n\r\ndb: fine"), (False, "500")),
        (reply(OK + b"\r\n" + b"x" * 65528 + b"db: fine", then="hang"), (True, "200")),
        (reply(OK + b"\r\n" + b"x" * 65529 + b"db: fine", then="hang"), (False, "wrong body")),
    ],
)  # fmt: skip
async def test_a_text_must_stand_in_the_first_64_kib(
    script: Script, said: tuple[bool, str]
) -> None:
    assert await asked(script, body="db: fine") == said


async def test_without_a_text_an_endless_body_does_not_matter() -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.send(OK + b"\r\n")
        while True:
            await exchange.send(bytes(65536))

    assert await asked(endless) == (True, "200")
    assert await asked(endless, body="db: fine") == (False, "wrong body")


# ── TLS, and what goes before ────────────────────────────────────────────────────────────────────


async def test_over_tls_the_backend_must_be_who_it_says(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("backend", "app.internal")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.cert, pair.key)
    client = ssl.create_default_context(cafile=str(authority.path))
    async with serving(server) as port:
        address = f"127.0.0.1:{port}"
        assert await probe(address, HEALTH, Manner(client, "app.internal")) == (True, "200")
        assert await probe(address, HEALTH, Manner(client)) == (False, "tls"), "its name is no IP"
        assert (await probe(address, HEALTH, Manner()))[0] is False
    plain = await asyncio.start_server(_answers_at_once, "127.0.0.1", 0)
    address = f"127.0.0.1:{plain.sockets[0].getsockname()[1]}"
    assert await probe(address, HEALTH, Manner(client, "app.internal")) == (False, "tls")
    plain.close()


async def _answers_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def test_a_proxy_header_goes_before_everything() -> None:
    came = asyncio.Queue[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.put_nowait(await reader.readuntil(b"\r\n\r\nGET"))
        writer.write(OK + b"\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    greeting = encode(2, None, None)
    said = await probe(address, HEALTH, Manner(greeting=greeting + b"\r\n\r\n"))
    server.close()
    assert said == (True, "200")
    assert (await came.get()).startswith(greeting)
