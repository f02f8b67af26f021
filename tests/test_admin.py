"""The admin API over real sockets: what it answers, whom it refuses, what it streams."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from autoscale.decision import Decision, Part
from autoscale.model import EventKind, Happening, Reason, ScaleEvent
from lb.admin import access, stream
from lb.admin.api import CONFIG_BYTES, AdminServer
from lb.admin.control import ScaleOrder
from lb.admin.guard import HostRule, bearer_matches
from lb.config import ConfigError
from lb.errors import ListenError
from lb.journal import Journal
from tests.fake_control import TOKEN, FakeControl

PATIENCE_S = 10.0
AUTH = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[FakeControl]:
    journal = Journal(tmp_path / "journal.db")
    journal.start()
    yield FakeControl(journal)
    await asyncio.to_thread(journal.close)


@pytest.fixture
async def server(control: FakeControl, tmp_path: Path) -> AsyncIterator[AdminServer]:
    server = AdminServer(
        control, "127.0.0.1:0", TOKEN, ["lb.example.org"], home=tmp_path, heartbeat_s=0.05
    )
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def http(server: AdminServer) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(server.url, timeout=timeout) as session:
        yield session


async def problem(response: aiohttp.ClientResponse, status: int) -> str:
    """The detail of an answer that must be a problem document."""
    assert response.status == status
    assert response.content_type == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    body = await response.json()
    assert set(body) == {"type", "title", "status", "detail"}
    assert body["status"] == status
    return str(body["detail"])


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


async def test_the_pool_has_every_field_of_the_contract(
    control: FakeControl, http: aiohttp.ClientSession
) -> None:
    control.pools["web"].apply(
        ScaleEvent(EventKind.JOIN, "web", "web-1", Reason.CPU_OVERLOAD, "127.0.0.1:4000", "local")
    )
    async with http.get("/api/v1/pool") as response:
        assert response.status == 200
        assert response.headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in response.headers
        body = await response.json()
    assert body["services"] == ["web"]
    (row,) = body["backends"]
    contract = (
        "name, address, lifecycle, healthy, weight, in_flight, requests_total, failures_total,"
        " latency_p50_s, latency_p99_s, vm"
    )
    assert set(contract.split(", ")) <= set(row)
    assert (row["service"], row["name"], row["lifecycle"]) == ("web", "web-1", "starting")
    assert row["cpu"] == 0.6


async def test_machines_hosts_and_scale(http: aiohttp.ClientSession) -> None:
    async def get(path: str) -> Any:
        async with http.get(f"/api/v1{path}") as response:
            assert response.status == 200
            return await response.json()

    (vm,) = (await get("/vms"))["vms"]
    assert vm == await get("/vms/web-1")
    assert (vm["cpu_host_ratio"], vm["cpu_vcpu_ratio"]) == (0.61, 0.52)
    assert (await get("/hosts"))["hosts"][0]["domain_type"] == "qemu"
    scale = await get("/scale/web")
    assert (scale["desired"], scale["sentence"]) == (2, "75 % is above 60 %")
    assert (await get("/scale"))["services"] == [scale]


async def test_a_machine_more_and_one_less(
    http: aiohttp.ClientSession, control: FakeControl
) -> None:
    async with http.post("/api/v1/vms", json={"service": "web"}, headers=AUTH) as response:
        assert (response.status, (await response.json())["to"]) == (202, 3)
    wrong: tuple[Any, ...] = ([], {}, {"service": 1}, {"service": "web", "count": 2})
    for body in wrong:
        async with http.post("/api/v1/vms", json=body, headers=AUTH) as response:
            assert response.status == 400
    async with http.delete("/api/v1/vms/web-1") as response:
        assert response.status == 401
    control.vm_rows.append(replace(control.vm_rows[0], name="web-2"))
    for name, status in (("web-1", 202), ("web-1", 404), ("web-2", 409)):
        async with http.delete(f"/api/v1/vms/{name}", headers=AUTH) as response:
            assert response.status == status


async def test_the_decisions_can_be_followed(
    control: FakeControl, http: aiohttp.ClientSession
) -> None:
    async def page(query: str = "") -> tuple[list[dict[str, Any]], int]:
        async with http.get(f"/api/v1/decisions{query}") as response:
            assert response.status == 200
            body = await response.json()
            return body["decisions"], body["last_id"]

    assert await page() == ([], 0)
    control.decisions.add(decided("web", 1), 1000.0)
    control.decisions.add(decided("web", 2), 1001.0)
    control.decisions.add(decided("api", 1), 1002.0)
    rows, last = await page()
    assert [(row["service"], row["desired"]) for row in rows] == [
        ("web", 1),
        ("web", 2),
        ("api", 1),
    ]
    assert rows[0]["sentence"] == "stay at 1: calm"
    assert last == rows[-1]["revision"] == rows[-1]["id"]
    assert await page(f"?since={last}") == ([], last)
    control.decisions.add(decided("web", 2), 1003.0)
    ((row,), now) = await page(f"?since={last}")
    assert (row["id"], row["count"], row["last_at"]) == (rows[1]["id"], 2, 1003.0)
    assert now == row["revision"] > last
    assert [row["desired"] for row in (await page("?service=web&limit=1"))[0]] == [2]
    for wrong in ("since=x", "since=-1", "limit=0", "limit=1001"):
        async with http.get(f"/api/v1/decisions?{wrong}") as response:
            assert "must be a whole number from" in await problem(response, 400)


def decided(service: str, desired: int) -> Decision:
    return Decision(service, 1.0, desired, desired, Reason.STEADY, told="calm")


async def test_a_decision_without_a_figure_says_null(
    control: FakeControl, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Part(Reason.LATENCY, 1, 1, {"p99_s": float("inf"), "target_s": 1.0})
    row = replace(control.scale("web"), parts=(part.as_dict(),))
    monkeypatch.setattr(control, "scale", lambda _service: row)
    async with http.get("/api/v1/scale/web") as response:
        assert json.loads(await response.text())["parts"][0]["p99_s"] is None
    control.decisions.add(Decision("web", 1.0, 1, 1, Reason.STEADY, (part,)), 1000.0)
    async with http.get("/api/v1/decisions") as response:
        (row,) = json.loads(await response.text())["decisions"]
    assert row["parts"][0]["p99_s"] is None


async def test_prometheus_finds_the_guests(
    control: FakeControl, http: aiohttp.ClientSession
) -> None:
    control.pools["web"].add_static("127.0.0.1:9")
    control.pools["web"].apply(
        ScaleEvent(EventKind.JOIN, "web", "web-1", Reason.CPU_OVERLOAD, "127.0.0.1:4000", "local")
    )
    async with http.get("/api/v1/prometheus/targets") as response:
        assert response.content_type == "application/json"
        assert await response.json() == [
            {
                "targets": ["127.0.0.1:4000"],
                "labels": {"service": "web", "vm": "web-1", "host": "local"},
            }
        ]


async def test_metrics_and_probes(control: FakeControl, http: aiohttp.ClientSession) -> None:
    async with http.get("/metrics") as response:
        assert await response.text() == "lb_up 1\n"
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    async with http.get("/healthz") as response:
        assert (response.status, await response.text()) == (200, "ok\n")
    async with http.get("/readyz") as response:
        assert response.status == 200
    control.readiness = (False, "no backend is ready")
    async with http.get("/readyz") as response:
        assert await problem(response, 503) == "no backend is ready"


async def test_the_page_escapes_what_it_shows(
    control: FakeControl, http: aiohttp.ClientSession
) -> None:
    control.pools["web"].add_static("127.0.0.1:9", name="<script>alert(1)</script>")
    control.journal.record(Happening("k", "web", "<b>", Reason.OPERATOR, "<i>"))
    async with http.get("/") as response:
        assert response.content_type == "text/html"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        page = await response.text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;i&gt;" in page


async def test_a_figure_that_is_no_number_is_null(
    control: FakeControl, http: aiohttp.ClientSession
) -> None:
    happening = Happening("k", "web", "s", Reason.OPERATOR, "m", {"ratio": float("nan")})
    control.journal.record(happening)
    async with http.get("/api/v1/events") as response:
        assert json.loads(await response.text())["events"][0]["data"] == {"ratio": None}


async def test_a_name_that_is_no_text_takes_no_answer_with_it(
    control: FakeControl, http: aiohttp.ClientSession
) -> None:
    """As Python reads the file name caf\\xe9: with half of a surrogate pair, which is no UTF-8."""
    half = "caf\udce9"
    control.journal.record(Happening("k", "web", half, Reason.OPERATOR, half, {"file": half}))
    async with http.get("/api/v1/events") as response:
        (event,) = (await response.json())["events"]
    assert (event["subject"], event["message"], event["data"]) == ("caf?", "caf?", {"file": "caf?"})
    async with http.get("/api/v1/events/stream?since=0") as response:
        assert (await read_events(response, 1)) == [event]
    async with http.get("/") as response:
        assert response.status == 200
        assert "caf?" in await response.text()


# ── changing ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_backend_comes_drains_returns_and_goes(
    control: FakeControl, http: aiohttp.ClientSession
) -> None:
    backends = "/api/v1/pool/web/backends"
    async with http.post(backends, json={"address": "127.0.0.1:9"}, headers=AUTH) as response:
        assert response.status == 201
        assert (await response.json()) == {"service": "web", "name": "127.0.0.1:9"}
        where = response.headers["Location"]
    backend = control.pools["web"].get("127.0.0.1:9")
    assert backend is not None
    async with http.post(f"{where}/drain", headers=AUTH) as response:
        assert (response.status, backend.lifecycle) == (204, "draining")
    async with http.post(f"{where}/ready", headers=AUTH) as response:
        assert (response.status, backend.lifecycle) == (204, "starting")
    async with http.delete(where, headers=AUTH) as response:
        assert (response.status, len(control.pools["web"])) == (204, 0)
    async with http.delete(where, headers=AUTH) as response:
        assert "no backend 127.0.0.1:9" in await problem(response, 404)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer " + "x" * 43},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN}x"},
    ],
)
async def test_changing_needs_the_token(
    control: FakeControl, http: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    body = {"address": "127.0.0.1:9"}
    async with http.post("/api/v1/pool/web/backends", json=body, headers=headers) as response:
        assert "LBCTL_HOME" in await problem(response, 401)
        assert response.headers["WWW-Authenticate"].startswith("Bearer ")
    assert len(control.pools["web"]) == 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 50_000, "not JSON"),
        (b"[]", "host:port"),
        (b'{"address": 80}', "host:port"),
        (b'{"address": "localhost"}', "host:port"),
        (b'{"address": "localhost:0"}', "host:port"),
        (b'{"address": "localhost:65536"}', "host:port"),
        (b'{"address": "http://localhost:80"}', "host:port"),
        (b'{"address": "a b:80"}', "host:port"),
        (b'{"address": "::1:8081"}', "IPv6 in brackets"),
        (b'{"address": "a:80", "wieght": 2}', "wieght"),
    ],
)
async def test_a_body_that_is_wrong_says_what_would_be_right(
    http: aiohttp.ClientSession, body: bytes, says: str
) -> None:
    async with http.post("/api/v1/pool/web/backends", data=body, headers=AUTH) as response:
        assert says in await problem(response, 400)


@pytest.mark.parametrize(
    ("body", "order"),
    [
        ({"mode": "fixed", "to": 3}, ScaleOrder("fixed", 3)),
        ({"mode": "fixed", "to": 0, "for_s": 600}, ScaleOrder("fixed", 0, 600)),
        ({"mode": "hold", "to": None, "for_s": 0.5}, ScaleOrder("hold", None, 0.5)),
        ({"mode": "observe"}, ScaleOrder("observe")),
        ({"mode": "auto", "for_s": None}, ScaleOrder("auto")),
    ],
)
async def test_an_order_is_passed_on_and_the_row_passed_back(
    control: FakeControl, http: aiohttp.ClientSession, body: dict[str, Any], order: ScaleOrder
) -> None:
    async with http.put("/api/v1/scale/web", json=body, headers=AUTH) as response:
        assert response.status == 200
        row = await response.json()
    assert control.orders == [("web", order)]
    assert (row["service"], row["mode"], row["to"]) == ("web", order.mode, order.to)
    assert row["until"] == (None if order.for_s is None else 1000 + order.for_s)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"[]", '{"mode": "fixed", "to": 3, "for_s": 600}'),
        (b"{}", "mode is fixed, hold, observe, auto"),
        (b'{"mode": "faster"}', "mode is fixed, hold, observe, auto"),
        (b'{"mode": ["fixed"]}', "mode is fixed, hold, observe, auto"),
        (b'{"mode": "fixed"}', "a whole number of replicas"),
        (b'{"mode": "fixed", "to": true}', "a whole number of replicas"),
        (b'{"mode": "fixed", "to": 2.0}', "a whole number of replicas"),
        (b'{"mode": "fixed", "to": -1}', "a whole number of replicas"),
        (b'{"mode": "hold", "to": 3}', "`to` goes with mode fixed"),
        (b'{"mode": "hold", "for_s": 0}', "for_s must be a number of seconds"),
        (b'{"mode": "hold", "for_s": 1e9}', "for_s must be a number of seconds"),
        (b'{"mode": "hold", "for_s": NaN}', "for_s must be a number of seconds"),
        (b'{"mode": "hold", "for_s": true}', "for_s must be a number of seconds"),
        (b'{"mode": "hold", "for_s": "10m"}', "for_s must be a number of seconds"),
        (b'{"mode": "auto", "for_s": 5}', "does not go with mode auto"),
        (b'{"mode": "auto", "until": 5}', "unknown in the body: until"),
    ],
)
async def test_an_order_that_is_none_says_what_would_be(
    control: FakeControl, http: aiohttp.ClientSession, body: bytes, says: str
) -> None:
    async with http.put("/api/v1/scale/web", data=body, headers=AUTH) as response:
        assert says in await problem(response, 400)
    assert control.orders == []


async def test_whom_an_order_is_not_for(control: FakeControl, http: aiohttp.ClientSession) -> None:
    hold = {"mode": "hold"}
    async with http.put("/api/v1/scale/web", json=hold) as response:
        await problem(response, 401)
    async with http.put("/api/v1/scale/db", json=hold, headers=AUTH) as response:
        assert "there are: web" in await problem(response, 404)
    many = {"mode": "fixed", "to": 9}
    async with http.put("/api/v1/scale/web", json=many, headers=AUTH) as response:
        assert "has 1 to 4 replicas" in await problem(response, 409)
    assert control.orders == []


async def test_a_body_that_is_too_large_is_refused(http: aiohttp.ClientSession) -> None:
    body = b" " * 100_000
    async with http.post("/api/v1/pool/web/backends", data=body, headers=AUTH) as response:
        await problem(response, 413)


async def test_what_is_not_there_and_what_is_refused(
    control: FakeControl, http: aiohttp.ClientSession
) -> None:
    async with http.get("/nothing") as response:
        assert "/api/v1" in await problem(response, 404)
    async with http.get("/api/v1/vms/none") as response:
        assert await problem(response, 404) == "no VM none"
    async with http.get("/api/v1/scale/none") as response:
        assert "there are: web" in await problem(response, 404)
    async with http.put("/api/v1/pool", headers=AUTH) as response:
        assert "GET" in await problem(response, 405)
        assert "GET" in response.headers["Allow"]
    control.pools["web"].add_static("127.0.0.1:9")
    body = {"address": "127.0.0.1:9"}
    async with http.post("/api/v1/pool/web/backends", json=body, headers=AUTH) as response:
        assert "already" in await problem(response, 409)


async def test_a_fault_of_ours_is_a_problem_without_its_insides(
    control: FakeControl, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    control.failure = RuntimeError("secret insides")
    async with http.get("/api/v1/vms") as response:
        assert "secret" not in await problem(response, 500)
    assert "secret insides" in caplog.text


# ── another configuration ────────────────────────────────────────────────────────────────────────


async def test_a_configuration_is_passed_on_and_what_it_changes_passed_back(
    control: FakeControl, http: aiohttp.ClientSession
) -> None:
    text = "# ä\n" + "# long\n" * 20_000
    for query, sent in [
        ("", (text, None, False)),
        ("?dry_run=true&folder=/etc/lb", (text, Path("/etc/lb"), True)),
    ]:
        async with http.post(f"/api/v1/config{query}", data=text, headers=AUTH) as response:
            assert response.status == 200
            assert await response.json() == {
                "dry_run": sent[2],
                "changes": ["service api is new"],
                "needs_restart": ["admin changed: needs a restart"],
            }
        assert control.applied.pop() == sent
    async with http.post("/api/v1/config", headers=AUTH) as response:
        assert response.status == 200
    assert control.applied == [(None, None, False)], "the file it was started with"


async def test_a_configuration_needs_the_token_and_to_be_one(
    control: FakeControl, http: aiohttp.ClientSession
) -> None:
    async with http.post("/api/v1/config", data="x = 1") as response:
        await problem(response, 401)
    for query, body, status, says in [
        ("", b"\xff", 400, "UTF-8"),
        ("?dry_run=yes", b"", 400, "true or false"),
        ("?folder=etc", b"", 400, "absolute path"),
        ("", b" " * (CONFIG_BYTES + 1), 413, "too large"),
    ]:
        url = f"/api/v1/config{query}"
        async with http.post(url, data=io.BytesIO(body), headers=AUTH) as response:
            assert says in await problem(response, status)
    assert control.applied == []


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (ConfigError("service.web.polcy: no such key"), 422),
        (ListenError("cannot listen on 127.0.0.1:1"), 409),
    ],
)
async def test_why_a_configuration_was_refused(
    control: FakeControl, http: aiohttp.ClientSession, failure: Exception, status: int
) -> None:
    control.failure = failure
    async with http.post("/api/v1/config", data="", headers=AUTH) as response:
        assert await problem(response, status) == str(failure)


# ── under which name ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST:{port}", 200),
        ("[::1]:{port}", 200),
        ("lb.example.org", 200),
        ("lb.example.org:443", 200),
        ("evil.example.org:{port}", 421),
        ("127.0.0.1.evil.example.org:{port}", 421),
        ("localhost", 421),
        ("localhost:1", 421),
        ("localhost:{port}:{port}", 421),
        ("", 421),
    ],
)
async def test_only_our_own_names_are_answered(
    server: AdminServer, http: aiohttp.ClientSession, host: str, status: int
) -> None:
    headers = {"Host": host.format(port=server.port)}
    for path in ("/api/v1/pool", "/metrics", "/"):
        async with http.get(path, headers=headers) as response:
            assert response.status == status
    async with http.get("/api/v1/pool", headers=headers) as response:
        if status == 421:
            assert "admin.hosts" in await problem(response, 421)


def test_a_wildcard_address_means_the_address_a_connection_came_to() -> None:
    rule = HostRule("0.0.0.0", 9900)
    assert rule.allows("192.0.2.7:9900", "192.0.2.7")
    assert rule.allows("localhost:9900", "127.0.0.1")
    assert not rule.allows("localhost:9900", "192.0.2.7")
    assert not rule.allows("192.0.2.8:9900", "192.0.2.7")
    assert not rule.allows(None, "192.0.2.7")
    assert HostRule("lb", 80).allows("lb", None)


def test_a_token_is_compared_whole() -> None:
    assert bearer_matches("bearer  abc", "abc")
    assert not bearer_matches("Bearer äbc", "abc")
    assert not bearer_matches("Bearer", "abc")
    assert not bearer_matches(None, "abc")


async def test_a_token_that_is_not_utf_8_is_wrong_and_no_fault(server: AdminServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"DELETE /api/v1/pool/web/backends/a HTTP/1.1\r\nHost: localhost:%d\r\n"
        b"Authorization: Bearer \xff\xfe\r\n\r\n" % server.port
    )
    assert await reader.readline() == b"HTTP/1.1 401 Unauthorized\r\n"
    writer.close()
    await writer.wait_closed()


async def test_a_port_that_is_taken_is_one_clear_line(control: FakeControl, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = AdminServer(control, f"127.0.0.1:{port}", TOKEN, home=tmp_path)
        with pytest.raises(ListenError) as caught:
            await server.start()
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port}: address in use, perhaps by another lbctl;"
        " set admin.listen"
    )
    assert access.read_address(tmp_path) is None
    await server.stop()


# ── events ───────────────────────────────────────────────────────────────────────────────────────


def record(control: FakeControl, subject: str, service: str = "web") -> None:
    control.journal.record(Happening("vm.ready", service, subject, Reason.OPERATOR, "it serves"))


async def test_events_are_paged(control: FakeControl, http: aiohttp.ClientSession) -> None:
    for number in range(5):
        record(control, f"vm-{number}", "web" if number < 4 else "db")
    async with http.get("/api/v1/events", params={"since": 1, "limit": 2}) as response:
        body = await response.json()
    assert [event["subject"] for event in body["events"]] == ["vm-1", "vm-2"]
    assert body["last_id"] == 5
    async with http.get("/api/v1/events", params={"service": "db"}) as response:
        assert [e["id"] for e in (await response.json())["events"]] == [5]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "since=-1", "since=x", "limit=٣"])
async def test_a_page_that_makes_no_sense_is_refused(
    http: aiohttp.ClientSession, query: str
) -> None:
    async with http.get(f"/api/v1/events?{query}") as response:
        assert "must be a whole number" in await problem(response, 400)


async def read_events(response: aiohttp.ClientResponse, number: int) -> list[dict[str, Any]]:
    """The next so many events of a stream."""
    found: list[dict[str, Any]] = []
    wire_id = ""
    while len(found) < number:
        line = (await response.content.readline()).decode().rstrip("\n")
        if line.startswith("id: "):
            wire_id = line[4:]
        elif line.startswith("data: "):
            found.append(json.loads(line[6:]))
            assert wire_id == str(found[-1]["id"])
    return found


async def test_the_stream_resumes_after_the_last_id_and_goes_on(
    control: FakeControl, http: aiohttp.ClientSession
) -> None:
    for number in range(3):
        record(control, f"vm-{number}")
    async with http.get("/api/v1/events/stream", headers={"Last-Event-ID": "1"}) as response:
        assert response.content_type == "text/event-stream"
        assert [e["subject"] for e in await read_events(response, 2)] == ["vm-1", "vm-2"]
        record(control, "live")
        (event,) = await read_events(response, 1)
        assert (event["subject"], event["id"]) == ("live", 4)
    async with http.get("/api/v1/events/stream?since=3&service=web") as response:
        assert [e["subject"] for e in await read_events(response, 1)] == ["live"]


async def test_a_silent_stream_has_a_heartbeat(http: aiohttp.ClientSession) -> None:
    async with http.get("/api/v1/events/stream") as response:
        assert await response.content.readline() == b"retry: 1000\n"
        assert await response.content.readline() == b"\n"
        assert await response.content.readline() == b": heartbeat\n"


async def test_listeners_that_left_make_room(http: aiohttp.ClientSession) -> None:
    for _ in range(stream.MAX_STREAMS):
        response = await http.get("/api/v1/events/stream")
        await response.content.readline()
        response.close()
    async with asyncio.timeout(PATIENCE_S):
        status = 503
        while status != 200:
            async with http.get("/api/v1/events/stream") as again:
                status = again.status


async def test_stopping_ends_the_streams(server: AdminServer, http: aiohttp.ClientSession) -> None:
    async with http.get("/api/v1/events/stream") as response:
        await response.content.readline()
        await server.stop()
        assert (await response.content.read()).replace(b": heartbeat\n", b"").strip() == b""
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.get("/healthz")


async def test_there_is_a_last_stream(http: aiohttp.ClientSession, server: AdminServer) -> None:
    async with asyncio.TaskGroup() as group:
        opening = [
            group.create_task(http.get("/api/v1/events/stream")) for _ in range(stream.MAX_STREAMS)
        ]
    async with http.get("/api/v1/events/stream") as response:
        assert "listeners" in await problem(response, 503)
    for task in opening:
        task.result().close()


# ── the files by which lbctl finds it ────────────────────────────────────────────────────────────


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    token = access.ensure_token(home)
    assert re.fullmatch(r"[\w-]{43}", token)
    assert (mode(home), mode(home / "token")) == (0o700, 0o600)
    assert access.ensure_token(home) == token == access.read_token(home)
    assert [path.name for path in home.iterdir()] == ["token"]


def test_a_home_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(access.AccessError, match="not a directory: make it writable"):
        access.ensure_token(tmp_path / "file" / "home")


def test_a_token_that_others_could_read_or_that_is_none_is_replaced(tmp_path: Path) -> None:
    first = access.ensure_token(tmp_path)
    (tmp_path / "token").chmod(0o640)
    second = access.ensure_token(tmp_path)
    assert first != second
    assert mode(tmp_path / "token") == 0o600
    (tmp_path / "token").write_text("short\n")
    assert access.read_token(tmp_path) is None
    assert access.ensure_token(tmp_path) not in (first, second)


async def test_the_address_is_noted_while_it_serves(server: AdminServer, tmp_path: Path) -> None:
    assert access.read_address(tmp_path) == server.url == f"http://127.0.0.1:{server.port}"
    access.forget_address(tmp_path, "http://other:1")
    assert access.read_address(tmp_path) == server.url, "a successor's entry stays"
    await server.stop()
    assert access.read_address(tmp_path) is None


def test_a_noted_address_must_look_like_one(tmp_path: Path) -> None:
    (tmp_path / "admin.url").write_text("file:///etc/passwd\n")
    assert access.read_address(tmp_path) is None
