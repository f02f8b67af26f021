"""Cases of field lines: what passes as it is, and the lines that two readers could read as two."""

from __future__ import annotations

from typing import Any

from tests.conformance.case import Arrival, Case, get, passed, refused


def _as_is(name: str, rfc: str, *lines: str, **has: str | tuple[str, ...]) -> Case:
    return passed(f"field: {name}", rfc, get(*lines), backend=(Arrival(has=has),))


def _bad(name: str, *lines: str, rfc: str = "9112 §5", **rest: Any) -> Case:
    return refused(f"field: {name}", rfc, get(*lines), **rest)


_PASS = (
    _as_is("whitespace around a value is not part of it", "9112 §5.1", "X: \t two  words \t ",
           X="two  words"),
    _as_is("no whitespace is needed", "9112 §5.1", "X:1", X="1"),
    _as_is("an empty value passes", "9110 §5.5", "X:", X=""),
    _as_is("a value of spaces is empty", "9110 §5.5", "X:   ", X=""),
    _as_is("a tab within a value", "9110 §5.5", "X: a\tb", X="a\tb"),
    _as_is("bytes above 127 pass as they are", "9110 §5.5", "X: caf\xe9 \xff\x80",
           X="caf\xe9 \xff\x80"),
    _as_is("a name of every character of a token", "9110 §5.6.2", "!#$%&'*+-.^`|~0Az: 1",
           **{"!#$%&'*+-.^`|~0Az": "1"}),
    _as_is("colons in a value", "9110 §5.5", "X: a:b: c", X="a:b: c"),
    _as_is("quotes and commas", "9110 §5.6", 'X: "a, b", (c)', X='"a, b", (c)'),
    _as_is("several of a name keep their order", "9110 §5.3", "X: 1", "Y: 2", "x: 3",
           X=("1", "3"), Y="2"),
    _as_is("Cookie passes", "6265 §5.4", "Cookie: a=1; b=2", Cookie="a=1; b=2"),
    _as_is("Range and conditions pass", "9110 §13", "Range: bytes=0-1", 'If-None-Match: "x"',
           Range="bytes=0-1", **{"If-None-Match": '"x"'}),
    _as_is("Accept-Encoding passes", "9110 §12.5.3", "Accept-Encoding: br, gzip",
           **{"Accept-Encoding": "br, gzip"}),
    _as_is("Authorization passes", "9110 §11.6.2", "Authorization: Basic eA==",
           Authorization="Basic eA=="),
)  # fmt: skip

_NAMES = (
    _bad("a space before the colon", "X : 1", rfc="9112 §5.1"),
    _bad("a tab before the colon", "X\t: 1", rfc="9112 §5.1"),
    _bad("a space within the name", "X Y: 1"),
    _bad("no colon", "X"),
    _bad("no name", ": 1"),
    _bad("nothing but a colon", ":"),
    _bad("NUL in the name", "X\x00: 1"),
    _bad("a control character in the name", "X\x01: 1"),
    _bad("DEL in the name", "X\x7f: 1"),
    _bad("a byte above 127 in the name", "X\xe9: 1"),
    _bad("a bracket in the name", "X(y): 1"),
    _bad("a slash in the name", "X/y: 1"),
    _bad("an at sign in the name", "X@y: 1"),
    _bad("quotes around the name", '"X": 1'),
    _bad("braces around the name", "{X}: 1"),
    _bad("a semicolon in the name", "X;y: 1"),
    _bad("a no-break space at the end of the name", "X\xa0: 1"),
)

_VALUES = (
    _bad("NUL in a value", "X: a\x00b", rfc="9110 §5.5"),
    _bad("NUL alone", "X: \x00", rfc="9110 §5.5"),
    _bad("a bell in a value", "X: a\x07b", rfc="9110 §5.5"),
    _bad("a vertical tab in a value", "X: a\x0bb", rfc="9110 §5.5"),
    _bad("a form feed at the end", "X: a\x0c", rfc="9110 §5.5"),
    _bad("an escape", "X: \x1b[31m", rfc="9110 §5.5"),
    _bad("DEL in a value", "X: a\x7fb", rfc="9110 §5.5"),
)

_FOLDED = (
    _bad("folded with a space", "X: 1", " 2", rfc="9112 §5.2"),
    _bad("folded with a tab", "X: 1", "\t2", rfc="9112 §5.2"),
    _bad("folded to nothing", "X: 1", " ", rfc="9112 §5.2"),
    _bad("a name hidden by a fold", "X: 1", " Transfer-Encoding: chunked", rfc="9112 §5.2"),
    _bad("a fold after an empty value", "X:", " 2", rfc="9112 §5.2"),
)

_LINE_ENDS = (
    refused("line end: LF after a field", "9112 §2.2",
            b"GET / HTTP/1.1\r\nHost: a.example\nX: 1\r\n\r\n"),
    refused("line end: LF everywhere", "9112 §2.2", b"GET / HTTP/1.1\nHost: a.example\n\n"),
    refused("line end: LF for the empty line", "9112 §2.2",
            b"GET / HTTP/1.1\r\nHost: a.example\r\n\n"),
    refused("line end: LF, then CR LF", "9112 §2.2", b"GET / HTTP/1.1\r\nHost: a.example\n\r\n"),
    refused("line end: CR after a field", "9112 §2.2",
            b"GET / HTTP/1.1\r\nHost: a.example\rX: 1\r\n\r\n"),
    refused("line end: CR within a value", "9112 §2.2", get("X: a\rb")),
    refused("line end: CR at a value's end", "9112 §2.2", get("X: a\r")),
    refused("line end: CR alone before the empty line", "9112 §2.2", get("\r")),
    refused("line end: CR within a name", "9112 §2.2", get("X\rY: 1")),
    refused("line end: a field hidden behind CR", "9112 §2.2",
            get("X: a\rTransfer-Encoding: chunked")),
    refused("line end: a field hidden behind LF", "9112 §2.2",
            get("X: a\nContent-Length: 5") + b"hello"),
    refused("line end: a whole request behind LF LF", "9112 §2.2",
            get("X: a\n\nGET /secret HTTP/1.1\r\nHost: a.example")),
)  # fmt: skip


_UNDERSCORES = (
    passed("underscores: X_Forwarded_For is not passed", "ours", get("X_Forwarded_For: 6.6.6.6"),
           backend=(Arrival(lacks=("X_Forwarded_For",),
                            ours={"X-Forwarded-For": "127.0.0.1"}),)),
    passed("underscores: _ for one of two - is enough", "ours", get("X_Forwarded-Proto: https"),
           backend=(Arrival(lacks=("X_Forwarded-Proto",), ours={"X-Forwarded-Proto": "http"}),)),
    passed("underscores: Content_Length frames nothing and is not passed", "ours",
           get("Content_Length: 5"), backend=(Arrival(lacks=("Content_Length",)),)),
    passed("underscores: Transfer_Encoding frames nothing and is not passed", "ours",
           get("Transfer_Encoding: chunked"), backend=(Arrival(lacks=("Transfer_Encoding",)),)),
    passed("underscores: X_Request_Id is not passed", "ours", get("X_Request_Id: 1"),
           backend=(Arrival(lacks=("X_Request_Id",)),)),
    passed("underscores: a name that means nothing with - passes", "ours", get("Plain_Name: 1"),
           backend=(Arrival(has={"Plain_Name": "1"}),)),
    passed("underscores: drop takes them all", "ours", get("Plain_Name: 1", "Plain-Name: 2"),
           settings={"underscores": "drop"}, alone="it is about a setting of ours",
           backend=(Arrival(has={"Plain-Name": "2"}, lacks=("Plain_Name",)),)),
    passed("underscores: pass takes none", "ours", get("X_Forwarded_For: 6.6.6.6"),
           settings={"underscores": "pass"}, alone="it is about a setting of ours",
           backend=(Arrival(has={"X_Forwarded_For": "6.6.6.6", "X-Forwarded-For": "127.0.0.1"}),)),
)  # fmt: skip

CASES = (*_PASS, *_NAMES, *_VALUES, *_FOLDED, *_LINE_ENDS, *_UNDERSCORES)
