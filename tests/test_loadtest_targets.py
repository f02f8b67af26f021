"""Files of requests: what is read from each kind, where it says something is wrong, and the mix."""

from __future__ import annotations

import base64
import json
from collections import Counter
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.access_line import Entry, as_json, combined, common
from loadtest import engine
from loadtest.asked import what
from loadtest.errors import InputError
from loadtest.mix import Ask, Mix, Origin, Rotation
from loadtest.plan import Plan
from loadtest.request import Target
from loadtest.target import Settings
from loadtest.targets import Targets, read_targets
from loadtest.timeline import Share
from tests.loadtest_servers import OK, Peer, serving


def read(folder: Path, text: str | bytes, kind: str = "auto") -> Targets:
    file = folder / "targets"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_targets(file, kind)


# ── what is read ─────────────────────────────────────────────────────────────────────────────────


def test_the_form_of_vegeta(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_bytes(b'{"n": 1}')
    found = read(
        tmp_path,
        "# a comment\n\nGET http://a.test/1\nX-A: 1\n# another\nX-B:two: three \n"
        "HEAD http://a.test/2 weight=2.5\n\n"
        "POST http://b.test/orders\nContent-Type: application/json\n@order.json\n"
        "GET /relative\n",
    )
    assert found.kind == "http"
    name = f"{tmp_path}/targets"
    assert found.asks == (
        Ask("GET", "http://a.test/1", (("X-A", "1"), ("X-B", "two: three")), where=f"{name}:3"),
        Ask("HEAD", "http://a.test/2", weight=2.5, where=f"{name}:7"),
        Ask(
            "POST", "http://b.test/orders", (("Content-Type", "application/json"),),
            b'{"n": 1}', where=f"{name}:9",
        ),
        Ask("GET", "/relative", where=f"{name}:12"),
    )  # fmt: skip


def test_its_form_of_an_object_a_line(tmp_path: Path) -> None:
    body = base64.b64encode(b"\x00hi").decode()
    lines = [
        {"method": "POST", "url": "http://a.test/", "header": {"X": ["1", "2"]}, "body": body},
        {"url": "http://a.test/x", "weight": 3},
    ]
    found = read(tmp_path, "\n\n".join(json.dumps(line) for line in lines))
    assert found.kind == "jsonl"
    first, second = found.asks
    assert (first.method, first.headers, first.body) == ("POST", (("X", "1"), ("X", "2")), b"\0hi")
    assert (second.method, second.weight) == ("GET", 3)


ENTRY = Entry(0.0, "::1", "GET", b"/a?q=1", (1, 1), 200, 5, 0, 0.01, user=b"x y", referer=b'"')
ENTRIES = [
    ENTRY,
    Entry(1.0, "::1", "POST", b"/buy", (1, 1), 201, 5, 9, 0.01),
    Entry(2.0, "::1", "", b"", (0, 0), 400, 5, 0, 0.01),
    Entry(3.0, "::1", "HEAD", b'/"odd\xff\xc3\xbc', (1, 1), 200, 0, 0, 0.01),
    Entry(4.0, "::1", "OPTIONS", b"*", (1, 1), 200, 0, 0, 0.01),
]


@pytest.mark.parametrize("form", [as_json, common, combined])
def test_our_own_access_log_in_each_of_its_forms(tmp_path: Path, form: object) -> None:
    lines = [
        as_json(entry) if form is as_json
        else (common if form is common else combined)(entry, UTC)
        for entry in ENTRIES
    ]  # fmt: skip
    found = read(tmp_path, b"".join(lines))
    assert found.kind == "log"
    assert [(ask.method, ask.url) for ask in found.asks] == [
        ("GET", "/a?q=1"),
        # A JSON line tells UTF-8 from what is none, the others all bytes alike.
        ("HEAD", "/%22odd%FF%C3%BC".replace("%22", '"' if form is as_json else "%22")),
    ]
    assert found.skipped == {
        "are POST, whose body a log does not hold": 1,
        "hold no request": 1,
        "ask for something without a path": 1,
    }
    mix = Mix.of(found.asks, base=Target.parse("http://127.0.0.1:81"))
    assert mix.requests[1].data.startswith(
        b"HEAD /%22odd%FF%C3%BC HTTP/1.1\r\nHost: 127.0.0.1:81\r\n"
    )


def test_apaches_and_nginxs_lines(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        '1.2.3.4 - bob [10/Oct/2000:13:55:36 -0700] "GET /a\\"b HTTP/1.0" 200 2326\n'
        '::1 - - [10/Oct/2000:13:55:36 -0700] "GET /c HTTP/2.0" 304 - "http://x/" "curl/8"\n'
        '::1 - - [10/Oct/2000:13:55:36 -0700] "\\x16\\x03\\x01" 400 150 "-" "-"\n',
    )
    assert [ask.url for ask in found.asks] == ['/a\\"b', "/c"]
    assert found.skipped == {"hold no request": 1}


def test_a_har(tmp_path: Path) -> None:
    post: dict[str, Any] = {
        "method": "POST", "url": "http://a.test/p?q#frag",
        "headers": [
            {"name": ":authority", "value": "a.test"}, {"name": "Host", "value": "a.test"},
            {"name": "content-length", "value": "2"}, {"name": "X-A", "value": "1"},
        ],
        "postData": {"mimeType": "text/plain", "text": "hü"},
    }  # fmt: skip
    form: dict[str, Any] = {
        "mimeType": "application/x-www-form-urlencoded; charset=utf-8",
        "params": [{"name": "a b", "value": "ü&="}, {"name": "c"}],
    }
    entries = [
        {"request": post},
        {"request": {"method": "GET", "url": "data:,x"}},
        {"request": {**post, "url": "http://a.test/form", "postData": form}},
        {"request": {**post, "postData": {**form, "mimeType": "multipart/form-data"}}},
        {"request": {"method": "GET", "url": "data:,y"}},
        {"request": {"method": "GET", "url": "https://b.test/", "headers": []}},
    ]
    for indent in (None, 1):
        found = read(tmp_path, json.dumps({"log": {"entries": entries}}, indent=indent))
        assert found.kind == "har"
        first, posted, second = found.asks
        assert (posted.url, posted.body) == ("http://a.test/form", b"a+b=%C3%BC%26%3D&c=")
        assert found.unit == "entries"
        assert found.skipped == {
            "are data:, not http": 2,
            "hold a form's fields, but not the body they were sent in": 1,
        }
        assert (first.method, first.url, first.headers, first.body) == (
            "POST", "http://a.test/p?q", (("X-A", "1"),), "hü".encode(),
        )  # fmt: skip
        assert second.url == "https://b.test/"
    mix = Mix.of(found.asks)
    assert mix.origins == (Origin("http", "a.test", 80), Origin("https", "b.test", 443))
    assert mix.method == "mixed"


# ── where it is wrong ────────────────────────────────────────────────────────────────────────────

LOG = '::1 - - [10/Oct/2000:13:55:36 -0700] "GET /c HTTP/1.1" 200 5\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no request in it"),
        ("GET http://a.test/\nGET http://a.test/ 3\n", "targets:2:1: write METHOD URL"),
        ("GET http://a.test/ weight=0\n", "targets:1:27: weight '0'"),
        ("GET http://a.test/\nno header\n", "targets:2:1: neither 'Name: value'"),
        ("GET http://a.test/\n@none.json\n", "targets:2:2: "),
        ('{"url": "http://a.test/"}\n{"url": }\n', "targets:2:9: Expecting value"),
        ('{"url": "http://a.test/"}\n[]\n', "targets:2:1: not an object"),
        ('{"url": 5}\n', 'targets:1:1: it needs a "url"'),
        ('{"url": "/", "header": {"X": [5]}}\n', "targets:1:1: header 'X'"),
        ('{"url": "/", "header": []}\n{"url": "/", "header": [1]}\n', 'targets:2:1: "header"'),
        ('{"url": "/", "body": "?"}\n', 'targets:1:1: "body" is not base64'),
        ('{"url": "/", "weight": -1}\n', "targets:1:1: weight -1"),
        (LOG + "::1 - - oops\n", "targets:2:1: not a line of an access log"),
        (LOG + LOG.replace("200", "OK"), "targets:2:37: not \"METHOD"),
        (LOG.replace("GET", "POST"), "1 lines are POST, whose body a log does not hold"),
        ('{"method": "GET", "target": "/"}\n{"method": "GET"}\n', "targets:2:1: not a line of lb"),
        ('{"method": "GET", "target": "/"}\n{"method\n', "targets:2:2: "),
        ('{"log": {\n "entries": [,]}}', "targets:2:14: Expecting value"),
        ('{"log": {}}', "targets:1:1: not a HAR file"),
        ('{"log": {"entries": [{"request": {}}]}}', "targets: entry 1: not a HAR entry's request"),
        (
            '{"log": {"entries": [{"request": {"method": "GET", "url": "http://a/", "headers": [],'
            ' "postData": {"encoding": "base64", "text": "?"}}}]}}',
            "targets: entry 1: its body is not base64",
        ),
    ],
)  # fmt: skip
def test_a_bad_file_says_where(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as wrong:
        read(tmp_path, text)
    assert says in str(wrong.value)


def test_what_cannot_be_sent_says_where_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: No such file"):
        read_targets(tmp_path / "none")
    for text, says in (
        ("GET http://a.test/\nGET ftp://a.test/\n", r"targets:2: URL 'ftp"),
        ("GET /a\n", r"targets:1: URL '/a' names no server"),
        ("GET http://a.test/\nContent-Length: 3\n", r"targets:1: header 'Content-Length'"),
    ):
        with pytest.raises(InputError, match=says):
            Mix.of(read(tmp_path, text).asks)
    file = str(tmp_path / "targets")
    with pytest.raises(InputError, match="leave out --method"):
        what(None, tmp_path / file, "auto", "POST", (), None)
    with pytest.raises(InputError, match="leave out the path"):
        what("http://a.test/x", tmp_path / file, "auto", None, (), None)
    with pytest.raises(InputError, match="URL ''"):
        Settings(plan=Plan.constant(1, 1), **what(None, None, "auto", None, (), None))


async def test_a_name_that_does_not_resolve_says_where_it_stands(tmp_path: Path) -> None:
    found = read(tmp_path, "GET http://127.0.0.1:9/\nGET http://no-such-host.invalid/\n")
    made = Settings("x", Plan.constant(10, 1), mix=Mix.of(found.asks))
    with pytest.raises(InputError, match=r"targets:2: host 'no-such-host\.invalid' does not"):
        await engine.run(made)


# ── the mix ──────────────────────────────────────────────────────────────────────────────────────


def mixed(weights: list[float]) -> Mix:
    return Mix.of([Ask("GET", f"http://a.test/{n}", weight=w) for n, w in enumerate(weights)])


def paths(mix: Mix, count: int, share: Share | None = None) -> list[int]:
    rotation = Rotation(mix, share or Share())
    return [int(rotation.next().data.split(b" ")[1][1:]) for _ in range(count)]


def test_without_weights_the_order_is_the_files_over_and_over() -> None:
    asks = [Ask("GET", f"http://a.test/{n}") for n in (3, 1, 3, 2)]
    mix = Mix.of(asks)
    assert len(mix.requests) == 3
    assert paths(mix, 9) == [3, 1, 3, 2, 3, 1, 3, 2, 3]


def test_the_rare_one_comes_in_the_middle_of_its_stretch() -> None:
    assert paths(mixed([3.0, 1.0]), 8) == [0, 0, 1, 0, 0, 0, 1, 0]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_weights_hold_in_every_stretch(weights: list[int]) -> None:
    mix = mixed([float(weight) for weight in weights])
    whole = sum(weights)
    sent = paths(mix, 3 * whole)
    for length in range(1, 3 * whole + 1):
        counts = Counter(sent[:length])
        for place, weight in enumerate(weights):
            assert abs(counts[place] - length * weight / whole) < len(weights)
    assert Counter(sent) == {place: 3 * weight for place, weight in enumerate(weights)}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 4))
def test_workers_together_ask_what_one_would(weights: list[int], workers: int) -> None:
    mix = mixed([float(weight) for weight in weights])
    alone = paths(mix, 60)
    for k in range(workers):
        part = alone[k::workers]
        assert paths(mix, len(part), Share(k, workers)) == part


def test_headers_for_all_give_way_to_a_requests_own() -> None:
    asks = [Ask("GET", "http://a.test/", (("X-A", "own"),)), Ask("GET", "http://a.test/")]
    mix = Mix.of(asks, (("x-a", "all"), ("Host", "b.test")))
    assert [request.data.count(b"all") for request in mix.requests] == [0, 1]
    assert all(b"Host: b.test\r\n" in request.data for request in mix.requests)
    assert all(b"a.test" not in request.data for request in mix.requests)


async def test_each_goes_to_its_own_server_with_its_own_method(tmp_path: Path) -> None:
    seen: list[tuple[str, bytes]] = []

    def named(name: str):  # type: ignore[no-untyped-def]
        async def script(peer: Peer) -> None:
            while True:
                head = await peer.request()
                seen.append((name, head.partition(b" HTTP")[0]))
                await peer.answer(OK[:-2] if head.startswith(b"HEAD") else OK)

        return script

    async with serving(named("a")) as a, serving(named("b")) as b:
        found = read(tmp_path, f"GET {a}x weight=2\nHEAD {b}y\nGET {b}z\n")
        mix = Mix.of(found.asks)
        made = Settings("x", Plan.parse("p=80@200ms"), timeout=30.0, mix=mix)
        result = await engine.run(made)
    assert result.counts.completed == 16
    assert result.errors == {}
    assert result.method == "mixed"
    assert Counter(seen) == {("a", b"GET /x"): 8, ("b", b"HEAD /y"): 4, ("b", b"GET /z"): 4}
