"""Whatever a client sends and a backend answers: the fast lane and the other make the same of it.

The same bytes go through two proxies that differ in nothing but `fast_lane`. What the backend got,
what the client got, how the connection ended, what was counted and logged is to be equal. Failures
that hang on who of two is quicker (an end that follows a whole answer unasked) are left out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any, Final

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lb.config import LimitsConfig, RouteConfig
from tests.conformance.case import OK, Do, Steps, answer, get, head, post, request
from tests.lanes import Story, both, pieces, steps
from tests.wire_corpus import ANSWER_LIES, ANSWERS, LIES, REQUESTS, cuts, drawn

EXAMPLES: Final = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as found:
        yield found


# ── requests ──────────────────────────────────────────────────────────────────────────────────────

LINES: Final = (
    b"Accept: */*", b"Accept-Encoding: gzip, br", b"User-Agent: a \xe9 \"b\"", b"Referer: /from",
    b"Cookie: a=b; lbctl=forged", b"Cookie: c=d", b"X-Forwarded-For: 192.0.2.7, 10.0.0.1",
    b"X-Forwarded-Proto: https", b"X-Forwarded-Host: bank.example", b"X-Forwarded-Secret: 1",
    b"X_Forwarded_For: 192.0.2.8", b"Forwarded: for=192.0.2.9;proto=https", b"X-Private: 1",
    b"x-odd_name: 1", b"X-Odd-Name: 2", b"X-Request-Id: mine-1", b"X-Request-Id: not \"one\"",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    b"traceparent: 00-zz", b"tracestate: a=b", b"Connection: keep-alive",
    b"Connection: x-private, keep-alive", b"connection:  KEEP-ALIVE ", b"Keep-Alive: 5",
    b"TE: trailers", b"Via: 1.0 other", b"Authorization: Basic YTpi", b"Client-Cert: :YQ==:",
    b"Range: bytes=0-0", b"If-None-Match: \"a\"", b"Max-Forwards: 7", b"X-Empty:",
)  # fmt: skip
ODD: Final = (
    b"Connection: close", b"Connection: upgrade\r\nUpgrade: websocket", b"Expect: 100-continue",
    b"Max-Forwards: 0", b"Host: b.example", b"X : 1", b"X: a\r\n folded", b"Content-Length: 0",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Content-Length: +1",
    b"X: a\x00b", b"no colon",
)  # fmt: skip
TARGETS: Final = (
    b"/", b"/a?b=c&d", b"/api", b"/api/x%20y", b"//double", b"http://a.example/abs", b"*",
    b"/%00", b"/" + b"long" * 100, b"/moved/x",
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    method = draw(
        st.sampled_from([b"GET", b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS"])
        | st.sampled_from([b"PATCH", b"TRACE", b"BREW", b"get", b"CONNECT"])
    )
    lines = draw(st.lists(st.sampled_from(LINES), max_size=5))
    if draw(st.integers(0, 5)) == 5:
        lines.insert(0, draw(st.sampled_from(ODD)))
    body = draw(st.sampled_from([b"", b"", b"x", b"hello" * 50, b"GET / HTTP/1.1\r\n\r\n"]))
    framing = draw(st.sampled_from(["none", "none", "length", "length", "chunked"]))
    if framing == "none":
        body = b""
    elif framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    else:
        lines.append(b"Transfer-Encoding: chunked")
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\nX-Sum: 1\r\n\r\n"
    version = draw(st.sampled_from([b"1.1"] * 7 + [b"1.0"]))
    target = draw(st.sampled_from([b"/", b"/"]) | st.sampled_from(TARGETS))
    host = draw(st.sampled_from(["Host: a.example"] * 6 + ["hOsT:a.example:80", "Host:", "X: 1"]))
    start = method + b" " + target + b" HTTP/" + version
    again = draw(st.sampled_from([1, 1, 2]))
    return (head(start, host, *lines) + body) * again


@st.composite
def answers(draw: st.DrawFn) -> Steps:
    status = draw(
        st.sampled_from([b"200 OK", b"200 OK", b"200 OK", b"404 Not Found", b"204 No Content"])
        | st.sampled_from([b"304 Not Modified", b"500 Oops", b"503 Busy", b"299", b"206 Part"])
    )
    fields = draw(
        st.lists(
            st.sampled_from(
                [
                    b"Server: app", b"Date: Sun, 06 Nov 1994 08:49:37 GMT", b"Set-Cookie: a=1",
                    b"Set-Cookie: b=2", b'ETag: "a"', b"Content-Type: text/plain", b"X-Hop: 1",
                    b"Connection: x-hop", b"Keep-Alive: timeout=5", b"Via: 1.1 app", b"X-\xe9: 1",
                    b"X: \xe9", b"Trailer: X-Sum", b"Vary: *",
                ]
            ),
            max_size=4,
        )
    )  # fmt: skip
    interim = draw(
        st.sampled_from(
            [b""] * 8 + [head("HTTP/1.1 103 Early Hints", "Link: </a>"), head("HTTP/1.1 100 Go")]
        )
    )
    body = draw(st.sampled_from([b"", b"ok", b"text " * 300, b"0123456789" * 7000]))
    framing = draw(st.sampled_from(["length"] * 4 + ["chunked"] * 2 + ["close"]))
    version = draw(st.sampled_from([b"1.1"] * 7 + [b"1.0"]))
    if framing != "length":
        body = body[:4000]  # where a longer one is cut into chunks, and so its bytes, is chance
    if framing == "chunked":
        fields.append(b"Transfer-Encoding: chunked")
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\nX-Sum: 1\r\n\r\n"
    elif framing == "length":
        fields.append(b"Content-Length: %d" % len(body))
    whole = interim + head(b"HTTP/" + version + b" " + status, *fields)
    if not status.startswith((b"204", b"304")):
        whole += body
    shares = draw(st.lists(st.floats(0, 0.999), max_size=2))
    if framing == "close":
        return steps(whole, shares, Do.CLOSE)
    if draw(st.integers(0, 5)) == 5:
        cut = int(draw(st.floats(0, 0.999)) * len(whole))
        return steps(whole[:cut], shares, draw(st.sampled_from([Do.CLOSE, Do.RESET])))
    return steps(whole, shares, None)


SETTINGS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {},
    {"trusted_proxies": ("127.0.0.0/8",)},
    {"underscores": "drop"},
    {"limits": LimitsConfig(requests_per_connection=2, body_bytes=100)},
    {"service": {"compression": {"enabled": True, "min_bytes": 10}}},
    {"service": {"sticky": {"cookie": "lbctl"}}},
    {"service": {"retry": {"on_status": (503,)}}},
    {"service": {"adaptive": {"enabled": True}, "breaker": {"enabled": True}}},
    {"max_in_flight": 1},
    {
        "routes": (
            RouteConfig(path="/moved", redirect="https://new.example{target}"),
            RouteConfig.model_validate(
                {
                    "path": "/api",
                    "service": "web",
                    "strip_path": True,
                    "request": {"remove": ["Cookie", "X-Request-Id"], "add": {"X-Edge": "1"}},
                    "response": {"remove": ["Server"], "set": {"X-Edge": "1"}},
                }
            ),
            RouteConfig(service="web"),
        )
    },
)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    several = draw(st.lists(requests(), min_size=1, max_size=3))
    # The backend of these stories takes what follows an upgrade for a tunnel's bytes, and no answer
    # would ever come.
    last = next((at for at, one in enumerate(several) if b"websocket" in one), len(several))
    sent = b"".join(several[: last + 1])
    shares = draw(st.just([]) | st.lists(st.floats(0, 0.999), max_size=3))
    answered = draw(st.lists(st.just(OK) | answers(), max_size=4))
    return Story(pieces(sent, shares), tuple(answered), draw(st.sampled_from(SETTINGS)))


@EXAMPLES
@given(stories())
@example(Story((get() * 3,)))
@example(Story((get() * 2, get()), (OK, (Do.READ_BODY, Do.RESET))))
def test_any_story(runner: asyncio.Runner, story: Story) -> None:
    runner.run(both(story))


# ── the corpus of the fuzzer ──────────────────────────────────────────────────────────────────────


async def test_every_request_of_the_corpus() -> None:
    carried = 0
    for data in REQUESTS + LIES:
        carried += await both(Story((data,)))
    assert carried >= 5, "the plain ones are for the fast lane"


async def test_every_answer_of_the_corpus() -> None:
    carried = 0
    for data in ANSWERS + ANSWER_LIES:
        # whatever it lacks, its connection's end tells
        ends = Do.CLOSE if b"until the end" in data or data in ANSWER_LIES else None
        carried += await both(Story((get(),), (steps(data, [], ends),)))
        carried += await both(Story((request("HEAD"),), (steps(data, [], Do.CLOSE),)))
    assert carried >= 12, "and so are most answers"


async def test_spoiled_requests_in_any_pieces() -> None:
    for number in range(60):
        chance = random.Random(f"lanes:{number}")
        data = drawn(chance, REQUESTS + LIES)
        cut = cuts(chance, data)
        await both(Story(tuple(cut) if len(cut) < 10 else (data[:30], data[30:])))


CHUNKED: Final = answer("Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n")
TEXT: Final = steps(
    answer("Content-Type: text/plain", "Content-Length: 1500", body=b"text " * 300), [], None
)
GZIP: Final = {"compression": {"enabled": True, "min_bytes": 10}}


# ── what is common is carried by the lane ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("story", "fast"),
    [
        (Story((get() * 5,)), 5),
        (Story((get(), get("Cookie: a=b"), get())), 3),
        (Story((request("HEAD") + get(),), (steps(answer("Content-Length: 9"), [], None),)), 2),
        (Story((post("Content-Length: 5", body=b"hello") * 2,)), 2),
        (Story((get("Connection: close"),)), 1),
        (Story((get(),), (steps(answer(status="204 No Content"), [], None),)), 1),
        (Story((get(),), (steps(answer("Content-Length: 9", status="304 N"), [], None),)), 1),
        (Story((get(),), (steps(CHUNKED, [], None),)), 1),
        (Story((get(),), (steps(answer("Content-Length: 2", body=b"ok"), [0.3, 0.9], None),)), 1),
        (Story((get() * 3,), settings={"limits": {"requests_per_connection": 2}}), 2),
        (Story((get("Accept-Encoding: gzip"),), (TEXT,), {"service": GZIP}), 1),
        (Story((get() * 2,), settings={"service": {"sticky": {"cookie": "lbctl"}}}), 2),
        (Story((get() * 2,), settings={"service": {"adaptive": {"enabled": True}}}), 2),
        (Story((get() * 2,), settings={"service": {"breaker": {"enabled": True}}}), 2),
        (Story((get() * 2,), settings={"service": {"policy": "round_robin"}}), 2),
    ],
)  # fmt: skip
async def test_it_is_carried(story: Story, fast: int) -> None:
    assert await both(story) == fast


@pytest.mark.parametrize(
    "story",
    [
        Story((head("GET / HTTP/1.0"),)),
        Story((post("Transfer-Encoding: chunked", body=b"0\r\n\r\n"),)),
        Story((post("Expect: 100-continue", "Content-Length: 1", body=b"x"),)),
        Story((head("CONNECT a:80 HTTP/1.1", "Host: a"),)),
        Story((request("TRACE", "Max-Forwards: 0"),)),
        Story((get(),), (steps(answer(body=b"until the end"), [], Do.CLOSE),)),
        Story((get(),), (steps(answer("Connection: close", "Content-Length: 0"), [], None),)),
        Story((get(),), (steps(head("HTTP/1.1 103 Hints") + answer(status="204 N"), [], None),)),
        Story((get(),), (steps(answer("Content-Length: 2", body=b"oktoo much"), [], None),)),
        Story((get(),), (steps(b"no HTTP\r\n\r\n", [], None),)),
        Story((get(),), ((Do.READ_BODY, Do.RESET), (Do.READ_BODY, Do.RESET))),
        Story((post("Content-Length: 1", body=b"x"),), ((Do.READ_BODY, Do.CLOSE),)),
        Story((get(),), (steps(answer("Content-Length: 9", body=b"half"), [], Do.RESET),)),
    ],
)  # fmt: skip
async def test_it_is_left_to_the_other(story: Story) -> None:
    assert await both(story) == 0


# ── the bytes themselves ──────────────────────────────────────────────────────────────────────────


async def test_the_same_head_of_another_client_is_told_as_that_client() -> None:
    """What is remembered of an answer is the backend connection's: it says nothing of who asked."""
    first = get("X-Request-Id: one", "Cookie: secret=1", "X-Forwarded-For: 192.0.2.1")
    second = get("X-Request-Id: two", "X-Forwarded-For: 192.0.2.2")
    trusted = {"trusted_proxies": ("127.0.0.0/8",)}
    assert await both(Story((first + second + first,), settings=trusted)) == 3
