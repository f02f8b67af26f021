"""A libvirt daemon that hangs, dies and comes back, a guest that reboots, and two who would act on
the same machines. Nobody of the clients notices any of it.

All traffic stays in the network namespace of a host that the test makes (`hosts.PhysicalHost`).
"""

from __future__ import annotations

import os
import shutil
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoscale.holder import name_of
from tests.e2e.hosts import PhysicalHost
from tests.e2e.load import loading
from tests.e2e.machine import Machine, until

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a libvirtd of its own"),
]

RATE = {"light": 4.0}


@pytest.fixture
def host() -> Iterator[PhysicalHost]:
    with PhysicalHost() as made:
        yield made


def service(host: PhysicalHost, interval_s: float = 1.0) -> str:
    return f"""[service.web.scale]
min = 1
max = 1
sample_interval = {interval_s}
grow_window = "1m"
panic_window = "1m"
stable_window = "5m"
shrink_window = "5m"
[[hypervisor]]
name = "box"
uri = "{host.uri}"
network = "user"
call_timeout = 6
"""


def box(up: Machine) -> dict[str, Any]:
    (row,) = up.lbctl("hosts", "list")
    return dict(row)


def answers(up: Machine) -> bool:
    row = box(up)
    return bool(row["reachable"]) and row["silent_since"] is None and not row["hung_calls"]


def domains(host: PhysicalHost) -> set[str]:
    return set(host.api(lambda conn: {domain.name() for domain in conn.listAllDomains()}))


def metric(up: Machine, line: str) -> float:
    url = (up.home / "admin.url").read_text(encoding="ascii").strip()
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = [row.split()[-1] for row in text.splitlines() if row.startswith(line)]
    return float(found[0]) if found else 0.0


def test_a_daemon_that_hangs_and_one_that_dies_cost_no_request(
    host: PhysicalHost, machine: Callable[..., Machine], tmp_path: Path
) -> None:
    """Ten seconds between two listings: whatever is quicker comes of libvirt's events."""
    up = machine(service(host, 10.0))
    with host.inside():
        up.start("--retire-vms")
        (backend,) = up.wait_ready(1)
        (qemu,) = host.processes("qemu-system")
        with loading(f"{up.proxy}/render?work=1", RATE, tmp_path) as load:
            host.freeze()
            # its state and the table say so, and how many threads it costs
            row = until(lambda: box(up)["hung_calls"] and box(up), 60, "nothing hangs")
            assert row["silent_since"] is not None
            until(lambda: up.events("host.unreachable"), 30, "nobody missed the daemon")
            assert metric(up, 'autoscaler_libvirt_calls_total{host="box",outcome="timeout"}') >= 1
            assert metric(up, 'autoscaler_libvirt_hung_calls{host="box"}') >= 1
            host.thaw()
            until(lambda: answers(up), 90, "the daemon goes on, and nobody asks it")
            assert up.events("host.back")

            host.kill_daemon()
            until(lambda: not box(up)["reachable"], 60, "nobody missed the daemon")
            host.start_daemon()
            until(lambda: answers(up), 90, "the daemon is back, and nobody asks it")
            result = load.finish()
        assert (result.errors, result.dropped, set(result.status)) == ({}, {}, {"200"})
        assert result.counts.sent > 20
        assert [b["name"] for b in up.wait_ready(1, 5)] == [backend["name"]]
        assert host.processes("qemu-system") == [qemu], "nothing was started or ended meanwhile"
        assert len(up.events("vm.launch")) == 1
        assert up.events("vm.failed") == []

        # callbacks were registered again: a death is told, not found out by the next listing
        os.kill(qemu, signal.SIGKILL)
        until(lambda: up.events("vm.gone"), 5, "its death was not told")
        assert up.events("vm.gone")[0]["reason"] == "crashed"
        (second,) = up.wait_ready(1)
        assert second["name"] != backend["name"]
        up.signal(signal.SIGTERM)
        assert up.wait_ended() == 0
    assert domains(host) == set()


def test_a_guest_that_reboots_by_itself_is_no_crash(
    host: PhysicalHost, machine: Callable[..., Machine]
) -> None:
    up = machine(service(host))
    with host.inside():
        up.start("--retire-vms")
        (backend,) = up.wait_ready(1)
        (qemu,) = host.processes("qemu-system")
        host.api(lambda conn: conn.lookupByName(backend["name"]).reset(0))
        until(lambda: not up.ready(), 30, "it reboots, and still gets requests")
        assert up.get("/")[0] == 503
        (again,) = up.wait_ready(1)
        assert (again["name"], again["address"]) == (backend["name"], backend["address"])
        assert up.get() == (200, backend["name"])
        assert host.processes("qemu-system") == [qemu]
        kinds = [event["kind"] for event in up.lbctl("events", "--limit", "1000")]
        assert kinds.count("vm.launch") == 1
        assert not {"vm.failed", "vm.gone"} & set(kinds)
        assert kinds.count("backend.unhealthy") == 1
        up.signal(signal.SIGTERM)
        assert up.wait_ended() == 0


def test_a_second_one_on_the_same_machines_refuses_to_act_and_says_who_does(
    host: PhysicalHost, machine: Callable[..., Machine]
) -> None:
    """As with a copied home folder: the same instance, twice."""
    first = machine(service(host))
    second = machine(service(host))
    with host.inside():
        first.start()
        (backend,) = first.wait_ready(1)
        shutil.copy(first.home / "instance", second.home / "instance")
        holder = name_of((first.home / "instance").read_text(encoding="ascii").strip())
        assert domains(host) == {backend["name"], holder}

        second.start("--retire-vms")
        (held,) = until(lambda: second.events("host.held"), 30, "it does not say who acts")
        assert held["reason"] == "held_elsewhere"
        assert first.process is not None
        assert f"pid {first.process.pid}, acts on this instance's machines" in held["message"]
        assert f"pid {first.process.pid}" in box(second)["held_by"]
        assert second.get("/")[0] == 503
        assert second.lbctl("vm", "list") == []
        assert second.events("vm.launch") == []
        assert first.get() == (200, backend["name"])
        assert first.events("host.held") == []
        assert domains(host) == {backend["name"], holder}

        first.kill()
        (taken,) = second.wait_ready(1, 60)
        assert taken["name"] == backend["name"]
        assert [e["subject"] for e in second.events("vm.adopted")] == [backend["name"]]
        assert second.events("vm.launch") == []
        second.signal(signal.SIGTERM)
        assert second.wait_ended() == 0
    assert domains(host) == set(), "whoever ends lets go"
