"""A rollout as an operator meets it: what he may order, what he is told, what outlives the process.

Real time and sockets, scripted machines, as in test_service; a trial is over in no time here.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from autoscale import turnover
from autoscale.domain_xml import Identity, VmSpec
from autoscale.rollout import Phase, Rollout
from guest import image as guest_image
from lb.admin.control import RefusedError, RolloutOrder, UnknownNameError
from lb.config import Config, parse_config
from lb.rollouts import FILE, Rollouts
from lb.service import Balancer
from tests.proxy_harness import until
from tests.test_service import Machines, config, outliving, ready, running

NEW = RolloutOrder("start", "next")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnover, "FIT_AFTER_S", 0.3)
    monkeypatch.setattr(turnover, "QUIET_FIT_S", 0.3)
    monkeypatch.setattr(turnover, "SETTLED_S", 0.0)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Machines]:
    async with outliving(tmp_path) as machines:
        add_image(tmp_path, "next", "d" * 64)
        yield machines


def add_image(home: Path, name: str, checksum: str) -> None:
    """Also in the place of one that is there, as a build does."""
    folder = home / "images" / name
    if not folder.exists():
        shutil.copytree(home / "images" / "webapp", folder)
    facts = json.loads((folder / guest_image.FACTS).read_text())
    facts.update(name=name, checksum=checksum)
    (folder / guest_image.FACTS).write_text(json.dumps(facts))


def with_image(image: str) -> Config:
    vm = {"drain_timeout": 20.0, "shutdown_timeout": 5.0, "snapshot": "off", "image": image}
    return config(vm=vm)


def generations(balancer: Balancer) -> list[str]:
    fleet = balancer.controllers["web"].fleet
    return [status.generation[0] for status in fleet.statuses() if status.state == "ready"]


def happened(balancer: Balancer, kind: str) -> list[str]:
    return [e.message for e in balancer.journal._recent if e.kind == kind]


async def test_another_image_takes_over_and_holds_over_a_restart(
    tmp_path: Path, host: Machines
) -> None:
    async with running(tmp_path, config(), machines=host) as (balancer, _):
        await until(lambda: ready(balancer) == 1)
        assert balancer.rollouts() == []
        with pytest.raises(UnknownNameError, match="service web has no rollout: `lbctl rollout"):
            balancer.rollout("web")
        row = await balancer.order_rollout("web", NEW)
        assert (row.phase, row.image_from, row.image_to, row.judged) == (
            "running", "webapp", "next", False,
        )  # fmt: skip
        assert ", on trial; " in row.sentence
        metrics = balancer.metrics()[0].decode()
        assert 'autoscaler_rollout_replicas{generation="old",service="web"} 1.0' in metrics
        await until(lambda: balancer.rollout("web").phase == "done")
        assert generations(balancer) == ["d"]
        held = (
            "image next holds against webapp of the configuration: put image = next into the"
            " configuration, or go back with `lbctl rollout undo web`"
        )
        await until(lambda: balancer.rollout("web").booting == 0)
        words = f"1 of 1 replica in service is of next; {held}"
        assert balancer.rollout("web").sentence == words
        assert (balancer.scale("web").image, balancer.scale("web").image_held) == ("next", held)
        assert "autoscaler_rollout_replicas{" not in balancer.metrics()[0].decode()
    async with running(tmp_path, config(), machines=host) as (balancer, _):
        await until(lambda: ready(balancer) == 1)
        await host.kill(host.ours()[0].name)
        await until(lambda: len(happened(balancer, "vm.gone")) == 1 and ready(balancer) == 1)
        assert generations(balancer) == ["d"], "a lost one comes back as the new image"
        await balancer.reload(with_image("next"))
        assert balancer.rollouts() == []
        assert "image = next now" in happened(balancer, "rollout.dropped")[0]
        await until(lambda: json.loads((tmp_path / "rollouts.json").read_text()) == {})


async def test_it_is_paused_goes_on_and_is_taken_back(tmp_path: Path, host: Machines) -> None:
    async with running(tmp_path, config(), machines=host) as (balancer, _):
        await until(lambda: ready(balancer) == 1)
        await balancer.order_rollout("web", NEW)
        await balancer.order_rollout("web", RolloutOrder("pause"))
        with pytest.raises(RefusedError, match="the rollout to next is paused already"):
            await balancer.order_rollout("web", RolloutOrder("pause"))
        assert balancer.rollout("web").sentence.endswith(": an operator paused it")
    async with running(tmp_path, config(), machines=host) as (balancer, _):
        await until(lambda: ready(balancer) >= 1)
        assert balancer.rollout("web").phase == "paused"
        assert (await balancer.order_rollout("web", RolloutOrder("resume"))).phase == "running"
        await until(lambda: balancer.rollout("web").phase == "done")
        await balancer.order_rollout("web", RolloutOrder("undo"))
        await until(lambda: balancer.rollout("web").phase == "undone")
        assert generations(balancer) == ["c"]


async def test_what_cannot_be_ordered_says_why(tmp_path: Path, host: Machines) -> None:
    async def refused(order: RolloutOrder, service: str = "web") -> str:
        with pytest.raises((RefusedError, UnknownNameError)) as caught:
            await balancer.order_rollout(service, order)
        return str(caught.value)

    add_image(tmp_path, "twin", "c" * 64)
    async with running(tmp_path, config(), machines=host) as (balancer, _):
        await until(lambda: ready(balancer) == 1)
        start = RolloutOrder("start")
        assert await refused(RolloutOrder("undo")) == (
            "service web has no rollout: `lbctl rollout web --image NEW` begins one"
        )
        assert await refused(RolloutOrder("start", "missing")) == (
            "there is no image 'missing': `lbctl image list` shows those there are;"
            " `lbctl image add` takes another"
        )
        assert await refused(start) == "every replica of web is of image webapp already"
        twin = await refused(RolloutOrder("start", "twin"))
        assert twin == "image twin has the same files as webapp"
        assert "web is served" in await refused(start, "db")
        await balancer.order_rollout("web", NEW)
        assert await refused(start) == (
            "a rollout of web from webapp to next is running: `lbctl rollout undo web` first"
        )
        await until(lambda: balancer.rollout("web").phase == "done")
        add_image(tmp_path, "next", "e" * 64)
        await balancer.order_rollout("web", NEW)
        assert "was built anew under its own name" in await refused(RolloutOrder("undo"))
        await until(lambda: balancer.rollout("web").phase == "done")
        assert generations(balancer) == ["e"]
    async with running(tmp_path, config(vm=None, backends=["127.0.0.1:9"])) as (balancer, _):
        assert "has no VMs" in await refused(start)


async def test_one_is_protected_until_it_is_so_no_longer(tmp_path: Path, host: Machines) -> None:
    async with running(tmp_path, config(scale={"min": 2}), machines=host) as (balancer, _):
        await until(lambda: ready(balancer) == 2)
        name = host.ours()[0].name
        await balancer.protect_vm(name, protected=True)
        shown = {row.name: row.protected for row in await balancer.vms()}
        assert (shown[name], sorted(shown.values())) == (True, [False, True])
        with pytest.raises(RefusedError, match=f"`lbctl vm protect {name} --off` first"):
            await balancer.retire_vm(name)
        with pytest.raises(UnknownNameError):
            await balancer.protect_vm("web-none", protected=True)
    async with running(tmp_path, config(scale={"min": 1}), machines=host) as (balancer, _):
        await until(lambda: ready(balancer) >= 1)
        shown = {row.name: row.protected for row in await balancer.vms()}
        assert shown[name], "its metadata remembers"
        await until(lambda: ready(balancer) == 1)
        await balancer.protect_vm(name, protected=False)
        assert host.ours()[0].name == name


async def test_a_service_that_leaves_takes_its_rollout_along(
    tmp_path: Path, host: Machines
) -> None:
    async with running(tmp_path, config(), machines=host) as (balancer, _):
        await until(lambda: ready(balancer) == 1)
        await balancer.order_rollout("web", NEW)
        other = config().model_dump(exclude={"hypervisor", "route"})
        other["service"] = {"api": other["service"]["web"]}
        await balancer.reload(parse_config(other))
        await until(lambda: "web" not in balancer.pool())
        await until(lambda: json.loads((tmp_path / "rollouts.json").read_text()) == {})


def ended(phase: Phase) -> Rollout:
    """One that left `other` in the place of the configured webapp."""
    if phase is Phase.DONE:
        return Rollout("webapp", "webapp", "other", "o" * 64, 1.7e9, phase=phase, approved=True)
    return Rollout("webapp", "other", "next", "d" * 64, 1.7e9, phase=phase, failed=True)


@pytest.mark.parametrize("phase", [Phase.DONE, Phase.FAILED, Phase.ROLLING_BACK, Phase.UNDONE])
async def test_a_rollouts_image_that_is_gone_is_got_out_of(
    tmp_path: Path, host: Machines, phase: Phase
) -> None:
    rollouts = Rollouts(tmp_path / FILE)
    rollouts.put("web", ended(phase))
    await rollouts.save()
    gone = "image 'other', which a rollout gave `web`, is gone: `lbctl rollout web --image webapp`"
    async with running(tmp_path, config(), machines=host) as (balancer, _):
        await until(lambda: len(happened(balancer, "vm.failed")) >= 2)
        assert gone in happened(balancer, "vm.failed")[0]
        assert "image other holds against webapp" in (balancer.scale("web").image_held or "")
        assert "image other holds against webapp" in balancer.rollout("web").sentence
        await balancer.order_rollout("web", RolloutOrder("start", "webapp"))
        assert balancer.scale("web").image_held is None
        assert balancer.scale("web").pauses == (), "what failed before tells nothing of this one"
        await until(lambda: ready(balancer) == 1)
        assert "there is no way back" in await refusal(balancer, RolloutOrder("undo"))
        await until(lambda: balancer.rollout("web").phase == "done")
        assert generations(balancer) == ["c"]


async def refusal(balancer: Balancer, order: RolloutOrder) -> str:
    with pytest.raises(RefusedError) as caught:
        await balancer.order_rollout("web", order)
    return str(caught.value)


async def test_those_in_service_are_counted_and_those_that_boot_are_apart(
    tmp_path: Path, host: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnover, "FIT_AFTER_S", 3600.0)
    monkeypatch.setattr(turnover, "QUIET_FIT_S", 3600.0)
    may_boot, create = asyncio.Event(), host.create

    async def held(spec: VmSpec) -> Identity:
        await may_boot.wait()
        return await create(spec)

    async with running(tmp_path, config(), machines=host) as (balancer, _):
        may_boot.set()
        await until(lambda: ready(balancer) == 1)
        may_boot.clear()
        monkeypatch.setattr(host, "create", held)
        await balancer.order_rollout("web", NEW)
        await until(lambda: balancer.rollout("web").booting == 1)
        row = balancer.rollout("web")
        assert (row.new, row.old) == (0, 1)
        assert row.sentence.startswith(
            "0 of 1 replica in service are of next, 1 boots, on trial; given up without another"
        )
        assert row.left_s is not None
        assert 0 < row.left_s <= turnover.STUCK_S
        assert 'generation="new",service="web"} 0.0' in balancer.metrics()[0].decode()
        may_boot.set()
        await until(lambda: balancer.rollout("web").new == 1)
        await until(lambda: "; judged within 3" in balancer.rollout("web").sentence)
        assert balancer.rollout("web").booting == 0
        await balancer.order_rollout("web", RolloutOrder("pause"))
        assert balancer.rollout("web").left_s is None
