"""Several processes on one port, as clients and operators see them: real workers, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from autoscale.host import Hypervisor
from lb import worker_process
from lb.address import split_address
from lb.config import Config
from lb.errors import ListenError
from lb.installation import Installation
from lb.service import Balancer
from lb.workers import LONGEST_PAUSE_S, pause_s
from tests import test_service
from tests.fake_backend import Exchange, FakeBackend
from tests.proxy_harness import PATIENCE_S, Answer, Client, _of_fakes, until
from tests.test_reload import Held, client, config, get, named, serving
from tests.test_worker import closed

SLOW = "/slow"


@contextlib.asynccontextmanager
async def running(
    home: Path, wanted: Config, hosts: dict[str, Hypervisor] | None = None
) -> AsyncIterator[Balancer]:
    """A balancer and its workers, all serving; none is left at the end."""
    before = asyncio.all_tasks()
    with Installation(home) as installation:
        balancer = Balancer(wanted, installation, hosts)
        await balancer.start()
        try:
            await until(lambda: balancer.workers.serving == wanted.proxy.workers)
            pids = balancer.workers.pids
            yield balancer
            pids = balancer.workers.pids
        finally:
            await balancer.stop()
    await until(lambda: not (asyncio.all_tasks() - before - _of_fakes()))
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def with_workers(number: int, *routes: Any, **parts: Any) -> Config:
    proxy = {"workers": number, **parts.pop("proxy", {})}
    return config(*routes, proxy=proxy, **parts)


def arrived(balancer: Balancer) -> list[int]:
    """Requests of service `web` by worker; the first one's are the rest of the sum."""
    lead = balancer._lead
    serial = lead._services["web"].serial
    others = [
        int(peer.totals.get(serial, {}).get("arrived", 0))
        for peer in sorted(lead.peers, key=lambda peer: peer.number)
    ]
    return [balancer._services["web"].site.counters.arrived - sum(others), *others]


@contextlib.asynccontextmanager
async def connected(balancer: Balancer, *numbers: int) -> AsyncIterator[list[Client]]:
    """A connection to each of these workers: the kernel deals them out, so until each has one."""
    async with contextlib.AsyncExitStack() as stack:
        found: dict[int, Client] = {}
        while not set(numbers) <= set(found):
            one = await stack.enter_async_context(client(balancer))
            before = arrived(balancer)
            await one.request("GET", "/")
            await one.answer()
            await until(partial(lambda old: sum(arrived(balancer)) > old, sum(before)))
            (number,) = [
                n for n, (old, new) in enumerate(zip(before, arrived(balancer), strict=True))
                if new > old
            ]  # fmt: skip
            found.setdefault(number, one)
        yield [found[number] for number in numbers]


async def ask(one: Client, target: str = "/") -> Answer:
    await one.request("GET", target)
    return await one.answer()


def metric(balancer: Balancer, name: str) -> float:
    """The sum of all series whose name and labels begin like this."""
    text = balancer.metrics()[0].decode()
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}\S* (\S+)$", text, re.M))


OK = 'lb_requests_total{code="200",method="GET",service="web"}'


def kinds(balancer: Balancer) -> list[str]:
    return [event.kind for event in balancer.journal._recent]


# ── serving, summing up ──────────────────────────────────────────────────────────────────────────


async def test_all_serve_on_one_port_and_the_figures_are_of_all(tmp_path: Path) -> None:
    async with (
        named("a", "b") as (a, b),
        running(tmp_path, with_workers(3, web=[a.address, b.address])) as balancer,
    ):
        await serving(balancer)
        assert metric(balancer, "lb_workers") == 3
        async with connected(balancer, 0, 1, 2) as ones:
            before = sum(arrived(balancer))
            for one in ones:
                for _ in range(4):
                    assert (await ask(one)).body in (b"a", b"b")
            sent = before + 12
            await until(lambda: metric(balancer, OK) == sent)
            assert metric(balancer, "lb_request_duration_seconds_count") == sent
            assert metric(balancer, "lb_upstream_duration_seconds_count") == sent
            assert metric(balancer, "lb_client_connections") >= 3
            views = balancer.pool()["web"]
            assert sum(view.requests_total for view in views) == sent
            assert all(view.latency_p50_s for view in views)
            demand = balancer._services["web"].site.demand()
            assert demand.arrived_total == sum(demand.served_total.values()) == sent
            assert demand.latency_p99_s is not None
        assert len(a.seen) + len(b.seen) == sent


async def test_what_runs_and_what_waits_on_any_of_them_is_seen(tmp_path: Path) -> None:
    held = Held("a")
    async with FakeBackend(held) as a:
        wanted = with_workers(2, web={"backends": [a.address], "max_in_flight": 2})
        async with running(tmp_path, wanted) as balancer:
            await serving(balancer)
            async with connected(balancer, 0, 1) as (first, second), client(balancer) as third:
                await first.request("GET", SLOW)
                await second.request("GET", SLOW)
                await until(lambda: held.asked == 2)
                await until(lambda: metric(balancer, "lb_inflight_requests{") == 2)
                # each may send one of the two: whoever comes next waits, wherever it is
                await third.request("GET", SLOW)
                await until(lambda: metric(balancer, "lb_queued_requests{") == 1)
                assert metric(balancer, "lb_backend_inflight_requests{") == 2
                assert balancer.pool()["web"][0].in_flight == 2
                demand = balancer._services["web"].site.demand()
                assert (demand.queued, demand.in_flight) == (1, {a.address: 2})
                held.go.set()
                for one in (first, second, third):
                    assert (await one.answer()).status == 200
                await until(lambda: not metric(balancer, "lb_inflight_requests{"))


async def test_least_requests_goes_by_what_runs_on_all_of_them(tmp_path: Path) -> None:
    one, other = Held("a"), Held("b")
    async with (
        FakeBackend(one) as a,
        FakeBackend(other) as b,
        running(tmp_path, with_workers(2, web=[a.address, b.address])) as balancer,
    ):
        await serving(balancer)
        async with connected(balancer, 0, 1) as (first, second):
            await second.request("GET", SLOW)
            await until(lambda: one.asked + other.asked == 1)
            busy = b"a" if one.asked else b"b"
            # by its own requests alone the first would send every other one there
            assert {(await ask(first)).body for _ in range(20)} == {b"a", b"b"} - {busy}
            one.go.set()
            other.go.set()
            assert (await second.answer()).body == busy
            # its worker counts it off after it was sent, and may not have the processor then
            async with asyncio.timeout(PATIENCE_S):
                while (await ask(first)).body != busy:
                    pass


async def test_one_alone_starts_no_other(tmp_path: Path) -> None:
    async with named("a") as (a,), running(tmp_path, config(web=[a.address])) as balancer:
        await serving(balancer)
        assert (balancer.workers.pids, metric(balancer, "lb_workers")) == ((), 1)
        assert (await get(balancer)).body == b"a"


async def test_a_port_that_another_program_has_is_not_joined(tmp_path: Path) -> None:
    async with running(tmp_path / "one", with_workers(2, web=[])) as balancer:
        taken = with_workers(2, proxy={"listen": balancer.addresses[0]}, web=[])
        with Installation(tmp_path / "two") as installation:
            other = Balancer(taken, installation)
            with pytest.raises(ListenError, match="address in use"):
                await other.start()


# ── dying ────────────────────────────────────────────────────────────────────────────────────────


async def test_one_that_is_killed_is_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    held = Held("a")
    async with FakeBackend(held) as a:
        wanted = with_workers(3, web=[a.address])
        async with running(tmp_path, wanted) as balancer:
            await serving(balancer)
            async with connected(balancer, 0, 1, 2) as (first, second, third):
                await until(lambda: metric(balancer, OK) == sum(arrived(balancer)))
                counted = metric(balancer, OK)
                for one in (first, second, third):
                    await one.request("GET", SLOW)
                await until(lambda: metric(balancer, "lb_inflight_requests{") == held.asked == 3)
                os.kill(balancer.workers.pids[0], signal.SIGKILL)
                assert await second.ended()
                await until(lambda: metric(balancer, "lb_workers") == 2)
                assert metric(balancer, OK) >= counted
                # nobody is refused meanwhile: what would come to the dead one, the first takes
                for _ in range(30):
                    assert (await get(balancer)).status == 200
                held.go.set()
                for one in (first, third):
                    assert (await one.answer()).status == 200
                    assert (await ask(one)).status == 200
            await until(lambda: balancer.workers.serving == 3)
            await until(lambda: metric(balancer, OK) >= counted + 34)
            assert metric(balancer, "lb_worker_restarts_total") == 1
            assert not metric(balancer, "lb_inflight_requests{")
            assert kinds(balancer).count("worker.died") == 1
            async with connected(balancer, 1) as (again,):
                assert (await ask(again)).status == 200


async def test_no_connection_is_refused_while_one_dies_again_and_again(tmp_path: Path) -> None:
    async with named("a") as (a,), running(tmp_path, with_workers(2, web=[a.address])) as balancer:
        await serving(balancer)
        for _ in range(2):
            (pid,) = balancer.workers.pids
            os.kill(pid, signal.SIGSTOP)
            await until(partial(lambda stopped: state_of(stopped) == "T", pid))
            # what comes to it now waits in its socket
            waiting = [asyncio.ensure_future(get(balancer)) for _ in range(20)]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)
            os.kill(pid, signal.SIGKILL)
            assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
            await until(lambda: balancer.workers.serving == 2)


@dataclass
class Up:
    """`lbctl up` with three workers, as a process group of its own."""

    first: subprocess.Popen[bytes]
    others: list[int]
    port: int
    config: Path
    log: Path


@contextlib.asynccontextmanager
async def up(folder: Path) -> AsyncIterator[Up]:
    """Whatever happened, no process of it is left."""
    path, log = folder / "lb.toml", folder / "log"
    path.write_text(text("one"))
    for word in ("one", "two"):
        (folder / f"{word}.txt").write_text(word)
    with log.open("w") as stderr:
        first = subprocess.Popen(  # noqa: ASYNC220 - it goes on beside us
            [sys.executable, "-m", "lb.cli", "up", "-c", str(path)],
            env={**os.environ, "LBCTL_HOME": str(folder / "home")},
            stderr=stderr,
            start_new_session=True,
        )
    others: list[int] = []
    try:
        await until(lambda: log.read_text().count(" serves, process ") == 2)
        others = [int(pid) for pid in re.findall(r"serves, process (\d+)", log.read_text())]
        (port,) = re.findall(r"listening on http://127.0.0.1:(\d+)", log.read_text())
        yield Up(first, others, int(port), path, log)
        await until(lambda: all(state_of(pid) in "XZ" for pid in others))
        assert "Traceback" not in log.read_text()
    finally:
        first.kill()
        first.wait()
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def text(page: str) -> str:
    return (
        '[proxy]\nlisten = "127.0.0.1:0"\nworkers = 3\n[admin]\nlisten = "127.0.0.1:0"\n'
        f'[service.web.error_pages]\ndefault = "{page}.txt"\n'
    )


async def bodies(port: int) -> set[bytes]:
    """What twelve new connections are answered: all three take some of them, or nearly always."""
    found = set()
    for _ in range(12):
        async with Client(port) as one:
            found.add((await ask(one)).body)
    return found


async def test_what_comes_to_a_dead_one_the_first_takes_until_another_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, go = worker_process.start, asyncio.Event()

    async def late(*arguments: Any) -> asyncio.subprocess.Process:
        await go.wait()
        return await start(*arguments)

    async with named("a") as (a,), running(tmp_path, with_workers(2, web=[a.address])) as balancer:
        await serving(balancer)
        monkeypatch.setattr(worker_process, "start", late)
        os.kill(balancer.workers.pids[0], signal.SIGKILL)
        await until(lambda: balancer.workers.serving == 1)
        try:
            for _ in range(30):
                assert (await get(balancer)).status == 200
        finally:
            go.set()
        await until(lambda: balancer.workers.serving == 2)


async def test_they_end_when_the_first_is_gone(tmp_path: Path) -> None:
    async with up(tmp_path) as it:
        it.first.kill()
        it.first.wait()
        await until(lambda: it.log.read_text().count("the first process is gone") == 2)


async def test_signals_are_the_firsts_and_count_for_all(tmp_path: Path) -> None:
    async with up(tmp_path) as it:
        assert await bodies(it.port) == {b"one"}
        it.config.write_text(text("two"))
        os.killpg(it.first.pid, signal.SIGHUP)  # as a terminal does
        await until(lambda: "configuration applied" in it.log.read_text())
        assert await bodies(it.port) == {b"two"}
        for pid in it.others:
            assert os.getsid(pid) != os.getsid(it.first.pid), "Ctrl-C would reach it as it starts"
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
        assert await bodies(it.port) == {b"two"}
        os.killpg(it.first.pid, signal.SIGINT)
        await until(lambda: it.first.poll() is not None)
        assert it.first.returncode == 0
        assert "cut" not in it.log.read_text()


def state_of(pid: int) -> str:
    """The kernel's letter for it; X where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return "X"
    return stat.rpartition(")")[2].split()[0]


async def test_one_that_hangs_is_killed_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with named("a") as (a,), running(tmp_path, with_workers(2, web=[a.address])) as balancer:
        await serving(balancer)
        (pid,) = balancer.workers.pids
        monkeypatch.setattr("lb.workers.SILENT_S", 1.0)
        peer = balancer._lead.peers[0]
        balancer.drain("web", a.address)
        # the wait for its report, which has come, went by the patience of before
        await until(lambda: peer.applied == balancer._lead.version)
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: state_of(pid) in "XZ")
        await until(lambda: balancer.workers.serving == 2)
        (died,) = [e for e in balancer.journal._recent if e.kind == "worker.died"]
        assert "was killed" in died.message


async def test_one_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refusals = worker_process.start, iter([True, True, False])

    async def poor(*arguments: Any) -> asyncio.subprocess.Process:
        if next(refusals):
            raise OSError(errno.EAGAIN, "too many processes")
        return await start(*arguments)

    monkeypatch.setattr(worker_process, "start", poor)
    async with named("a") as (a,), running(tmp_path, with_workers(2, web=[a.address])) as balancer:
        await serving(balancer)
        assert metric(balancer, "lb_worker_restarts_total") == 2
        async with connected(balancer, 0, 1) as ones:
            for one in ones:
                assert (await ask(one)).body == b"a"


def test_how_one_ended_is_said_in_words() -> None:
    words = [worker_process.end_in_words(code) for code in (3, -signal.SIGKILL, -64)]
    assert words == [
        "it ended with status 3", "it was killed by SIGKILL", "it was killed by SIGRTMAX",
    ]  # fmt: skip


def test_who_dies_of_its_start_is_started_ever_later() -> None:
    pauses = [pause_s(failures) for failures in range(40)]
    assert pauses[:6] == [0, 0, 0.5, 1, 2, 4]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S


# ── draining ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_drain_waits_for_a_workers_slow_request(tmp_path: Path) -> None:
    held = Held("a")
    async with (
        FakeBackend(held) as a,
        named("b") as (b,),
        running(tmp_path, with_workers(2, web=[a.address, b.address])) as balancer,
    ):
        await serving(balancer)
        pool = balancer._services["web"].pool

        def running_there() -> int:
            load = pool.load().of(a.address)
            assert load is not None
            return load.in_flight

        async with connected(balancer, 1) as (second,):
            balancer.drain("web", b.address)
            await until(lambda: not balancer.pool()["web"][1].in_flight)
            await second.request("GET", SLOW)
            await until(lambda: held.asked == 1)
            balancer.ready("web", b.address)
            # told in one breath with the request, before any report of it: it counts
            balancer.drain("web", a.address)
            assert running_there() >= 1
            await until(lambda: pool.get(b.address).available)  # type: ignore[union-attr]
            peer = balancer._lead.peers[0]
            await until(lambda: peer.applied == balancer._lead.version)
            assert running_there() == 1
            # and nobody else is sent there
            async with connected(balancer, 0, 1) as ones:
                for one in ones:
                    assert (await ask(one)).body == b"b"
            held.go.set()
            assert (await second.answer()).body == b"a"
            await until(lambda: not running_there())


async def test_a_machine_is_not_ended_with_a_workers_request_on_it(tmp_path: Path) -> None:
    test_service.make_image(tmp_path)
    with Installation(tmp_path) as installation:
        host = test_service.Machines(installation.instance)
    wanted = test_service.config(scale={"min": 1, "max": 2})
    wanted = wanted.model_copy(update={"proxy": wanted.proxy.model_copy(update={"workers": 2})})
    try:
        async with running(tmp_path, wanted, {"local": host}) as balancer:
            await serving(balancer)
            (first,) = host.apps
            async with connected(balancer, 1) as (second,):
                host.hold.clear()
                await second.request("GET", SLOW)
                await until(lambda: metric(balancer, "lb_inflight_requests{") == 1)
                host.domains[first].use(0.95)
                await until(lambda: test_service.ready(balancer) == 2)
                fleet = balancer.controllers["web"].fleet
                balancer._services["web"].scaler.retire_vm(first)  # type: ignore[union-attr]
                await until(lambda: fleet.get(first).state == "draining")  # type: ignore[union-attr]
                acked = balancer._lead.peers[0]
                await until(lambda: acked.applied == balancer._lead.version)
                told = len(host.calls)
                await until(lambda: len(host.calls) > told + 5)  # the fleet looked several times
                assert first in host.domains
                assert ("vm.drained", "drain_timeout") not in test_service.events(balancer)
                host.hold.set()
                assert (await second.answer()).body == first.encode()
                await until(lambda: first not in host.domains)
    finally:
        await host.power_cut()


# ── what reaches them ────────────────────────────────────────────────────────────────────────────


async def test_a_new_configuration_is_in_force_everywhere_when_it_is_said_to_be(
    tmp_path: Path,
) -> None:
    async with (
        named("a", "b", "api") as (a, b, api),
        running(tmp_path, with_workers(2, web=[a.address])) as balancer,
    ):
        await serving(balancer)
        async with connected(balancer, 0, 1) as ones:
            listen = [balancer.config.proxy.listen[0].address, "127.0.0.2:0"]
            routes = ({"path": "/api", "service": "api"}, {"path": "/", "service": "web"})
            found = await balancer.reload(
                with_workers(
                    3, *routes, proxy={"listen": listen}, web=[b.address], api=[api.address]
                )
            )
            assert found.waiting == ("proxy.workers: 2 → 3: needs a restart",)
            await until(lambda: balancer.is_ready()[0])
            await until(lambda: balancer._lead.peers[0].applied == balancer._lead.version)
            for one in ones:
                assert (await ask(one)).body == b"b"
                assert (await ask(one, "/api")).body == b"api"
            host, port = split_address(balancer.addresses[1])
            assert host == "127.0.0.2"
            before = sum(arrived(balancer))
            for _ in range(40):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert b"200 OK" in await reader.read()
                writer.close()
            await until(lambda: sum(arrived(balancer)) >= before + 40)
            assert min(arrived(balancer)) > 2, "the new address is everybody's"
            # and what leaves, leaves everywhere
            await balancer.reload(with_workers(2, web=[b.address]))
            await until(lambda: "api" not in balancer._services)
            for one in ones:
                assert (await ask(one, "/api")).body == b"b"


async def test_a_service_leaves_once_no_worker_has_a_request_of_it(tmp_path: Path) -> None:
    held = Held("api")
    async with named("a") as (a,), FakeBackend(held) as api:
        routes = ({"path": "/slow", "service": "api"}, {"path": "/", "service": "web"})
        wanted = with_workers(
            2, *routes, proxy={"shutdown_grace": 3600.0}, web=[a.address], api=[api.address]
        )
        alone = with_workers(2, proxy={"shutdown_grace": 3600.0}, web=[a.address])
        async with running(tmp_path, wanted) as balancer:
            await serving(balancer)
            async with connected(balancer, 1) as (second,):
                await second.request("GET", SLOW)
                await until(lambda: held.asked == 1)
                await until(lambda: metric(balancer, "lb_inflight_requests{") == 1)
                leaving = balancer._services["api"]
                await balancer.reload(alone)
                assert leaving.leaving
                asked = arrived(balancer)[0]
                for _ in range(20):
                    assert (await get(balancer, SLOW)).body == b"a"
                await until(lambda: sum(arrived(balancer)) >= asked + 20)
                assert balancer._services["api"] is leaving
                held.go.set()
                assert (await second.answer()).body == b"api"
                await until(lambda: "api" not in balancer._services)


async def test_a_death_met_on_one_worker_is_known_to_all(tmp_path: Path) -> None:
    async with named("a", "b") as (a, b):
        web = {
            "backends": [a.address, b.address],
            "health": {"interval": 3600.0, "interval_down": 3600.0, "fall": 3},
        }
        async with running(tmp_path, with_workers(2, web=web)) as balancer:
            pool = balancer._services["web"].pool
            await until(lambda: len(pool.available) == 2)
            async with connected(balancer, 1) as (second,):
                await a.stop()
                for _ in range(3):
                    assert (await ask(second)).body == b"b"
                # nobody but that worker met it, and the next probe is due in an hour
                await until(lambda: not pool.get(a.address).available)  # type: ignore[union-attr]


async def test_a_request_on_a_worker_wakes_a_service_at_zero(tmp_path: Path) -> None:
    test_service.make_image(tmp_path)
    with Installation(tmp_path) as installation:
        host = test_service.Machines(installation.instance)
    wanted = test_service.config(scale={"min": 0, "max": 1, "sample_interval": 0.1})
    wanted = wanted.model_copy(update={"proxy": wanted.proxy.model_copy(update={"workers": 2})})
    try:
        async with running(tmp_path, wanted, {"local": host}) as balancer:
            await until(lambda: balancer._services["web"].site.line.awaited() > 0)
            await until(lambda: not host.ours())
            peer = balancer._lead.peers[0]
            await until(lambda: balancer._lead._services["web"].awaited_s > 0)
            await until(lambda: peer.applied == balancer._lead.version)
            async with contextlib.AsyncExitStack() as stack:
                ones = [await stack.enter_async_context(client(balancer)) for _ in range(12)]
                for one in ones:
                    await one.request("GET", "/")
                for one in ones:
                    assert (await one.answer()).status == 200
                await until(lambda: sum(arrived(balancer)) == 12)
                assert arrived(balancer)[1] > 0
    finally:
        await host.power_cut()


# ── ending ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_stop_lets_every_workers_requests_finish(tmp_path: Path) -> None:
    held = Held("a")
    async with (
        FakeBackend(held) as a,
        running(tmp_path, with_workers(2, web=[a.address])) as balancer,
    ):
        await serving(balancer)
        async with connected(balancer, 0, 1) as ones:
            for one in ones:
                await one.request("GET", SLOW)
            await until(lambda: held.asked == 2)
            stopping = asyncio.ensure_future(balancer.stop())
            await closed(*split_address(balancer.addresses[0]))
            assert not stopping.done()
            held.go.set()
            for one in ones:
                assert (await one.answer()).status == 200
                assert await one.ended()
            await stopping
            assert metric(balancer, OK) == balancer._services["web"].site.counters.arrived


async def test_told_to_hurry_they_cut_what_runs(tmp_path: Path) -> None:
    async def never(exchange: Exchange) -> None:
        if exchange.path == b"/slow":
            await exchange.client_gone()
        else:
            await exchange.answer()

    async with FakeBackend(never) as a:
        wanted = with_workers(2, proxy={"shutdown_grace": 3600.0}, web=[a.address])
        async with running(tmp_path, wanted) as balancer:
            await serving(balancer)
            async with connected(balancer, 0, 1) as ones:
                for one in ones:
                    await one.request("GET", SLOW)
                await until(lambda: len([s for s in a.seen if s.target == b"/slow"]) == 2)
                stopping = asyncio.ensure_future(balancer.stop())
                await asyncio.sleep(0)
                balancer.hurry()
                for one in ones:
                    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                        assert (await one.answer()).status != 200
                async with asyncio.timeout(PATIENCE_S):
                    await stopping
