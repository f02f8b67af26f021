"""Guests that die, hang or never get ready on real VMs, under a load of which no request is lost.

The tests up to `copies` share one fleet with a saved guest, each begins with what the one before
left; the last two have images of their own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from loadtest.result import Result
from tests.e2e.census import Census, guest_of
from tests.e2e.clients import ask
from tests.e2e.images import Images
from tests.e2e.leftovers import assert_nothing_left
from tests.e2e.load import loading
from tests.e2e.machine import BOOT_S, Machine, machine_of, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(480)]

MOST = 3
RATE = 15.0
"""A part of what one can answer, so that the planner has no wish of its own; the orders count."""
AFTERWARDS_S = 3.0
"""So long the load goes on: some replacements are there before it has sent ten requests."""
STOP_WORK = 77
HEALTH = "interval = 0.5\ntimeout = 1\nfall = 2"


STOP = f"if work == {STOP_WORK}: os.kill(os.getpid(), signal.SIGSTOP)"
"""What one image does at a request for so much work: its kernel goes on without it."""


def scale(standby: int = 0, most: int = MOST) -> str:
    return f'[service.web.scale]\nmin = 1\nmax = {most}\nstandby = {standby}\nforecast = "off"\n'


@dataclass
class Fleet:
    """The one that several tests share."""

    up: Machine
    tmp: Path
    standby: int = 0
    addresses: set[str] = field(default_factory=set)

    def be(self, replicas: int, standby: int) -> None:
        """So many, all of them there."""
        if standby != self.standby:
            self.up.configure(scale(standby))
            self.standby = standby
        self.up.lbctl("scale", "web", "--to", str(replicas))
        until(lambda: self.has(replicas, standby), 2 * BOOT_S, f"not {replicas} + {standby}")

    def has(self, replicas: int, standby: int) -> bool:
        told = sorted((vm["role"], vm["state"]) for vm in vms(self.up))
        return told == [("replica", "ready")] * replicas + [("standby", "standby")] * standby

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Under load and census, both of which must be content afterwards."""
        with (
            Census.of(self.up.home) as census,
            loading(f"{self.up.proxy}/render?work=1", {"steady": RATE}, self.tmp) as load,
        ):
            yield
            time.sleep(AFTERWARDS_S)
            result = load.finish()
        self.addresses |= census.addresses
        assert_none_failed(result)
        assert census.most <= MOST + self.standby + 1


@pytest.fixture(scope="module")
def shared(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """In the end it is retired, and nothing is left of it."""
    with machine_of(images, scale()) as up:
        up.start("--retire-vms")
        fleet = Fleet(up, tmp_path_factory.mktemp("load"))
        yield fleet
        up.signal(signal.SIGTERM)
        assert up.wait_ended() == 0
        assert_nothing_left(up.home, fleet.addresses)


def vms(up: Machine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = up.api("vms")["vms"]
    return found


def assert_none_failed(result: Result) -> None:
    assert result.counts.intended > 20
    assert result.status == {"200": result.counts.intended}, (result.errors, result.dropped)


def kill(up: Machine, vm: str) -> None:
    guest = guest_of(up.home, vm)
    assert guest is not None, f"{vm} does not run"
    os.kill(guest.pid, signal.SIGKILL)


def born(up: Machine, since: int, role: str) -> str:
    """The next VM that is started for this role, as soon as there is a process of it."""

    def there() -> str:
        told = [e for e in up.events("vm.launch", since) if f"({role}, " in e["message"]]
        found = [e["subject"] for e in told if guest_of(up.home, e["subject"])]
        return found[0] if found else ""

    return str(until(there, BOOT_S, f"no {role} is started"))


def gone(up: Machine, vm: str, since: int) -> dict[str, Any]:
    """The end of a VM, as the journal has it."""

    def told() -> list[dict[str, Any]]:
        return [e for e in up.events("vm.gone", since) if e["subject"] == vm]

    event: dict[str, Any] = until(told, 30, f"nobody noticed the end of {vm}")[0]
    return event


# ── what is made in the background ───────────────────────────────────────────────────────────────


def test_a_template_that_dies_is_made_again(shared: Fleet) -> None:
    """While it boots; and while it is saved: that guest is not tried again for a while, but by the
    next process."""
    up = shared.up
    up.wait_ready(1)
    with shared.watched():
        first = born(up, 0, "template")
        # before, it was never started
        until(lambda: (first, "booting") in {(vm["name"], vm["state"]) for vm in vms(up)}, 30, "no")
        kill(up, first)
        gone(up, first, 0)
        since = up.events("vm.gone")[-1]["id"]
        second = born(up, since, "template")
        # it takes less than a second
        until(lambda: list(up.home.glob("saved/*/.*/guest")), BOOT_S, "it is never saved", 0.01)
        kill(up, second)
        until(lambda: up.events("snapshot.failed"), 30, "nobody noticed")
        until(lambda: shared.has(1, 0), 30, "something is left of it")
        assert list(up.home.glob("saved/*/*")) + list(up.home.glob("saved/*/.*")) == []
        assert up.events("snapshot.made") == []
    up.signal(signal.SIGTERM)
    # its VMs live on without --retire-vms alone: here they end
    assert up.wait_ended() == 0
    assert_nothing_left(up.home)
    up.start("--retire-vms")
    until(lambda: up.events("snapshot.made"), 2 * BOOT_S, "no guest was saved")


def test_a_standby_that_dies_is_replaced_and_nobody_notices(shared: Fleet) -> None:
    up = shared.up
    shared.be(1, 1)
    (spare,) = [vm["name"] for vm in vms(up) if vm["role"] == "standby"]
    since = up.last_event()
    with shared.watched():
        kill(up, spare)
        assert gone(up, spare, since)["reason"] == "crashed"
        until(lambda: up.events("vm.standby", since), BOOT_S, "no other standby")
        until(lambda: shared.has(1, 1), 10, "not as it was")
    assert spare not in {vm["name"] for vm in vms(up)}


# ── those that serve ─────────────────────────────────────────────────────────────────────────────


def test_one_of_two_dies_and_its_requests_are_answered_elsewhere(shared: Fleet) -> None:
    shared.be(2, 0)
    assert replaced(shared, 2, 0)["data"]["path"] == "snapshot"


def test_the_only_one_dies_and_its_requests_wait_for_the_standby(shared: Fleet) -> None:
    shared.be(1, 1)
    assert replaced(shared, 1, 1)["data"]["path"] == "standby"


def test_the_only_one_dies_and_its_requests_wait_for_a_copy(shared: Fleet) -> None:
    shared.be(1, 0)
    assert replaced(shared, 1, 0)["data"]["path"] == "snapshot"


def replaced(shared: Fleet, replicas: int, standby: int) -> dict[str, Any]:
    """A replica is killed; how another one came in its place."""
    up = shared.up
    lost, since = up.ready()[0]["name"], up.last_event()
    with shared.watched():
        kill(up, lost)
        assert gone(up, lost, since)["reason"] == "crashed"
        ready = until(lambda: up.events("vm.ready", since), BOOT_S, "nobody comes")[0]
        until(lambda: shared.has(replicas, standby), BOOT_S, "not as it was")
    assert ready["reason"] == "replaced"
    assert lost not in {vm["name"] for vm in vms(up)}
    told: dict[str, Any] = ready
    return told


# last of those that share a fleet: what it is a copy of is not trusted any more
def test_a_copy_that_dies_before_it_knows_its_name(shared: Fleet) -> None:
    """Copies are not tried for a while then; what is missing is booted."""
    up = shared.up
    shared.be(1, 0)
    since = up.last_event()
    with shared.watched():
        up.lbctl("scale", "web", "--to", "2")
        copy = born(up, since, "replica")
        kill(up, copy)
        ready = until(lambda: up.events("vm.ready", since), 2 * BOOT_S, "nobody comes")[0]
        until(lambda: shared.has(2, 0), 30, "not two")
    assert ready["subject"] != copy
    assert ready["data"]["path"] == "cold"
    assert copy not in {vm["name"] for vm in vms(up)}


# ── those that live and do not serve ─────────────────────────────────────────────────────────────


def test_a_guest_whose_application_hangs_is_replaced(
    machine: Callable[..., Machine], images: Path, tmp_path: Path
) -> None:
    """Its kernel goes on accepting connections, and nobody answers them."""
    made = Images(images, tmp_path)
    hanging = made.add("hanging", render=STOP)
    patience = 'snapshot = "off"\nboot_timeout = 30\n'
    service = scale()
    up = machine(service, patience, made.folder)
    up.health = HEALTH
    up.configure(service, patience)
    with Census.of(up.home) as census:
        up.start("--retire-vms")
        (good,) = up.wait_ready(1)
        up.configure(service, f'{patience}image = "{hanging}"')
        up.lbctl("scale", "web", "--to", "2")
        (bad,) = [b["name"] for b in up.wait_ready(2) if b["name"] != good["name"]]
        up.configure(service, patience)  # whoever comes in its place is a good one
        since = up.last_event()
        with loading(f"{up.proxy}/render?work=1", {"steady": RATE}, tmp_path) as load:
            until(lambda: stopped(up, bad), 60, "it does not hang")
            out = until(lambda: up.events("backend.unhealthy", since), 60, "nobody noticed")[0]
            assert out["subject"] == bad
            failed = until(lambda: up.events("vm.failed", since), 90, "it stays")[0]
            assert (failed["subject"], failed["reason"]) == (bad, "unhealthy")
            names = {b["name"] for b in up.wait_ready(2)}
            result = load.finish()
        up.signal(signal.SIGTERM)
        assert up.wait_ended() == 0
    assert bad not in names
    assert good["name"] in names
    assert_none_failed(result)
    assert census.most <= MOST + 1
    assert_nothing_left(up.home, census.addresses)


def stopped(up: Machine, vm: str) -> bool:
    """Ask for it, past the proxy; whether it has happened."""
    address = next(row["address"] for row in vms(up) if row["name"] == vm)
    return ask(address, f"/render?work={STOP_WORK}", 1.0)[0] == 0


def test_guests_that_never_get_ready_stop_being_started_while_another_serves(
    machine: Callable[..., Machine], images: Path, tmp_path: Path
) -> None:
    """Five in a row open the breaker, after 1 + 2 + 4 + 8 s of waiting between them."""
    made = Images(images, tmp_path)
    broken = made.add("broken", boots="systemd.unit=nothing.target")
    up = machine(scale(), 'snapshot = "off"', made.folder)
    with Census.of(up.home) as census:
        up.start("--retire-vms")
        (good,) = up.wait_ready(1)
        up.configure(scale(), f'snapshot = "off"\nimage = "{broken}"\nboot_timeout = 2')
        since = up.last_event()
        with loading(f"{up.proxy}/render?work=1", {"steady": RATE}, tmp_path) as load:
            up.lbctl("scale", "web", "--to", "3")
            opened = until(lambda: up.events("breaker.open", since), 90, "it goes on and on")[0]
            assert "5 launches in a row failed" in opened["message"]
            until(lambda: len(vms(up)) == 1, 30, "the last one stays")
            result = load.finish()
        failed = up.events("vm.failed", since)
        launched = up.events("vm.launch", since)
        assert [b["name"] for b in up.ready()] == [good["name"]]
        up.signal(signal.SIGTERM)
        assert up.wait_ended() == 0
    assert {event["reason"] for event in failed} == {"boot_timeout"}
    # two were ordered, and so two began at once
    assert len(launched) == len(failed) <= 6
    waits = [b["at"] - a["at"] for a, b in zip(failed[1:], launched[2:], strict=False)]
    print("seconds between a failure and the next launch:", waits)
    assert_none_failed(result)
    assert census.most <= MOST + 1
    assert_nothing_left(up.home, census.addresses)
