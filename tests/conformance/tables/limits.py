"""Cases of sizes: what just fits passes, what is more is refused, and what never ends does too."""

from __future__ import annotations

from typing import Final

from lb.config import LimitsConfig
from tests.conformance.case import Arrival, Case, Do, End, Reply, get, head, passed, post, refused

_LIMITS: Final = LimitsConfig()
_OWN: Final = "its size is each one's own matter"
_LONGEST: Final = "/" + "x" * (_LIMITS.target_bytes - 1)


def _fields(number: int) -> list[str]:
    return [f"X-{n}: {n}" for n in range(number)]


def _small(**limits: int) -> dict[str, LimitsConfig]:
    return {"limits": LimitsConfig(**limits)}


CASES: tuple[Case, ...] = (
    passed("limit: a target of 8192 bytes", "9112 §3", get(target=_LONGEST),
           backend=(Arrival(target=_LONGEST),)),
    refused("limit: a target of 8193 bytes", "9112 §3", get(target=_LONGEST + "x"),
            status=414, alone=_OWN),
    refused("limit: a target of 60,000 bytes", "9112 §3", get(target="/" + "x" * 60_000),
            status=414, alone=_OWN),
    refused("limit: a target without end", "9112 §3", b"GET /" + b"x" * 100_000, status=414,
            alone=_OWN),
    refused("limit: a method without end", "9112 §3", b"G" * 100_000, status=414, alone=_OWN),
    passed("limit: 128 fields", "ours", get(*_fields(127)),
           backend=(Arrival(has={"X-126": "126"}),)),
    refused("limit: 129 fields", "6585 §5", get(*_fields(128)), status=431, alone=_OWN),
    refused("limit: 129 fields of one name", "6585 §5", get(*(["X: 1"] * 128)), status=431,
            alone=_OWN),
    passed("limit: a value of 60,000 bytes", "ours", get("X: " + "x" * 60_000),
           backend=(Arrival(has={"X": "x" * 60_000}),)),
    passed("limit: a name of 1,000 bytes", "ours", get("X" * 1000 + ": 1"),
           backend=(Arrival(has={"X" * 1000: "1"}),)),
    refused("limit: a value of 66,000 bytes", "6585 §5", get("X: " + "x" * 66_000), status=431,
            alone=_OWN),
    refused("limit: a value without end", "6585 §5",
            b"GET / HTTP/1.1\r\nHost: a.example\r\nX: " + b"x" * 100_000, status=431, alone=_OWN),
    refused("limit: a name without end", "6585 §5",
            b"GET / HTTP/1.1\r\nHost: a.example\r\n" + b"X" * 100_000, status=431, alone=_OWN),
    refused("limit: fields without end", "6585 §5",
            b"GET / HTTP/1.1\r\nHost: a.example\r\n" + b"X: 1\r\n" * 20_000, status=431,
            alone=_OWN),
    refused("limit: 70,000 bytes of head, many fields", "6585 §5",
            get(*(f"X-{n}: " + "x" * 700 for n in range(100))), status=431, alone=_OWN),
    refused("limit: a second head too long", "6585 §5",
            get(), get("X: " + "x" * 70_000), status=431, alone=_OWN,
            after=(Reply(200, b"ok"),), backend=(Arrival(),)),
    passed("limit: a thousand empty lines before a request", "9112 §2.2", b"\r\n" * 1000 + get(),
           alone="one is to be skipped; how many more is each one's own matter"),
    refused("limit: a body longer than allowed", "9110 §15.5.14",
            post("Content-Length: 6", body=b"hello!"), status=413, settings=_small(body_bytes=5),
            alone=_OWN),
    refused("limit: a body longer than allowed is refused before it comes", "9110 §15.5.14",
            post("Content-Length: 1000000"), status=413, settings=_small(body_bytes=5),
            alone=_OWN),
    passed("limit: a body as long as allowed", "9110 §15.5.14",
           post("Content-Length: 5", body=b"hello"), settings=_small(body_bytes=5), alone=_OWN,
           backend=(Arrival("POST", body=b"hello"),)),
    refused("limit: a chunked body longer than allowed", "9110 §15.5.14",
            post("Transfer-Encoding: chunked", body=b"6\r\nhello!\r\n0\r\n\r\n"), status=413,
            settings=_small(body_bytes=5), alone=_OWN),
    passed("limit: a chunked body as long as allowed", "9110 §15.5.14",
           post("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), alone=_OWN,
           settings=_small(body_bytes=5), backend=(Arrival("POST", body=b"hello"),)),
    passed("limit: the last request of a connection", "9112 §9.6", get(), get(target="/2"),
           settings=_small(requests_per_connection=2), end=End.CLOSED, alone=_OWN,
           client=(Reply(200, b"ok", lacks=("Connection",)),
                   Reply(200, b"ok", has={"Connection": "close"})),
           backend=(Arrival(), Arrival(target="/2"))),
    passed("limit: what is pipelined behind the last request is not read", "9112 §9.6",
           get() + get(target="/2"), settings=_small(requests_per_connection=1), alone=_OWN,
           client=(Reply(200, b"ok", has={"Connection": "close"}),), end=End.CLOSED),
    passed("limit: an empty connection is no fault", "9112 §9.8", Do.HALF_CLOSE, client=(),
           backend=(), end=End.CLOSED),
    passed("limit: a head that ends before it is whole", "9112 §8",
           b"GET / HTTP/1.1\r\nHost: a.exa", Do.HALF_CLOSE, client=(), backend=(),
           end=End.CLOSED),
    passed("limit: a small head limit holds", "ours", get("X: " + "x" * 2000), alone=_OWN,
           settings=_small(head_bytes=1024), client=(Reply(431),), backend=(), end=End.CLOSED),
    passed("limit: a head arrives byte by byte", "9112 §2.2",
           *(b"%c" % byte for byte in head("GET / HTTP/1.1", "Host: a.example"))),
)  # fmt: skip
