"""One service's machines as an operator meets them: orders, restarts, zero, and what is remembered.

Real time and sockets, scripted machines, as in test_service.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from autoscale.backoff import BREAKER_AFTER, LaunchGate
from autoscale.forecast import Forecast
from autoscale.rules import Mode
from guest.own.image import add, remove
from lb.admin.control import RefusedError, ScaleOrder, UnknownNameError
from lb.config import Config
from lb.forecast_file import ForecastFile
from lb.scaler import Scaler
from lb.service import Balancer
from tests import disks
from tests.proxy_harness import until
from tests.test_service import (
    Machines,
    config,
    config_of,
    get,
    outliving,
    ready,
    running,
)


def told(balancer: Balancer) -> list[str]:
    """What the journal says of orders."""
    return [e.message for e in balancer.journal._recent if e.kind == "scale.override"]


def scaler(balancer: Balancer) -> Scaler:
    found = balancer._services["web"].scaler
    assert found is not None
    return found


def at_zero(**scale: Any) -> Config:
    return config(scale={"min": 0, **scale})


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Machines]:
    async with outliving(tmp_path) as machines:
        yield machines


# ── orders ───────────────────────────────────────────────────────────────────────────────────────


async def test_an_order_is_followed_and_outlives_the_process(
    tmp_path: Path, host: Machines
) -> None:
    async with running(tmp_path, config(), machines=host) as (balancer, _):
        await until(lambda: ready(balancer) == 1)
        row = await balancer.set_scale("web", ScaleOrder("fixed", 2))
        assert (row.mode, row.to, row.until, row.ordered) == ("fixed", 2, None, True)
        await until(lambda: ready(balancer) == 2)
        assert balancer.scale("web").reason in ("override", "settling")
        assert told(balancer) == ["an operator orders 2 replicas"]
        (event,) = [e for e in balancer.journal._recent if e.kind == "scale.override"]
        assert (event.reason, event.data["to"]) == ("override", 2)
    async with running(tmp_path, config(), machines=host) as (balancer, _):
        await until(lambda: ready(balancer) == 2)
        row = balancer.scale("web")
        assert (row.mode, row.to, row.ordered) == ("fixed", 2, True)
        row = await balancer.set_scale("web", ScaleOrder("hold", for_s=600))
        assert row.until is not None
        assert 590 < row.until - time.time() <= 600
        row = await balancer.set_scale("web", ScaleOrder("auto"))
        assert (row.mode, row.to, row.until, row.ordered) == ("auto", None, None, False)
        orders, back = told(balancer)
        assert orders.startswith("an operator orders hold until 2")
        assert orders.endswith("UTC, no longer 2 replicas")
        assert back.startswith("an operator takes back: hold until 2")
        assert back.endswith("UTC; the planner decides again")
        await balancer.set_scale("web", ScaleOrder("auto"))
        assert len(told(balancer)) == 2, "there was nothing to take back"
    async with running(tmp_path, config(), machines=host) as (balancer, _):
        await until(lambda: balancer.scale("web").reason is not None)
        assert not balancer.scale("web").ordered


async def test_an_order_runs_out(tmp_path: Path) -> None:
    async with running(tmp_path, config(scale={"mode": "hold"})) as (balancer, _):
        await balancer.set_scale("web", ScaleOrder("observe", for_s=0.3))
        assert balancer.scale("web").mode == "observe"
        await until(lambda: len(told(balancer)) == 2)
        assert told(balancer)[1].endswith("UTC; mode = hold of the configuration counts again")
        assert told(balancer)[1].startswith("an operator's order has run out: observe until ")
        await until(lambda: balancer.scale("web").mode == "hold")
        assert not balancer.scale("web").ordered
        file = tmp_path / "overrides.json"
        await until(lambda: json.loads(file.read_text()) == {})


async def test_an_order_that_ran_out_while_nobody_ran_is_told_of(tmp_path: Path) -> None:
    past = {"web": {"mode": "fixed", "to": 2, "until": time.time() - 60}}
    (tmp_path / "overrides.json").write_text(json.dumps(past))
    async with running(tmp_path, config()) as (balancer, _):
        await until(lambda: told(balancer))
        assert told(balancer)[0].startswith("an operator's order has run out: 2 replicas until ")
        assert (balancer.scale("web").mode, balancer.scale("web").desired) == ("auto", 1)


async def test_what_cannot_be_ordered_says_what_can(tmp_path: Path) -> None:
    async with running(tmp_path, config()) as (balancer, _):
        for to, key in ((0, "min"), (3, "max")):
            with pytest.raises(RefusedError) as caught:
                await balancer.set_scale("web", ScaleOrder("fixed", to))
            assert str(caught.value) == (
                f"service web has 1 to 2 replicas, {to} is out of bounds:"
                f" change service.web.scale.{key} first"
            )
        with pytest.raises(UnknownNameError, match="web is served"):
            await balancer.set_scale("api", ScaleOrder("hold"))
        assert told(balancer) == []
    async with running(tmp_path, config(vm=None, backends=["127.0.0.1:9"])) as (balancer, _):
        with pytest.raises(RefusedError, match=r"has no VMs to scale: add \[service.web.vm\]"):
            await balancer.set_scale("web", ScaleOrder("hold"))


async def test_a_reload_that_leaves_an_order_out_of_bounds_bends_it_and_says_so(
    tmp_path: Path,
) -> None:
    def ordered() -> tuple[int | None, int]:
        return balancer.scale("web").to, len(told(balancer))

    async with running(tmp_path, config()) as (balancer, _):
        await until(lambda: ready(balancer) == 1)
        await balancer.set_scale("web", ScaleOrder("fixed", 2))
        assert ordered() == (2, 1)
        await balancer.reload(config(scale={"max": 1}))
        assert ordered() == (1, 2)
        assert told(balancer)[-1] == (
            "an operator's order is out of bounds, which are 1 to 1: 2 → 1"
        )
        await balancer.reload(config(scale={"max": 1, "target_cpu": 0.5}))
        assert ordered() == (1, 2)
        await balancer.reload(config())
        assert ordered() == (2, 2), "what he wanted can be had again"


async def test_an_order_ends_with_its_service(tmp_path: Path) -> None:
    def remembered() -> list[str]:
        return list(json.loads((tmp_path / "overrides.json").read_text()))

    async with running(tmp_path, config_of("web", "api")) as (balancer, _):
        await until(lambda: balancer.is_ready()[0])
        for service in ("web", "api"):
            await balancer.set_scale(service, ScaleOrder("hold"))
        assert remembered() == ["web", "api"]
        await balancer.reload(config_of("web"))
        await until(lambda: "api" not in balancer.pool())
        await until(lambda: remembered() == ["web"])
        await balancer.reload(config_of("web", "api"))
        assert not balancer.scale("api").ordered


async def test_a_reload_of_what_a_backend_may_get_counts_too(tmp_path: Path) -> None:
    async with running(tmp_path, config(max_in_flight=10)) as (balancer, _):
        rules = balancer.controllers["web"].rules
        assert rules.target_concurrency == pytest.approx(7)
        await balancer.reload(config(max_in_flight=20, scale={"mode": "observe"}))
        rules = balancer.controllers["web"].rules
        assert rules.target_concurrency == pytest.approx(14)
        assert rules.mode is Mode.OBSERVE


async def test_a_folder_that_cannot_be_written_costs_the_memory_not_the_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "overrides.json").mkdir()
    async with running(tmp_path, config()) as (balancer, _):
        row = await balancer.set_scale("web", ScaleOrder("hold"))
        assert row.mode == "hold"
    warnings = [r.getMessage() for r in caplog.records if "overrides" in r.getMessage()]
    assert len(warnings) == 1


# ── zero ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_that_finds_nobody_waits_until_somebody_is_there(tmp_path: Path) -> None:
    async with running(tmp_path, at_zero()) as (balancer, host):
        await until(lambda: balancer.scale("web").reason == "steady")
        assert host.ours() == []
        status, body, _ = await get(balancer)
        assert (status, body) == (200, host.ours()[0].name)


async def test_who_begins_to_wait_wakes_the_planner(tmp_path: Path) -> None:
    windows = dict.fromkeys(("grow_window", "shrink_window", "panic_window"), 120)
    rare = at_zero(sample_interval=60, stable_window=240, **windows)
    async with running(tmp_path, rare) as (balancer, host):
        await until(lambda: balancer.scale("web").reason is not None)
        waiting = asyncio.ensure_future(get(balancer))
        await until(lambda: host.asked("create"))
        while not waiting.done():  # what a machine's boot takes, on a host that tells of nothing
            balancer._wake_scalers()
            await asyncio.wait([waiting], timeout=0.05)
        assert (await waiting)[0] == 200


async def test_nobody_waits_for_what_an_operator_does_not_want(tmp_path: Path) -> None:
    async with running(tmp_path, at_zero()) as (balancer, host):
        await until(lambda: balancer.scale("web").reason is not None)
        for order in (ScaleOrder("fixed", 0), ScaleOrder("hold"), ScaleOrder("observe")):
            await balancer.set_scale("web", order)
            status, body, _ = await get(balancer)
            assert (status, json.loads(body)["reason"]) == (503, "pool_empty")
        assert host.ours() == []
        await balancer.set_scale("web", ScaleOrder("fixed", 1))
        assert (await get(balancer))[0] == 200


async def test_nobody_waits_where_no_host_answers(tmp_path: Path, host: Machines) -> None:
    host.unreachable = True
    async with running(tmp_path, at_zero(), machines=host) as (balancer, _):
        await until(lambda: balancer.controllers["web"].unreachable)
        assert scaler(balancer).awaited() == 0
        assert (await get(balancer))[0] == 503


async def test_nobody_waits_where_launches_fail(tmp_path: Path) -> None:
    async with running(tmp_path, at_zero()) as (balancer, host):
        await until(lambda: balancer.scale("web").reason is not None)
        fleet = scaler(balancer).fleet
        assert scaler(balancer).awaited() == 120, "as long as a boot may take"
        fleet._launches.gate = LaunchGate(BREAKER_AFTER, time.monotonic() + 60)
        assert (await get(balancer))[0] == 503
        assert host.ours() == []
        # once one is due again somebody has to wait for it, or none would ever be tried
        fleet._launches.gate = LaunchGate(BREAKER_AFTER, time.monotonic() - 1)
        assert scaler(balancer).awaited() == 120
        assert (await get(balancer))[0] == 200


# ── one more, one less ───────────────────────────────────────────────────────────────────────────


async def test_one_more_is_an_order_for_one_more_than_are_wanted(tmp_path: Path) -> None:
    async with running(tmp_path, config()) as (balancer, _):
        await until(lambda: ready(balancer) == 1)
        row = await balancer.spawn_vm("web")
        assert (row.mode, row.to, row.ordered) == ("fixed", 2, True)
        assert json.loads((tmp_path / "overrides.json").read_text())["web"]["to"] == 2
        await until(lambda: ready(balancer) == 2)
        with pytest.raises(RefusedError, match="1 to 2 replicas, 3 is out of bounds: change serv"):
            await balancer.spawn_vm("web")
        with pytest.raises(UnknownNameError, match="there is no service 'api'"):
            await balancer.spawn_vm("api")


async def test_one_that_is_retired_is_replaced_while_as_many_are_wanted(tmp_path: Path) -> None:
    async with running(tmp_path, config()) as (balancer, host):
        await until(lambda: ready(balancer) == 1)
        (first,) = host.apps
        with pytest.raises(
            RefusedError, match=r"has 1 of at least 1 replicas: bring one more with"
        ):
            await balancer.retire_vm(first)
        with pytest.raises(UnknownNameError, match="no service has a VM web-7"):
            await balancer.retire_vm("web-7")
        await balancer.spawn_vm("web")
        await until(lambda: ready(balancer) == 2)
        held = asyncio.ensure_future(get(balancer, "/slow"))
        host.hold.clear()
        await until(lambda: any(view.in_flight for view in balancer.pool()["web"]))
        (busy,) = [view.name for view in balancer.pool()["web"] if view.in_flight]
        await balancer.retire_vm(busy)
        (view,) = [view for view in balancer.pool()["web"] if view.name == busy]
        assert view.lifecycle == "draining"
        with pytest.raises(RefusedError, match=f"{busy} is leaving already"):
            await balancer.retire_vm(busy)
        host.hold.set()
        assert (await held)[:2] == (200, busy), "what runs on it is finished"
        await until(lambda: busy not in host.domains and ready(balancer) == 2)
        rows = {row.name: row for row in await balancer.vms()}
        assert {(row.role, row.path) for row in rows.values()} == {("replica", "cold")}


# ── the reserve ──────────────────────────────────────────────────────────────────────────────────


async def test_who_finds_all_replicas_lost_is_served_by_a_standby(tmp_path: Path) -> None:
    async with running(tmp_path, config(scale={"max": 1, "standby": 1})) as (balancer, host):
        await until(lambda: ready(balancer) == 1 and balancer.scale("web").standby == 1)
        rows = {row.role: row for row in await balancer.vms()}
        assert (rows["standby"].state, rows["replica"].state) == ("standby", "ready")
        assert scaler(balancer).awaited() > 0
        host.hold_calls("resume")
        await host.kill(rows["replica"].name)
        await until(lambda: not balancer.pool()["web"])
        waiting = asyncio.ensure_future(get(balancer))
        await until(lambda: host.asked("resume"))
        assert scaler(balancer).awaited() > 0, "it is on its way"
        host.release_calls("resume")
        status, name, _ = await waiting
        assert (status, name) == (200, rows["standby"].name)


async def test_who_finds_all_replicas_lost_does_not_wait_for_a_boot(tmp_path: Path) -> None:
    async with running(tmp_path, config()) as (balancer, host):
        await until(lambda: ready(balancer) == 1)
        assert scaler(balancer).awaited() == 0
        host.hold_creates()
        await host.kill(next(iter(host.apps)))
        await until(lambda: not balancer.pool()["web"])
        assert (await get(balancer))[0] == 503
        host.release_creates()
        await until(lambda: ready(balancer) == 1)


async def test_a_standby_is_asked_what_the_prober_asks(tmp_path: Path) -> None:
    """Its readiness path answers 200; the one configured never does."""
    never = {"interval": 0.05, "interval_down": 0.05, "path": "/nowhere", "status": "418"}
    async with running(tmp_path, config(health=never)) as (balancer, _):
        await until(lambda: any(view.address for view in balancer.pool()["web"]))
        found = scaler(balancer)
        (address,) = [view.address for view in balancer.pool()["web"]]
        assert not await found._is_ready(address)
        await balancer.reload(config())
        assert await found._is_ready(address)


async def test_the_fleet_keeps_what_the_configuration_says(tmp_path: Path) -> None:
    async with running(tmp_path, config(scale={"standby": 1})) as (balancer, _):
        fleet = scaler(balancer).fleet
        assert (fleet.shape.standby, fleet.shape.snapshot) == (1, False)
        await until(lambda: balancer.scale("web").standby == 1)
        await balancer.reload(config(vm={"drain_timeout": 20.0, "snapshot": "auto"}))
        assert (fleet.shape.standby, fleet.shape.snapshot) == (0, True)
        await until(lambda: balancer.scale("web").standby == 0)
        await balancer.reload(config(scale={"standby": 1}))
        await until(lambda: balancer.scale("web").standby == 1)


async def test_what_a_host_has_saved_is_not_waited_for_until_the_next_second(
    tmp_path: Path,
) -> None:
    """A first launch asks for it; here the next tick by itself is a minute away."""
    windows = dict.fromkeys(("grow_window", "shrink_window", "panic_window"), 120)
    rare = {"sample_interval": 60, "stable_window": 240, **windows}
    async with running(tmp_path, config(vm={}, scale=rare)) as (_, host):
        await until(lambda: host.asked("create"))


# ── one more, one less ───────────────────────────────────────────────────────────────────────────


async def test_what_was_learned_of_the_load_outlives_the_process(tmp_path: Path) -> None:
    forecast = Forecast.start(3600.0)
    for ago in range(7500, 0, -5):
        forecast = forecast.add(time.time() - ago, 1.0)
    await ForecastFile(tmp_path / "forecasts", "web").save(forecast)
    wanted = config(scale={"season": "1h"})
    async with running(tmp_path, wanted) as (balancer, _):
        await until(lambda: balancer.scale("web").reason is not None)
        known = balancer.controllers["web"].forecast
        assert known is not None
        assert known.expect(time.time(), 60.0) is not None, "one that begins anew knows nothing"
        (tmp_path / "forecasts" / "web.json").unlink()
    assert await ForecastFile(tmp_path / "forecasts", "web").load(3600.0) is not None


async def test_replicas_of_an_own_image_get_disks_of_their_own(
    tmp_path: Path, host: Machines
) -> None:
    """And it is said once that they are not copied."""
    file = tmp_path / "webapp.img"
    file.write_bytes(disks.raw(2 << 20))
    seed = tmp_path / "user-data"
    seed.write_text("#cloud-config\n")
    remove(tmp_path, "webapp")
    own = add("webapp", file, tmp_path, lambda _what, _done: None, user_data=seed)
    wanted = config(vm={"snapshot": "auto"})
    async with running(tmp_path, wanted, machines=host, image=False) as (balancer, _):
        await until(lambda: ready(balancer) == 1)
        told = [(e.kind, e.subject) for e in balancer.journal._recent]
        (spec,) = list(host.specs.values())[:1]
    assert (spec.own_disk, spec.kernel, spec.disk) == (True, "", str(file))
    assert (spec.disk_format, spec.disk_bytes) == ("raw", 2 << 20)
    assert spec.user_data == "#cloud-config\n"
    assert spec.identity.generation == own.checksum
    assert told.count(("host.no_copies", "webapp")) == 1
