"""The whole process without VMs: a Balancer over real loopback sockets, its machines scripted.

Each fake machine is an HTTP application on a port of its own, so requests, probes and draining are
real; only libvirt is not. It runs in real time: conditions are awaited, durations never asserted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from autoscale.domain_xml import Identity, VmSpec
from autoscale.host import HypervisorError
from guest import image as guest_image
from lb.admin.control import RefusedError, UnknownNameError
from lb.config import Config, parse_config
from lb.errors import ListenError
from lb.installation import Installation
from lb.service import Balancer
from tests.fake_backend import Exchange, FakeBackend
from tests.fakes import FakeHypervisor
from tests.proxy_harness import until


class RealTime:
    def now(self) -> float:
        return time.monotonic()


class Machines(FakeHypervisor):
    """A fake host whose machines answer HTTP with their own name, until they are powered off."""

    def __init__(self, instance: str) -> None:
        super().__init__(RealTime(), instance=instance, boot_s=0.0, shutdown_s=0.05)
        self.apps: dict[str, FakeBackend] = {}
        self.specs: dict[str, VmSpec] = {}
        self.hold = asyncio.Event()
        self.hold.set()

    async def create(self, spec: VmSpec) -> Identity:
        async def application(exchange: Exchange) -> None:
            if exchange.path.endswith(b"/slow"):
                await self.hold.wait()
            await exchange.answer(spec.name.encode())

        self.specs[spec.name] = spec
        identity = await super().create(spec)
        app = self.apps[spec.name] = await FakeBackend(application).start()
        identity = replace(identity, host_port=int(app.address.rpartition(":")[2]))
        self.domains[spec.name].identity = identity
        return identity

    async def observe(self) -> Any:
        found = await super().observe()
        for name in set(self.apps) - set(self.domains):
            await self.apps.pop(name).stop()
        return found

    async def kill(self, name: str) -> None:
        self.crash(name)
        await self.apps.pop(name).stop()

    async def power_cut(self) -> None:
        for app in self.apps.values():
            await app.stop()


def config(**service: Any) -> Config:
    scale = {
        "min": 1, "max": 2, "sample_interval": 0.1, "grow_window": 0.3, "shrink_window": 0.5,
    }  # fmt: skip
    web = {
        "vm": {"drain_timeout": 20.0, "shutdown_timeout": 5.0, "snapshot": "off"},
        "scale": {**scale, **service.pop("scale", {})} if service.get("vm", True) else None,
        "health": {"interval": 0.05, "interval_down": 0.05},
        **service,
    }
    return parse_config(
        {
            "proxy": {"listen": "127.0.0.1:0", "shutdown_grace": 5.0},
            "admin": {"listen": "127.0.0.1:0"},
            "service": {"web": {k: v for k, v in web.items() if v is not None}},
        }
    )


def config_of(*names: str) -> Config:
    """These services, each of one VM; the first gets what has no route of its own."""
    data = config().model_dump(exclude={"hypervisor", "route"})
    (one,) = data["service"].values()
    data["service"] = dict.fromkeys(names, one)
    data["route"] = [{"path": f"/{name}", "service": name} for name in names[1:]]
    data["route"].append({"service": names[0]})
    return parse_config(data)


def make_image(home: Path) -> None:
    """What `guest.image.load` wants to find; nothing here boots it."""
    folder = home / "images" / "webapp"
    folder.mkdir(parents=True)
    for name in (guest_image.DISK, guest_image.KERNEL, guest_image.INITRD):
        (folder / name).write_bytes(b"\0")
    image = guest_image.Image(
        "webapp", folder, folder / guest_image.DISK, folder / guest_image.KERNEL,
        folder / guest_image.INITRD, "quiet", "c" * 64, "r" * 64, 1,
        "2026-01-01T00:00:00+00:00", {},
    )  # fmt: skip
    (folder / guest_image.FACTS).write_text(json.dumps(guest_image.to_facts(image)))


@contextlib.asynccontextmanager
async def outliving(home: Path) -> AsyncIterator[Machines]:
    """Machines that outlive the balancer, as real ones do, but not the test, however it ends."""
    make_image(home)
    with Installation(home) as installation:
        host = Machines(installation.instance)
    try:
        yield host
    finally:
        await host.power_cut()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Machines]:
    async with outliving(tmp_path) as machines:
        yield machines


@contextlib.asynccontextmanager
async def running(
    home: Path, wanted: Config, *, image: bool = True, machines: Machines | None = None
) -> AsyncIterator[tuple[Balancer, Machines]]:
    """A Balancer that serves; at the end nothing of it may be left: no task, no lock."""
    before = asyncio.all_tasks()
    if image and not (home / "images").exists():
        make_image(home)
    with Installation(home) as installation:
        host = machines or Machines(installation.instance)
        balancer = Balancer(wanted, installation, {"local": host})
        await balancer.start()
        try:
            yield balancer, host
        finally:
            await balancer.stop()
            if machines is None:
                await host.power_cut()
    await until(lambda: not (asyncio.all_tasks() - before))


async def get(balancer: Balancer, path: str = "/") -> tuple[int, str, dict[str, str]]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{balancer.addresses[0]}{path}") as response,
    ):
        return response.status, await response.text(), dict(response.headers)


def ready(balancer: Balancer, service: str = "web") -> int:
    return balancer.controllers[service].fleet.counts().ready


def events(balancer: Balancer) -> list[tuple[str, str]]:
    return [(event.kind, event.reason) for event in balancer.journal._recent]


# --- the story


async def test_join_serve_grow_drain_and_leave(tmp_path: Path) -> None:
    async with running(tmp_path, config()) as (balancer, host):
        await until(lambda: balancer.is_ready()[0])
        (first,) = host.apps
        assert (await get(balancer))[:2] == (200, first)

        host.domains[first].use(0.95)
        await until(lambda: ready(balancer) == 2)
        (second,) = set(host.apps) - {first}
        answers = {(await get(balancer))[1] for _ in range(20)}
        assert answers == {first, second}

        for domain in host.ours():
            domain.use(0.1)
        await until(lambda: len(host.ours()) == 1 and ready(balancer) == 1)
        (left,) = [domain.name for domain in host.ours()]
        assert {(await get(balancer))[1] for _ in range(10)} == {left}
        kinds = [kind for kind, _ in events(balancer)]
        story = [
            "vm.launch", "backend.ready", "vm.ready", "scale.up", "vm.launch", "vm.ready",
            "scale.down", "backend.draining", "vm.draining", "vm.drained", "vm.gone",
        ]  # fmt: skip
        told = iter(kinds)
        assert all(word in told for word in story), kinds


async def test_a_request_that_runs_is_finished_before_its_machine_leaves(tmp_path: Path) -> None:
    async with running(tmp_path, config(scale={"min": 2})) as (balancer, host):
        await until(lambda: ready(balancer) == 2)
        host.hold.clear()
        slow = [asyncio.ensure_future(get(balancer, "/slow")) for _ in range(2)]
        await until(
            lambda: balancer.pool()["web"][0].in_flight + balancer.pool()["web"][1].in_flight == 2
        )
        await balancer.reload(config(scale={"min": 1, "max": 1}))
        await until(lambda: "vm.draining" in [kind for kind, _ in events(balancer)])
        await asyncio.sleep(0.3)
        assert len(host.ours()) == 2
        assert host.asked("shutdown") == []
        host.hold.set()
        assert [status for status, *_ in await asyncio.gather(*slow)] == [200, 200]
        await until(lambda: len(host.ours()) == 1)


async def test_a_machine_that_dies_is_replaced_and_no_request_hangs(tmp_path: Path) -> None:
    async with running(tmp_path, config()) as (balancer, host):
        await until(lambda: ready(balancer) == 1)
        (first,) = host.apps
        await host.kill(first)
        status, body, fields = await get(balancer)
        # the only machine is gone and nothing of the answer had moved: refused at once
        assert status in (502, 503)
        assert json.loads(body)["reason"] in ("reset", "connect_failed", "pool_empty", "none_ready")
        assert (status == 503) == ("Retry-After" in fields)
        await until(lambda: ready(balancer) == 1 and first not in host.apps)
        assert (await get(balancer))[0] == 200
        assert any(
            kind in ("vm.failed", "vm.gone") and why == "crashed" for kind, why in events(balancer)
        )


async def test_stopped_the_machines_live_on_and_a_successor_serves_with_them(
    tmp_path: Path, host: Machines
) -> None:
    async with running(tmp_path, config(), machines=host) as (balancer, _):
        await until(lambda: ready(balancer) == 1)
    (name,) = host.apps
    assert [d.name for d in host.ours()] == [name]
    async with running(tmp_path, config(), machines=host) as (balancer, _):
        await until(lambda: ready(balancer) == 1)
        assert (await get(balancer))[:2] == (200, name)
        assert ("vm.adopted", "adopted") in events(balancer)
    assert host.asked("create") == [name]


async def test_retiring_ends_every_machine(tmp_path: Path, host: Machines) -> None:
    with Installation(tmp_path) as installation:
        balancer = Balancer(config(scale={"min": 2}), installation, {"local": host})
        await balancer.start()
        await until(lambda: ready(balancer) == 2)
        await balancer.stop(retire_vms=True)
    assert host.ours() == []
    assert not host.is_open


# --- what can be wrong from the start


@pytest.mark.parametrize("which", ["proxy", "admin"])
async def test_a_port_that_is_taken_is_one_line_and_nothing_is_left(
    tmp_path: Path, which: str
) -> None:
    before = asyncio.all_tasks()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        data = config().model_dump()
        data[which]["listen"] = (
            f"127.0.0.1:{port}" if which == "admin" else ("127.0.0.1:0", f"127.0.0.1:{port}")
        )
        with Installation(tmp_path) as installation:
            host = Machines(installation.instance)
            balancer = Balancer(parse_config(data), installation, {"local": host})
            with pytest.raises(ListenError) as caught:
                await balancer.start()
    assert str(port) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert host.calls == [], "no machine was started for a process that cannot serve"
    assert not (asyncio.all_tasks() - before)
    with Installation(tmp_path):
        pass


async def test_without_an_image_it_says_so_answers_503_and_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, config(), image=False) as (balancer, host):
        await until(lambda: ("vm.failed", "image_gone") in events(balancer))
        status, body, fields = await get(balancer)
        assert status == 503
        assert int(fields["Retry-After"]) >= 1
        assert json.loads(body)["reason"] == "pool_empty"
        said = [e.message for e in balancer.journal._recent if e.kind == "vm.failed"]
        assert "run `lbctl image build`" in said[0]
        assert host.ours() == []
        make_image(tmp_path)
        await until(lambda: ready(balancer) == 1)
        assert (await get(balancer))[0] == 200


async def test_a_host_that_does_not_answer_does_not_keep_us_from_serving(
    tmp_path: Path, host: Machines
) -> None:
    """A static backend serves meanwhile; once libvirt is back, so are its machines."""
    host.unreachable = True
    async with (
        FakeBackend() as static,
        running(tmp_path, config(backends=[static.address]), machines=host) as (balancer, _),
    ):
        await until(lambda: ("host.unreachable", "hypervisor_unreachable") in events(balancer))
        await until(lambda: balancer.is_ready()[0])
        assert (await get(balancer))[:2] == (200, "ok")
        (row,) = await balancer.hosts()
        assert (row.reachable, row.error) == (False, "local: no answer from libvirt in 20 s")
        assert 'libvirt_up{host="local"} 0.0' in balancer.metrics()[0].decode()
        host.unreachable = False
        await until(lambda: ready(balancer) == 1)
        (row,) = await balancer.hosts()
        assert (row.reachable, row.error, row.domain_type) == (True, None, "test")
        assert 'libvirt_up{host="local"} 1.0' in balancer.metrics()[0].decode()
        assert row.replicas == 1


# --- operating it


async def test_a_reload_takes_over_bounds_and_static_backends(tmp_path: Path) -> None:
    async with (
        FakeBackend() as a,
        FakeBackend() as b,
        running(tmp_path, config(backends=[a.address])) as (balancer, _),
    ):
        await until(lambda: ready(balancer) == 1)
        found = await balancer.reload(
            config(backends=[b.address], scale={"min": 2, "sample_interval": 0.15})
        )
        assert balancer.controllers["web"].interval_s == 0.15
        await until(lambda: ready(balancer) == 2)
        names = [backend.name for backend in balancer.pool()["web"]]
        assert b.address in names
        assert a.address not in names
        assert found.waiting == ()
        assert set(found.made) == {
            f"service.web: backend {b.address} joins",
            f"service.web: backend {a.address} leaves",
            "service.web.scale.min: 1 → 2",
            "service.web.scale.sample_interval: 0.1 → 0.15",
        }


async def test_a_reload_after_an_operator_removed_that_backend(tmp_path: Path) -> None:
    async with (
        FakeBackend() as a,
        FakeBackend() as b,
        running(tmp_path, config(vm=None, backends=[a.address])) as (balancer, _),
    ):
        balancer.remove("web", a.address)
        await balancer.reload(config(vm=None, backends=[b.address]))
        assert [backend.name for backend in balancer.pool()["web"]] == [b.address]


async def test_the_autoscaler_owns_its_machines(tmp_path: Path) -> None:
    async with running(tmp_path, config()) as (balancer, _):
        await until(lambda: ready(balancer) == 1)
        (vm,) = await balancer.vms()
        assert vm.image_name == "webapp"
        with pytest.raises(RefusedError, match="is a VM"):
            balancer.remove("web", vm.name)
        with pytest.raises(UnknownNameError, match="web is served"):
            balancer.drain("api", vm.name)
        await until(lambda: balancer.scale("web").ready == 1)
        row = balancer.scale("web")
        assert (row.desired, row.min, row.max) == (1, 1, 2)
        text = balancer.metrics()[0].decode()
        assert 'autoscaler_ready_replicas{service="web"} 1.0' in text
        for path, starts in (("cold", 1), ("snapshot", 0), ("standby", 0)):
            assert f'autoscaler_vm_activation_seconds_count{{path="{path}"}} {starts}.0' in text


async def test_with_static_backends_only_there_is_no_scaler(tmp_path: Path) -> None:
    async with (
        FakeBackend() as static,
        running(tmp_path, config(vm=None, backends=[static.address])) as (balancer, host),
    ):
        await until(lambda: balancer.is_ready()[0])
        assert (await get(balancer))[0] == 200
        assert balancer.controllers == {}
        assert await balancer.vms() == []
        assert host.calls == []


# --- services that come and go


async def test_services_of_machines_come_and_go(tmp_path: Path) -> None:
    async with running(tmp_path, config_of("web")) as (balancer, host):
        await until(lambda: ready(balancer) == 1)
        found = await balancer.reload(config_of("web", "api"))
        assert "service api is new" in found.made
        assert not balancer.is_ready()[0]
        await until(lambda: balancer.is_ready()[0])
        (api,) = [domain.name for domain in host.ours("api")]
        assert (await get(balancer, "/api"))[1] == api
        assert {row.service for row in await balancer.vms()} == {"web", "api"}
        await until(lambda: balancer.scale("api").ready == 1)
        text = balancer.metrics()[0].decode()
        assert 'autoscaler_ready_replicas{service="api"} 1.0' in text

        found = await balancer.reload(config_of("web"))
        assert "service api leaves: its requests finish and its VMs are retired" in found.made
        await until(lambda: "api" not in balancer.pool())
        assert host.ours("api") == []
        assert ready(balancer) == 1
        story = [
            "service.leaving", "backend.draining", "vm.draining", "vm.drained", "vm.gone",
            "service.gone",
        ]  # fmt: skip
        told = iter([e.kind for e in balancer.journal._recent if e.service == "api"])
        assert all(word in told for word in story)
        assert host.asked("create") == [*host.apps, api]


async def test_a_service_that_comes_back_keeps_the_machines_it_has(tmp_path: Path) -> None:
    async with running(tmp_path, config_of("web", "api")) as (balancer, host):
        await until(lambda: balancer.is_ready()[0])
        (api,) = [domain.name for domain in host.ours("api")]
        host.hold.clear()
        slow = asyncio.ensure_future(get(balancer, "/api/slow"))
        await until(lambda: balancer.pool()["api"][0].in_flight)
        await balancer.reload(config_of("web"))
        await balancer.reload(config_of("web", "api"))
        host.hold.set()
        assert (await slow)[0] == 200
        assert (await get(balancer, "/api"))[:2] == (200, api), "it never left"
        assert [domain.name for domain in host.ours("api")] == [api]


async def test_a_service_that_comes_back_while_its_machines_end_gets_others(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, config_of("web", "api")) as (balancer, host):
        await until(lambda: balancer.is_ready()[0])
        (api,) = [domain.name for domain in host.ours("api")]
        host.domains[api].ignores_power_button = True
        await balancer.reload(config_of("web"))
        await until(lambda: host.asked("shutdown") == [api])
        await balancer.reload(config_of("web", "api"))
        await until(lambda: balancer.is_ready()[0])
        assert (await get(balancer, "/api"))[1] not in (api, "")
        assert "service.gone" not in [kind for kind, _ in events(balancer)]


async def test_a_service_may_lose_its_machines_and_get_some_again(tmp_path: Path) -> None:
    async with (
        FakeBackend() as static,
        running(tmp_path, config(backends=[static.address])) as (balancer, host),
    ):
        await until(lambda: ready(balancer) == 1)
        found = await balancer.reload(config(vm=None, backends=[static.address]))
        assert found.made == ("service.web: it has no VMs any more, those there are retire",)
        await until(lambda: balancer.controllers == {})
        assert host.ours() == []
        assert balancer.scale("web").desired == 0
        await balancer.reload(config(backends=[static.address]))
        await until(lambda: ready(balancer) == 1)


async def test_a_new_shape_is_for_new_machines(tmp_path: Path) -> None:
    async with running(tmp_path, config()) as (balancer, host):
        await until(lambda: ready(balancer) == 1)
        (first,) = host.apps
        vm = {"memory_mib": 512, "cpu_limit": 0.5, "snapshot": "off"}
        found = await balancer.reload(config(vm=vm, scale={"min": 2}))
        assert "service.web.vm.memory_mib: 384 → 512, for new VMs" in found.made
        await until(lambda: ready(balancer) == 2)
        (second,) = set(host.apps) - {first}
        assert host.specs[first].memory_mib == 384
        assert host.specs[second].memory_mib == 512
        assert host.specs[second].identity.cpu_limit == 0.5


async def test_machines_of_a_service_that_nobody_configured_are_shown_and_told(
    tmp_path: Path, host: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, config_of("web", "api"), machines=host) as (balancer, _):
        await until(lambda: balancer.is_ready()[0])
    (stray,) = [domain.name for domain in host.ours("api")]
    with caplog.at_level(logging.INFO):
        async with running(tmp_path, config_of("web"), machines=host) as (balancer, _):
            await until(lambda: ("vm.stray", "unknown_service") in events(balancer))
            await until(lambda: balancer.is_ready()[0])
            assert f"{stray} on local belongs to service api" in caplog.text
            rows = {row.name: row for row in await balancer.vms()}
            assert (rows[stray].state, rows[stray].service) == ("stray", "api")
            await until(lambda: balancer.scale("web").ready == 1)
            assert set(balancer.pool()) == {"web"}
            # named again, it serves again
            await balancer.reload(config_of("web", "api"))
            await until(lambda: balancer.is_ready()[0])
            assert (await get(balancer, "/api"))[1] == stray
            assert [row.state for row in await balancer.vms()] == ["ready", "ready"]
    # also where the configuration has no VMs at all any more
    async with (
        FakeBackend() as static,
        running(tmp_path, config(vm=None, backends=[static.address]), machines=host) as (other, _),
    ):
        await until(lambda: len([e for e in events(other) if e[0] == "vm.stray"]) == 2)


async def test_retiring_ends_those_that_nobody_configured_too(
    tmp_path: Path, host: Machines
) -> None:
    async with running(tmp_path, config_of("web", "api"), machines=host) as (balancer, _):
        await until(lambda: balancer.is_ready()[0])
    with Installation(tmp_path) as installation:
        balancer = Balancer(config_of("web"), installation, {"local": host})
        await balancer.start()
        await balancer.stop(retire_vms=True)
    assert host.ours("web") == host.ours("api") == []


async def test_calls_that_fail_after_the_end_are_no_tracebacks(
    tmp_path: Path, host: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped within a creation: its answer comes when the connection is closed already."""
    host.hold_creates()
    async with running(tmp_path, config(), machines=host):
        await until(lambda: host.asked("create"))
        asyncio.get_running_loop().call_later(0.2, host.release_creates)
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
    with contextlib.suppress(HypervisorError):
        await host.observe()


def grown_at(balancer: Balancer) -> str:
    """When the service last got more replicas, as a scrape shows it."""
    labels = '{direction="up",service="web"}'
    name = re.escape(f"autoscaler_last_scale_timestamp_seconds{labels} ")
    found = re.search(name + r"(\S+)", balancer.metrics()[0].decode())
    return found[1] if found else "never"


async def test_when_the_fleet_last_grew_is_shown_after_a_restart(
    tmp_path: Path, host: Machines
) -> None:
    async with running(tmp_path, config(), machines=host) as (balancer, _):
        await until(lambda: ready(balancer) == 1)
        before = grown_at(balancer)
    async with running(tmp_path, config(), machines=host) as (again, _):
        assert before == grown_at(again) != "never"


async def test_what_was_decided_and_how_it_looked_outlives_the_process(tmp_path: Path) -> None:
    async with running(tmp_path, config()) as (balancer, _):
        await until(lambda: balancer.is_ready()[0] and len(balancer.decisions) > 1)
        before = [entry.id for entry in balancer.decisions.page()]

        async def looked() -> bool:
            found = await balancer.series.read("web", "", None, 0, 10**11, 1)
            return {"desired", "ready", "requests_per_second"} <= set(found)

        async with asyncio.timeout(20):
            while not await looked():  # noqa: ASYNC110 - a file has no event to set
                await asyncio.sleep(0.05)
    async with running(tmp_path, config()) as (again, _):
        assert [entry.id for entry in again.decisions.page()][: len(before)] == before
        assert (await again.series.read("web", "", ["ready"], 0, 10**11, 1))["ready"]
