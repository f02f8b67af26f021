"""A worker by itself: what it does with what it is told, and what it tells. In this process; as one
of its own it is test_workers'."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lb import sockets
from lb.backend import Backend
from lb.config import Config, ConfigError, ProxyConfig, ServiceConfig
from lb.errors import ConnectFailedError
from lb.lead import Lead, Peer
from lb.metrics import Metrics
from lb.outlier import Grounds
from lb.pool import Pool, Report
from lb.site import Site
from lb.worker import Worker
from lb.worker_link import Link, LinkClosedError, Message, pack
from tests.fake_backend import FakeBackend
from tests.proxy_harness import PATIENCE_S, Client, _of_fakes, until
from tests.test_reload import Held, config


class First:
    """The first process's side: a pool, a lead, and what the worker has told."""

    def __init__(self, link: Link, wanted: Config, *backends: FakeBackend) -> None:
        self.link = link
        self.config = wanted
        self.pool = Pool.from_config("web", wanted.service["web"])
        metrics = Metrics()
        counters = metrics.service(self.pool)
        self.site = Site("web", ServiceConfig(), ProxyConfig(), self.pool, counters)
        self.lead = Lead(metrics.unrouted)
        self.lead.follow(self.site)
        self.told: list[Message] = []
        self.peer = Peer(1, link.send)
        self.listening = sockets.bind("127.0.0.1:0", shared=True)
        self.port: int = self.listening[0].getsockname()[1]
        for backend in backends:
            self.pool.add_static(backend.address)
            self.pool.observe(Report(backend.address, backend.address, ok=True, detail="200"))

    def settle(self, wanted: Config | None = None) -> None:
        """Send settings, the first time with the socket."""
        wanted = wanted or self.config
        fresh = [] if self.peer in self.lead.peers else self.listening
        address = wanted.proxy.listen[0].address
        message = self.lead.settings(
            {
                "config": wanted.model_dump_json(),
                "of": 2,
                "secret": "00",
                "log_level": logging.INFO,
                "sockets": {address: len(fresh)} if fresh else {},
            }
        )
        self.link.send(pack(message), fresh)
        if fresh:
            self.lead.join(self.peer)

    async def listen(self) -> None:
        """Take what is told, until there is no more."""
        with contextlib.suppress(LinkClosedError):
            while True:
                message, _ = await self.link.receive()
                self.told.append(message)
                if message["kind"] == "report":
                    self.lead.report(self.peer, message)

    def of(self, kind: str) -> list[Message]:
        return [message for message in self.told if message["kind"] == kind]

    async def in_step(self) -> None:
        await until(lambda: self.peer.applied == self.lead.version)


@contextlib.asynccontextmanager
async def employed(
    home: Path, wanted: Config, *backends: FakeBackend, begin: bool = True
) -> AsyncIterator[tuple[First, Worker, asyncio.Task[None]]]:
    before = asyncio.all_tasks()
    ours, theirs = socket.socketpair()
    first = First(Link(ours), wanted, *backends)
    worker = Worker(Link(theirs), home, 1)
    running = asyncio.ensure_future(worker.run())
    hearing = asyncio.ensure_future(first.listen())
    try:
        if begin:
            first.settle()
            await until(lambda: first.of("listening"))
        yield first, worker, running
    finally:
        first.link.close()
        sockets.close(first.listening)
        await asyncio.wait([running, hearing], timeout=PATIENCE_S)
        worker._link.close()
        first.site.close()
    await until(lambda: not (asyncio.all_tasks() - before - _of_fakes()))


async def closed(host: str, port: int) -> None:
    """Until nobody listens there."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, port)
            except ConnectionError:
                return
            writer.close()


def wanted(**web: Any) -> Config:
    return config(proxy={"shutdown_grace": PATIENCE_S}, web=web)


async def answer(port: int, target: str = "/") -> bytes:
    async with Client(port) as one:
        await one.request("GET", target)
        return (await one.answer()).body


async def test_it_listens_once_it_knows_the_backends_and_reports_what_it_did(
    tmp_path: Path,
) -> None:
    async with FakeBackend(Held("a")) as a, employed(tmp_path, wanted(), a) as (first, worker, _):
        await first.in_step()
        for _ in range(3):
            assert await answer(first.port) == b"a"
        await until(lambda: first.site.counters.requests_total == 3)
        (view,) = first.pool.snapshot()
        assert (view.requests_total, view.failures_total) == (3, 0)
        assert worker._services["web"].pool is not first.pool
        # all is told again and again, and counts once
        reports = len(first.of("report"))
        await until(lambda: len(first.of("report")) > reports + 1)
        assert first.site.counters.requests_total == 3


async def test_its_part_of_the_limits_is_its_own(tmp_path: Path) -> None:
    limited = wanted(max_in_flight=5, queue={"length": 7})
    async with employed(tmp_path, limited) as (_, worker, _running):
        followed = worker._services["web"]
        assert followed.pool.max_in_flight == 2
        assert followed.site.line.config.length == 3


async def test_of_a_drain_it_tells_at_once_and_whether_something_runs_there(
    tmp_path: Path,
) -> None:
    held = Held("a")
    async with FakeBackend(held) as a, employed(tmp_path, wanted(), a) as (first, _, _running):
        async with Client(first.port) as one:
            await one.request("GET", "/slow")
            await until(lambda: held.asked)
            first.pool.drain(a.address)
            await first.in_step()
            (load,) = first.pool.load().backends
            assert load.in_flight == 1
            held.go.set()
            assert (await one.answer()).body == b"a"
        await until(lambda: not first.pool.load().backends[0].in_flight)


async def test_many_closed_doors_in_one_turn_are_one_message(tmp_path: Path) -> None:
    async with (
        FakeBackend() as a,
        FakeBackend() as b,
        employed(tmp_path, wanted(), a, b) as (first, worker, _),
    ):
        pool = worker._services["web"].pool
        one, two = pool

        def fail(backend: Backend) -> None:
            pool.record_failure(backend, ConnectFailedError("refused"))

        fail(one)
        fail(one)
        fail(two)
        await until(lambda: first.of("doubt"))
        (doubt,) = first.of("doubt")
        rows = {name: row for name, (_, row) in doubt["backends"].items()}
        assert rows == {str(pool.id_of(one)): 2, str(pool.id_of(two)): 1}
        assert one.available, "that is the first process's to judge"


async def test_an_ejection_ends_in_time_though_nobody_asks(tmp_path: Path) -> None:
    async with (
        FakeBackend() as a,
        FakeBackend() as b,
        employed(tmp_path, wanted(outlier={"ejection": 0.1}), a, b) as (first, worker, _),
    ):
        pool = worker._services["web"].pool
        one, _ = pool
        pool._eject(one, Grounds.CONSECUTIVE, "because", pool.clock())
        assert one.ejected
        await until(lambda: not one.ejected)
        await until(lambda: first.pool.ejections[Grounds.CONSECUTIVE] == 1)
        assert not any(backend.ejected for backend in first.pool)


async def test_settings_it_cannot_go_by_leave_it_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeBackend(Held("a")) as a, employed(tmp_path, wanted(), a) as (first, worker, _):
        before = worker._config
        first.settle(wanted(error_pages={"default": str(tmp_path / "nothing")}))
        await first.in_step()
        assert worker._config is before
        assert "worker 2 keeps its configuration" in caplog.text
        assert await answer(first.port) == b"a"


async def test_without_settings_to_begin_with_it_does_not_serve(tmp_path: Path) -> None:
    async with employed(tmp_path, wanted(), begin=False) as (first, _, running):
        first.settle(wanted(error_pages={"default": str(tmp_path / "nothing")}))
        with pytest.raises(ConfigError, match="no such file"):
            await running


async def test_told_to_stop_it_finishes_reports_a_last_time_and_ends(tmp_path: Path) -> None:
    held = Held("a")
    async with FakeBackend(held) as a, employed(tmp_path, wanted(), a) as (first, _, running):
        async with Client(first.port) as one:
            await one.request("GET", "/slow")
            await until(lambda: held.asked)
            sockets.close(first.listening)
            first.link.send(pack({"kind": "stop", "grace_s": PATIENCE_S}))
            await closed("127.0.0.1", first.port)
            assert not running.done()
            held.go.set()
            assert (await one.answer()).body == b"a"
        await running
        await until(lambda: first.link.closed)
        assert first.site.counters.requests_total == 1
        assert not first.site.counters.elsewhere.in_flight


async def test_left_alone_it_finishes_and_ends(tmp_path: Path) -> None:
    held = Held("a")
    async with FakeBackend(held) as a, employed(tmp_path, wanted(), a) as (first, _, running):
        async with Client(first.port) as one:
            await one.request("GET", "/slow")
            await until(lambda: held.asked)
            first.link.close()
            held.go.set()
            assert (await one.answer()).body == b"a"
        await running


async def test_a_service_that_is_dropped_is_cut_and_forgotten(tmp_path: Path) -> None:
    held = Held("a")
    async with (
        FakeBackend(held) as a,
        employed(tmp_path, wanted(), a) as (first, worker, _),
        Client(first.port) as one,
    ):
        await one.request("GET", "/slow")
        await until(lambda: held.asked)
        first.lead.forget("web")
        await until(lambda: "web" not in worker._services)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            assert (await one.answer()).status != 200
