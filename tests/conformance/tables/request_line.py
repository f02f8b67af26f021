"""Cases of the request line: methods, targets, versions, and what stands before it."""

from __future__ import annotations

from typing import Any, Final

from tests.conformance.case import Arrival, Case, End, Reply, Steps, get, head, passed, refused

HOST: Final = "Host: a.example"


def line(text: str | bytes) -> bytes:
    """A request that is good but for its first line."""
    return head(text, HOST)


_BAD_LINES = (
    refused("request line: a word", "9112 §3", line("nonsense")),
    refused("request line: no version, as in HTTP/0.9", "9112 §3", line("GET /")),
    refused("request line: a version and no target", "9112 §3", line("GET HTTP/1.1")),
    refused("request line: an empty target", "9112 §3", line("GET  HTTP/1.1")),
    refused("request line: two spaces after the method", "9112 §3", line("GET  / HTTP/1.1")),
    refused("request line: two spaces before the version", "9112 §3", line("GET /  HTTP/1.1")),
    refused("request line: tabs for spaces", "9112 §3", line("GET\t/\tHTTP/1.1")),
    refused("request line: a vertical tab for a space", "9112 §3", line("GET\x0b/ HTTP/1.1")),
    refused("request line: begins with a space", "9112 §3", line(" GET / HTTP/1.1")),
    refused("request line: ends with a space", "9112 §3", line("GET / HTTP/1.1 ")),
    refused("request line: ends with a tab", "9112 §3", line("GET / HTTP/1.1\t")),
    refused("request line: a fourth word", "9112 §3", line("GET / HTTP/1.1 more")),
    refused("request line: a space in the target", "9112 §3.2", line("GET /a b HTTP/1.1")),
    refused("request line: a request in the target", "9112 §3.2",
            line("GET /x HTTP/1.1 HTTP/1.1")),
    refused("request line: NUL", "9112 §3", line("GET /\x00 HTTP/1.1")),
    refused("request line: NUL after the version", "9112 §3", line("GET / HTTP/1.1\x00")),
    refused("request line: ended by LF", "9112 §2.2",
            b"GET / HTTP/1.1\nHost: a.example\r\n\r\n"),
    refused("request line: ended by CR", "9112 §2.2",
            b"GET / HTTP/1.1\rHost: a.example\r\n\r\n"),
    refused("request line: CR CR LF", "9112 §2.2",
            b"GET / HTTP/1.1\r\r\nHost: a.example\r\n\r\n"),
    refused("request line: a bare CR in the target", "9112 §2.2", line("GET /a\rb HTTP/1.1")),
    refused("request line: a TLS hello", "9112 §3",
            b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(20) + b"\r\n\r\n"),
    refused("request line: an answer", "9112 §2.1", line("HTTP/1.1 200 OK")),
)  # fmt: skip


def _method(name: str, method: str | bytes, **rest: Any) -> Case:
    method = method if isinstance(method, bytes) else method.encode("latin-1")
    return refused(f"method: {name}", "9110 §5.6.2", line(method + b" / HTTP/1.1"), **rest)


_METHODS = (
    _method("with a slash", "GE/T"),
    _method("with an at sign", "G@T"),
    _method("with a colon", "GET:"),
    _method("with a comma", "GET,POST"),
    _method("with a bracket", "GET("),
    _method("with an equals sign", "A=B"),
    _method("in quotes", '"GET"'),
    _method("with a letter that is not ASCII", "GÉT"),
    _method("with NUL", "GE\x00T"),
    _method("with a control character", "GE\x01T"),
    _method("with DEL", "GET\x7f"),
    _method("with a byte order mark before it", b"\xef\xbb\xbfGET"),
    refused("method: none", "9112 §3.1", line("/ HTTP/1.1")),
    *(
        passed(f"method: {method} is a token and passes", "9110 §9.1",
               line(f"{method} / HTTP/1.1"), backend=(Arrival(method),))
        for method in ("PUT", "DELETE", "PATCH", "PROPFIND", "M-SEARCH")
    ),
    passed("method: every character of a token", "9110 §5.6.2",
           line("!#$%&'*+-.^_`|~09azAZ / HTTP/1.1"), backend=(Arrival("!#$%&'*+-.^_`|~09azAZ"),)),
    passed("method: case counts, get is not GET", "9110 §9.1", line("get / HTTP/1.1"),
           backend=(Arrival("get"),)),
)  # fmt: skip


def _version(version: str, status: int, why: str, **rest: Any) -> Case:
    return refused(f"version: {why}", "9112 §2.3", line(f"GET / {version}"), status=status, **rest)


_VERSIONS = (
    # RFC 9112 §2.3 would have 1.2 read as 1.1; nobody speaks it, and 505 says what we do.
    _version("HTTP/1.2", 505, "1.2"),
    _version("HTTP/1.9", 505, "1.9"),
    _version("HTTP/2.0", 505, "2.0"),
    _version("HTTP/3.0", 505, "3.0"),
    _version("HTTP/0.9", 505, "0.9"),
    _version("HTTP/9.9", 505, "9.9"),
    refused("version: the preface of HTTP/2", "9113 §3.4",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", status=505),
    _version("HTTP/1", 400, "no minor"),
    _version("HTTP/1.", 400, "an empty minor"),
    _version("HTTP/.1", 400, "an empty major"),
    _version("HTTP/1.10", 400, "a minor of two digits"),
    _version("HTTP/01.1", 400, "a major of two digits"),
    _version("HTTP/11", 400, "no dot"),
    _version("HTTP/1,1", 400, "a comma for the dot"),
    _version("HTTP/1.1x", 400, "a letter after it"),
    _version("HTTP/+1.1", 400, "a sign"),
    _version("HTTP/x.y", 400, "letters"),
    _version("http/1.1", 400, "the name in lower case"),
    _version("HTTPS/1.1", 400, "another name"),
    _version("ICY/1.1", 400, "a name of Shoutcast's"),
    _version("HTTP 1.1", 400, "a space for the slash"),
    _version("HTTP/1.\xb9", 400, "a superscript digit"),
)  # fmt: skip


def _target(name: str, target: str, arrives: str | None = None, **rest: Any) -> Case:
    """The target passes, as it is or as `arrives`."""
    return passed(
        f"target: {name}", "9112 §3.2", get(target=target),
        backend=(Arrival(target=target if arrives is None else arrives),), **rest,
    )  # fmt: skip


def _bad_target(name: str, target: str, *, rfc: str = "9112 §3.2", **rest: Any) -> Case:
    return refused(f"target: {name}", rfc, get(target=target), **rest)


_TARGETS = (
    _target("passes byte for byte", "/a/../b//c;p=1?q=%7e&x=%2F"),
    _target("an empty query keeps its mark", "/?"),
    _target("percent-encoding is not undone", "/%41%2e%2e%2f%00"),
    _target("percent signs of nothing pass", "/100%"),
    _target("two slashes are a path, no authority", "//b.example/x"),
    _target("a URL in the query is the application's", "/?u=http://b.example/"),
    _target("a colon in the path", "/a:80"),
    _bad_target("a fragment", "/x#y"),
    _bad_target("a control character", "/\x01"),
    _bad_target("DEL", "/\x7f"),
    _bad_target("a byte that is not ASCII", "/caf\xe9"),
    _bad_target("UTF-8 not percent-encoded", "/caf\xc3\xa9"),
    _bad_target("neither path nor URL", "index.html"),
    _bad_target("a query alone", "?x"),
    _bad_target("a name and port, CONNECT's form", "a.example:80", rfc="9112 §3.2.3"),
    _bad_target("* is for OPTIONS alone", "*", rfc="9112 §3.2.4"),
    _bad_target("** is not *", "**", rfc="9112 §3.2.4"),
)  # fmt: skip


def _absolute(name: str, url: str, arrives: str, host: str = "a.example", **rest: Any) -> Case:
    return passed(
        f"absolute form: {name}", "9112 §3.2.2",
        head(f"GET {url} HTTP/1.1", f"Host: {host}"),
        backend=(Arrival(target=arrives, has={"Host": host}),), **rest,
    )  # fmt: skip


_ABSOLUTE = (
    _absolute("becomes origin form", "http://a.example/p?q", "/p?q"),
    _absolute("without a path becomes /", "http://a.example", "/"),
    _absolute("a query without a path", "http://a.example?q", "/?q"),
    _absolute("the scheme in upper case", "HTTP://a.example/", "/"),
    _absolute("with a port", "http://a.example:81/p", "/p", host="a.example:81"),
    _absolute("an IPv6 address", "http://[::1]:81/p", "/p", host="[::1]:81"),
    passed("absolute form: HTTP/1.0 without Host gets one", "9112 §3.2.2",
           head("GET http://a.example/p HTTP/1.0"), end=End.CLOSED,
           backend=(Arrival(target="/p", has={"Host": "a.example"}),)),
    refused("absolute form: Host is still needed", "9112 §3.2",
            head("GET http://a.example/ HTTP/1.1")),
    refused("absolute form: another Host", "ours",
            head("GET http://a.example/ HTTP/1.1", "Host: b.example")),
    refused("absolute form: another port than Host's", "ours",
            head("GET http://a.example:81/ HTTP/1.1", "Host: a.example:82")),
    refused("absolute form: an empty Host", "ours",
            head("GET http://a.example/ HTTP/1.1", "Host:")),
    _bad_target("no authority", "http:///p", rfc="9110 §4.2.1"),
    _bad_target("nothing after the scheme", "http://", rfc="9110 §4.2.1"),
    _bad_target("user and password", "http://u:p@a.example/", rfc="9110 §4.2.4"),
    _bad_target("a scheme that is not ours", "ftp://a.example/", rfc="9112 §3.2.2"),
    _bad_target("javascript", "javascript:alert(1)", rfc="9112 §3.2.2"),
    _bad_target("a fragment in a URL", "http://a.example/#x", rfc="9112 §3.2.2"),
    _bad_target("one slash after the scheme", "http:/a.example/", rfc="9112 §3.2.2"),
)  # fmt: skip

_TWO: Steps = (get(), get(target="/b"))

_BEFORE = (
    passed("before the line: one empty line is skipped", "9112 §2.2", b"\r\n" + get()),
    passed("before the line: an empty line after a request's body", "9112 §2.2",
           _TWO[0], b"\r\n", _TWO[1], client=(Reply(200, b"ok"), Reply(200, b"ok")),
           backend=(Arrival(), Arrival(target="/b"))),
    refused("before the line: a bare LF", "9112 §2.2", b"\n" + get()),
    refused("before the line: a bare CR", "9112 §2.2", b"\r" + get()),
    refused("before the line: a space and an empty line", "9112 §2.2", b" \r\n" + get()),
    refused("before the line: NUL", "9112 §2.2", b"\x00" + get()),
    refused("after the line: a line that begins with a space", "9112 §2.2",
            head("GET / HTTP/1.1", " Host: a.example", HOST)),
    refused("after the line: a line that begins with a tab", "9112 §2.2",
            head("GET / HTTP/1.1", "\tX: 1", HOST)),
)  # fmt: skip

CASES = (*_BAD_LINES, *_METHODS, *_VERSIONS, *_TARGETS, *_ABSOLUTE, *_BEFORE)
