"""Another configuration while requests go on: nobody notices, and a bad one changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lb.address import split_address
from lb.admin.control import RefusedError
from lb.config import Config, ConfigError, parse_config
from lb.errors import LbError, ListenError
from lb.installation import Installation
from lb.service import Balancer
from tests.fake_backend import Exchange, FakeBackend
from tests.proxy_harness import Answer, Client, _of_fakes, until
from tests.test_service import events

QUICK = {"interval": 0.05, "interval_down": 0.05}


def config(*routes: dict[str, Any], proxy: dict[str, Any] | None = None, **services: Any) -> Config:
    """Services by name: a list of backends, or a table. They are asked often."""
    tables = {
        name: {"health": QUICK, **(part if isinstance(part, dict) else {"backends": part})}
        for name, part in services.items()
    }
    return parse_config(
        {
            "proxy": {"listen": "127.0.0.1:0", "shutdown_grace": 5.0, **(proxy or {})},
            "admin": {"listen": "127.0.0.1:0"},
            "service": tables,
            "route": list(routes),
        }
    )


@contextlib.asynccontextmanager
async def running(home: Path, wanted: Config, path: Path | None = None) -> AsyncIterator[Balancer]:
    before = asyncio.all_tasks()
    with Installation(home) as installation:
        balancer = Balancer(wanted, installation, config_path=path)
        await balancer.start()
        try:
            yield balancer
        finally:
            await balancer.stop()
    await until(lambda: not (asyncio.all_tasks() - before - _of_fakes()))


async def serving(balancer: Balancer) -> None:
    await until(lambda: balancer.is_ready()[0])


def client(balancer: Balancer) -> Client:
    return Client(split_address(balancer.addresses[0])[1])


async def get(balancer: Balancer, target: str = "/", host: str = "") -> Answer:
    async with client(balancer) as one:
        if host:
            await one.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        else:
            await one.request("GET", target)
        return await one.answer()


@contextlib.asynccontextmanager
async def named(*names: str) -> AsyncIterator[list[FakeBackend]]:
    """Backends that answer with their names; what is asked for as /slow waits for `release`."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for name in names:

            async def script(exchange: Exchange, name: str = name) -> None:
                await exchange.answer(name.encode())

            found.append(await stack.enter_async_context(FakeBackend(script)))
        yield found


class Held:
    """A script that answers once it is let go."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.go = asyncio.Event()
        self.asked = 0

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.path == b"/slow":
            self.asked += 1
            await self.go.wait()
        await exchange.answer(self.name.encode())


# ── nobody notices ───────────────────────────────────────────────────────────────────────────────


async def test_fifty_reloads_under_traffic(tmp_path: Path) -> None:
    rng = random.Random(1)
    async with named("kept", "b", "c", "api") as (kept, b, c, api):
        everywhere = {"path": "/", "service": "web"}
        first = config(everywhere, web=[kept.address])
        async with running(tmp_path, first) as balancer:
            await serving(balancer)
            ended = asyncio.Event()
            bodies: dict[bytes, int] = {}
            failed: list[Answer] = []

            async def ask() -> None:
                async with client(balancer) as one:
                    while not ended.is_set():
                        await one.request("GET", "/x")
                        answer = await one.answer()
                        if answer.status != 200 or not answer.whole:
                            failed.append(answer)
                        bodies[answer.body] = bodies.get(answer.body, 0) + 1

            asking = [asyncio.ensure_future(ask()) for _ in range(4)]
            asked_before = 0
            (row,) = balancer.pool()["web"]
            for number in range(50):
                members = [kept.address, *rng.sample([b.address, c.address], rng.randint(0, 2))]
                rng.shuffle(members)
                services: dict[str, Any] = {"web": members}
                routes = [everywhere]
                if rng.random() < 0.5:
                    services["api"] = [api.address]
                    routes.append({"path": "/api", "service": "api"})
                if rng.random() < 0.5:
                    routes.append({"path": "/old", "redirect": f"/new{number}"})
                await balancer.reload(config(*routes, **services))
                if "api" in services:
                    assert (await get(balancer, "/api/x")).body == b"api"
                row = next(r for r in balancer.pool()["web"] if r.name == kept.address)
                assert (row.lifecycle, row.healthy) == ("ready", True)
                assert row.requests_total >= asked_before
                asked_before = row.requests_total
                answered = sum(bodies.values())
                await until(lambda: sum(bodies.values()) > answered + 4)  # noqa: B023
            ended.set()
            await asyncio.gather(*asking)
            assert failed == []
            assert sum(bodies.values()) > 250
            assert set(bodies) == {b"kept", b"b", b"c"}
            assert row.latency_p50_s is not None
            told = [e for e in events(balancer) if e[0] == "config.applied"]
            assert len(told) == 50


async def test_new_backends_serve_before_the_old_ones_go(tmp_path: Path) -> None:
    """Every address changes: without a moment in which both serve there would be one with none."""
    async with (
        named("old", "new") as (old, new),
        running(tmp_path, config(web=[old.address])) as balancer,
    ):
        await serving(balancer)
        reloading = asyncio.ensure_future(balancer.reload(config(web=[new.address])))
        while not reloading.done():
            answer = await get(balancer)
            assert answer.status == 200
        assert (await get(balancer)).body == b"new"
        assert [row.name for row in balancer.pool()["web"]] == [new.address]


async def test_what_runs_on_a_backend_that_leaves_finishes(tmp_path: Path) -> None:
    held = Held("old")
    async with (
        FakeBackend(held) as old,
        named("new") as (new,),
        running(tmp_path, config(web=[old.address])) as balancer,
    ):
        await serving(balancer)
        slow = asyncio.ensure_future(get(balancer, "/slow"))
        await until(lambda: held.asked)
        await balancer.reload(config(web=[new.address]))
        assert (await get(balancer)).body == b"new"
        held.go.set()
        assert (await slow).body == b"old"


async def test_a_service_that_leaves_finishes_even_those_who_wait_in_its_line(
    tmp_path: Path,
) -> None:
    held = Held("api")
    web, to_api = {"service": "web"}, {"path": "/slow", "service": "api"}
    async with FakeBackend(held) as api, named("web") as (other,):
        narrow = {"backends": [api.address], "max_in_flight": 1}
        both = config(web, to_api, web=[other.address], api=narrow)
        async with running(tmp_path, both) as balancer:
            await serving(balancer)
            slow = [asyncio.ensure_future(get(balancer, "/slow")) for _ in range(3)]
            await until(lambda: b'lb_queued_requests{service="api"} 2' in balancer.metrics()[0])
            await balancer.reload(config(web, web=[other.address]))
            assert (await get(balancer, "/slow")).body == b"web", "nobody new is sent there"
            assert "api" in balancer.pool()
            assert balancer.is_ready()[0]
            held.go.set()
            assert [answer.body for answer in await asyncio.gather(*slow)] == [b"api"] * 3
            await until(lambda: "api" not in balancer.pool())
            assert b'service="api"' not in balancer.metrics()[0]
            kinds = [kind for kind, _ in events(balancer)]
            assert kinds.index("service.leaving") < kinds.index("service.gone")


async def test_a_service_that_comes_back_while_it_leaves_stays(tmp_path: Path) -> None:
    held = Held("api")
    web, to_api = {"service": "web"}, {"path": "/api", "service": "api"}
    slow_api = {"path": "/slow", "service": "api"}
    async with FakeBackend(held) as api, named("web") as (other,):
        both = config(web, to_api, slow_api, web=[other.address], api=[api.address])
        async with running(tmp_path, both) as balancer:
            await serving(balancer)
            slow = asyncio.ensure_future(get(balancer, "/slow"))
            await until(lambda: held.asked)
            await balancer.reload(config(web, web=[other.address]))
            assert (await get(balancer, "/api")).body == b"web"
            await balancer.reload(both)
            assert (await get(balancer, "/api")).body == b"api"
            (row,) = balancer.pool()["api"]
            assert (row.lifecycle, row.in_flight) == ("ready", 1)
            held.go.set()
            assert (await slow).body == b"api"
            assert "service.gone" not in [kind for kind, _ in events(balancer)]


async def test_addresses_come_and_go(tmp_path: Path) -> None:
    async with named("web") as (web,), running(tmp_path, config(web=[web.address])) as balancer:
        await serving(balancer)
        async with client(balancer) as kept:
            await kept.request("GET", "/")
            assert (await kept.answer()).status == 200
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                other = f"127.0.0.1:{free.getsockname()[1]}"
            listen = {"listen": ["127.0.0.1:0", other]}
            await balancer.reload(config(proxy=listen, web=[web.address]))
            assert other in balancer.addresses
            await balancer.reload(config(proxy={"listen": other}, web=[web.address]))
            assert balancer.addresses == (other,)
            await kept.request("GET", "/")
            assert (await kept.answer()).status == 200, "its listener left, the connection stays"
        assert (await get(balancer)).body == b"web"


async def test_a_service_that_gets_ready_to_come_is_not_waited_for_by_probes(
    tmp_path: Path,
) -> None:
    """/readyz is asked by whoever sends us traffic: for what is served it stays well."""
    to_api = {"path": "/api", "service": "api"}
    async with named("web", "api") as (web, api):
        api.ready = 503
        first = config({"service": "web"}, web=[web.address])
        async with running(tmp_path, first) as balancer:
            await serving(balancer)
            both = config({"service": "web"}, to_api, web=[web.address], api=[api.address])
            reloading = asyncio.ensure_future(balancer.reload(both))
            await until(lambda: "api" in balancer.pool())
            assert balancer.is_ready()[0]
            assert (await get(balancer, "/api")).body == b"web", "its routes are not there yet"
            api.ready = 200
            await reloading
            assert (await get(balancer, "/api")).body == b"api"


async def test_settings_of_a_service_count_at_once(tmp_path: Path) -> None:
    (tmp_path / "busy.html").write_text("<p>busy")
    page = {"error_pages": {"503": str(tmp_path / "busy.html")}}
    async with running(tmp_path / "home", config(web=[])) as balancer:
        assert (await get(balancer)).value("Content-Type") == "application/problem+json"
        await balancer.reload(config(web={"backends": [], **page}))
        answer = await get(balancer)
        assert (answer.status, answer.body) == (503, b"<p>busy")
        assert answer.value("Content-Type") == "text/html; charset=utf-8"
        assert answer.value("Retry-After") is not None


# ── a bad one changes nothing ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"web": {"error_pages": {"503": "no.html"}}}, r"web\.error_pages\.503: .*no\.html"),
        ({"web": {"tls": {"enabled": True, "ca": "no.pem"}}}, r"no\.pem"),
        ({"proxy": {"tls": {"cert": "no.pem", "key": "no.key"}}}, r"no\.pem"),
        ({"proxy": {"listen": "TAKEN"}}, r"cannot listen on 127\.0\.0\.1:\d+"),
        ({"proxy": {"access_log": {"format": "json", "path": "no/such/log"}}}, "log"),
    ],
)  # fmt: skip
async def test_what_cannot_be_put_in_force_changes_nothing(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    async with (
        named("old", "new", "api") as (old, new, api),
        running(tmp_path, config(web=[old.address])) as balancer,
    ):
        await serving(balancer)
        before, was = balancer.config, balancer.addresses
        tasks = asyncio.all_tasks()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            place = f"127.0.0.1:{taken.getsockname()[1]}"
            proxy = {k: place if v == "TAKEN" else v for k, v in change.get("proxy", {}).items()}
            web = {"backends": [new.address], **change.get("web", {})}
            routes = {"service": "web"}, {"path": "/api", "service": "api"}
            wanted = config(*routes, proxy=proxy, web=web, api=[api.address])
            with pytest.raises((ConfigError, LbError), match=complaint):
                await balancer.reload(wanted)
        assert balancer.config is before
        assert balancer.addresses == was
        assert [row.name for row in balancer.pool()["web"]] == [old.address]
        assert set(balancer.pool()) == {"web"}
        assert b'service="api"' not in balancer.metrics()[0]
        assert (await get(balancer, "/api")).body == b"old"
        await until(lambda: not (asyncio.all_tasks() - tasks - _of_fakes()))


async def test_a_service_that_leaves_goes_on_leaving_where_its_return_is_refused(
    tmp_path: Path,
) -> None:
    held = Held("api")
    web, to_api = {"service": "web"}, {"path": "/slow", "service": "api"}
    async with FakeBackend(held) as api, named("web") as (other,):
        both = config(web, to_api, web=[other.address], api=[api.address])
        async with running(tmp_path, both) as balancer:
            await serving(balancer)
            slow = asyncio.ensure_future(get(balancer, "/slow"))
            await until(lambda: held.asked)
            await balancer.reload(config(web, web=[other.address]))
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                proxy = {"listen": f"127.0.0.1:{taken.getsockname()[1]}"}
                back = config(web, to_api, proxy=proxy, web=[other.address], api=[api.address])
                with pytest.raises(ListenError):
                    await balancer.reload(back)
            held.go.set()
            assert (await slow).body == b"api"
            await until(lambda: "api" not in balancer.pool())


async def test_only_looking_changes_nothing(tmp_path: Path) -> None:
    async with (
        named("old", "new") as (old, new),
        running(tmp_path, config(web=[old.address])) as balancer,
    ):
        await serving(balancer)
        found = await balancer.reload(config(web=[new.address]), dry_run=True)
        assert found.made == (
            f"service.web: backend {new.address} joins",
            f"service.web: backend {old.address} leaves",
        )
        assert [row.name for row in balancer.pool()["web"]] == [old.address]
        for wrong, complaint in (
            (config(web={"error_pages": {"503": "no.html"}}), r"no\.html"),
            (config(web={"tls": {"enabled": True, "ca": "no.pem"}}), r"no\.pem"),
            (config(proxy={"tls": {"cert": "no.pem", "key": "no.key"}}, web=[]), r"no\.pem"),
        ):
            with pytest.raises((ConfigError, LbError), match=complaint):
                await balancer.reload(wrong, dry_run=True)
        assert [kind for kind, _ in events(balancer) if kind.startswith("config")] == []


async def test_what_needs_a_restart_is_said_each_time(tmp_path: Path) -> None:
    async with named("web") as (web,), running(tmp_path, config(web=[web.address])) as balancer:
        data = config(web=[web.address]).model_dump()
        data["admin"]["hosts"] = ["lb.example.org"]
        for _ in range(2):
            found = await balancer.reload(parse_config(data))
            assert found.made == ()
            assert found.waiting == ('admin.hosts: [] → ["lb.example.org"]: needs a restart',)


# ── from a file ──────────────────────────────────────────────────────────────────────────────────


async def test_the_file_it_was_started_with_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    path = folder / "lb.toml"
    (folder / "sorry.txt").write_text("sorry")
    listen = '[proxy]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n'
    path.write_text(f"{listen}[service.web]\n")
    wanted = config(web={"health": {}})
    async with running(tmp_path / "home", wanted, path) as balancer:
        page = '[service.web.error_pages]\ndefault = "sorry.txt"\n'
        path.write_text(f"{listen}{page}")
        await balancer.apply_config()
        assert (await get(balancer)).body == b"sorry", "from the file's folder"

        other = tmp_path / "other"
        other.mkdir()
        (other / "sorry.txt").write_text("other")
        await balancer.apply_config(f"{listen}{page}", other)
        assert (await get(balancer)).body == b"other"

        for text in ("no = 1", "[[", f"{listen}{page.replace('sorry', 'none')}"):
            with pytest.raises(ConfigError):
                await balancer.apply_config(text)
        path.unlink()
        with pytest.raises(ConfigError, match="cannot read"):
            await balancer.apply_config()
        assert (await get(balancer)).body == b"other"
        kinds = [kind for kind, _ in events(balancer)]
        assert kinds.count("config.refused") == 4


async def test_nothing_is_taken_over_by_one_that_stops(tmp_path: Path) -> None:
    async with running(tmp_path, config(web=[])) as balancer:
        await balancer.stop()
        with pytest.raises(RefusedError, match="stopping"):
            await balancer.apply_config("")


# ── several services ─────────────────────────────────────────────────────────────────────────────


async def test_two_services_each_with_its_own_backends_and_figures(tmp_path: Path) -> None:
    routes = (
        {"host": "app.example", "service": "web"},
        {"host": "*.api.example", "path": "/v1", "service": "api", "strip_path": True},
        {"host": "old.example", "redirect": "https://app.example{target}"},
    )
    async with named("web", "api") as (web, api):
        both = config(*routes, web=[web.address], api=[api.address])
        async with running(tmp_path, both) as balancer:
            await serving(balancer)
            assert (await get(balancer, host="APP.example:80")).body == b"web"
            assert (await get(balancer, "/v1/x?y", host="eu.api.example")).body == b"api"
            answer = await get(balancer, "/x?y", host="old.example")
            assert (answer.status, answer.value("Location")) == (308, "https://app.example/x?y")
            answer = await get(balancer, "/v2", host="eu.api.example")
            assert (answer.status, json.loads(answer.body)["reason"]) == (404, "no_route")
            answer = await get(balancer, "/x/%2e%2e/v1", host="eu.api.example")
            assert (answer.status, json.loads(answer.body)["reason"]) == (400, "ambiguous_path")

            pool = balancer.pool()
            assert {name: [row.name for row in rows] for name, rows in pool.items()} == {
                "web": [web.address],
                "api": [api.address],
            }
            text = balancer.metrics()[0].decode()
            for service in ("web", "api"):
                assert f'lb_requests_total{{code="200",method="GET",service="{service}"}} 1' in text
            assert 'lb_requests_total{code="404",method="GET",service="(none)"} 1' in text
            ready = {e.service for e in balancer.journal._recent if e.kind == "backend.ready"}
            assert ready == {"web", "api"}
            await api.stop()
            await until(lambda: not balancer.is_ready()[0])
            assert balancer.is_ready()[1] == "service api has no backend that serves"
