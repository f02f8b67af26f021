"""The three ways into service on real VMs, under a load of which no request is lost: a standby is
woken, a saved guest is copied, a machine is booted."""

from __future__ import annotations

import re
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.census import Census
from tests.e2e.leftovers import assert_nothing_left
from tests.e2e.load import loading
from tests.e2e.machine import BOOT_S, Machine, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(480)]

MOST, STANDBY = 4, 1
RATE = 10.0
"""A tenth of what one can answer, so that the planner has no wish of its own; the orders count."""


def scale(standby: int) -> str:
    return f"""[service.web.scale]
min = 1
max = {MOST}
standby = {standby}
forecast = "off"
"""


def test_a_replica_comes_by_each_way_and_no_request_is_lost(
    machine: Callable[..., Machine], tmp_path: Path
) -> None:
    up = machine(scale(STANDBY))
    with Census.of(up.home) as census:
        up.start("--retire-vms")
        up.wait_ready(1)
        with loading(f"{up.proxy}/render?work=1", {"steady": RATE}, tmp_path) as load:
            (first,) = up.wait_ready(1)
            assert path_of(up, first["name"]) == "cold"
            until(lambda: up.events("vm.standby"), 2 * BOOT_S, "no standby")
            until(lambda: up.events("snapshot.made"), 2 * BOOT_S, "no guest was saved")
            assert states(up) == {("replica", "ready"), ("standby", "standby")}
            (spare,) = [vm["name"] for vm in vms(up) if vm["role"] == "standby"]

            assert one_more(up, 2) == (spare, "standby")
            # the next standby is made before the next replica comes, which is then no standby's
            until(lambda: len(up.events("vm.standby")) == 2, BOOT_S, "no other standby")
            assert census.most <= MOST + STANDBY + 1
            up.configure(scale(0))
            until(lambda: states(up) == {("replica", "ready")}, BOOT_S, "the standby stays")

            copy, way = one_more(up, 3)
            assert way == "snapshot"
            up.configure(scale(0), 'snapshot = "off"')
            booted, way = one_more(up, 4)
            assert way == "cold"
            told = replicas_that_answer(up, 60)
            result = load.finish()
        counted = activations(up)
        addresses = census.addresses
        up.signal(signal.SIGTERM)
        assert up.wait_ended() == 0
    names = {first["name"], spare, copy, booted}
    assert told == names, "each says its own name, the copies too"
    assert counted == {"cold": 2, "standby": 1, "snapshot": 1}
    assert result.counts.intended > 100
    assert result.status == {"200": result.counts.intended}, (result.errors, result.dropped)
    assert census.most <= MOST + STANDBY + 1
    assert_nothing_left(up.home, addresses)


def one_more(up: Machine, wanted: int) -> tuple[str, str]:
    """The name of the replica that makes them so many, and the way it came: the journal and the
    listing say the same."""
    before, since = {b["name"] for b in up.ready()}, up.last_event()
    up.lbctl("scale", "web", "--to", str(wanted))
    after = {b["name"] for b in up.wait_ready(wanted)}
    (name,) = after - before
    (ready,) = until(lambda: up.events("vm.ready", since), 10, "the journal is silent")
    assert ready["subject"] == name
    assert ready["reason"] == "override"
    way = path_of(up, name)
    assert ready["data"]["path"] == way
    assert f"({way})" in ready["message"]
    print(ready["message"])
    return name, way


def vms(up: Machine) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = up.lbctl("vm", "list")
    return rows


def path_of(up: Machine, name: str) -> str:
    return next(vm["path"] for vm in vms(up) if vm["name"] == name)


def states(up: Machine) -> set[tuple[str, str]]:
    return {(vm["role"], vm["state"]) for vm in vms(up)}


def replicas_that_answer(up: Machine, times: int) -> set[str]:
    answers = {up.get("/readyz") for _ in range(times)}
    assert {status for status, _ in answers} == {200}
    return {replica for _, replica in answers}


def activations(up: Machine) -> dict[str, int]:
    """How many came into service by each way, as /metrics counts them."""
    url = (up.home / "admin.url").read_text(encoding="ascii").strip()
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = re.findall(
        r'^autoscaler_vm_activation_seconds_count\{path="(\w+)"\} (\S+)$', text, re.M
    )
    return {path: int(float(count)) for path, count in found}
