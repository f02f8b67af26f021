"""Real VMs under a real `lbctl up`: born, adopted after a crash, replaced, retired, refused."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.images import Images
from tests.e2e.leftovers import assert_nothing_left
from tests.e2e.machine import BIN, BOOT_S, Machine, qemus, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

ONE = "[service.web.scale]\nmin = 1\nmax = 1\n"
BOOTS = 'snapshot = "off"'
"""These are about machines that boot; `test_paths` and `test_deaths` have the other ways."""


def test_a_killed_lbctl_finds_its_vms_again_and_serves(
    machine: Callable[..., Machine],
) -> None:
    """kill -9 of the whole process: the VM goes on, the next process takes it over as it is."""
    up = machine(ONE, BOOTS)
    up.start()
    (backend,) = up.wait_ready(1)
    before = qemus(up.home)
    status, replica = up.get()
    assert (status, replica) == (200, backend["name"])

    up.kill()
    assert qemus(up.home) == before, "the guest must outlive its balancer"

    up.start()
    (again,) = up.wait_ready(1, 20)
    assert (again["name"], again["address"]) == (backend["name"], backend["address"])
    assert up.get() == (200, backend["name"])
    assert qemus(up.home) == before, "nothing may be started twice"
    assert [e["subject"] for e in up.events("vm.adopted")] == [backend["name"]]
    assert len(up.events("vm.launch")) == 1

    # SIGTERM leaves the VM, a successor with --retire-vms ends it
    up.signal(signal.SIGTERM)
    assert up.wait_ended() == 0
    assert qemus(up.home) == before
    up.start("--retire-vms")
    up.wait_ready(1, 20)
    up.signal(signal.SIGTERM)
    assert up.wait_ended() == 0
    assert_nothing_left(up.home)


def test_a_vm_that_dies_is_replaced(machine: Callable[..., Machine]) -> None:
    up = machine(ONE, BOOTS)
    up.start("--retire-vms")
    (first,) = up.wait_ready(1)
    (qemu,) = qemus(up.home)

    os.kill(qemu, signal.SIGKILL)
    until(lambda: up.events("vm.gone"), 10, "the death of a QEMU was not noticed")
    status, _ = up.get("/")
    assert status in (502, 503), "nobody serves, and the answer says so at once"
    (second,) = up.wait_ready(1)
    assert second["name"] != first["name"]
    assert up.get() == (200, second["name"])
    assert up.events("vm.gone")[0]["reason"] == "crashed"
    assert up.events("vm.launch")[-1]["reason"] == "replaced"
    assert len(qemus(up.home)) == 1
    up.signal(signal.SIGTERM)
    assert up.wait_ended() == 0
    assert_nothing_left(up.home)


def test_a_guest_that_never_gets_ready_is_ended_with_its_console_in_the_journal(
    machine: Callable[..., Machine], images: Path, tmp_path: Path
) -> None:
    """The initrd is told to start a system that is not there, and the kernel reboots for ever."""
    made = Images(images, tmp_path)
    broken = made.add("broken", boots="systemd.unit=nothing.target")
    up = machine(ONE, f'boot_timeout = 12\nimage = "{broken}"', made.folder)

    up.start("--retire-vms")
    assert up.get("/")[0] == 503
    (failed,) = until(lambda: up.events("vm.failed"), 60, "the boot was never given up")
    assert failed["reason"] == "boot_timeout"
    assert "never became ready within 12 s" in failed["message"]
    assert failed["data"]["console"], "the operator needs to see where it stopped"
    until(lambda: failed["subject"] in {e["subject"] for e in up.events("vm.gone")}, 30, "it stays")
    assert len(qemus(up.home)) <= 1
    up.signal(signal.SIGTERM)
    assert up.wait_ended() == 0
    assert_nothing_left(up.home)


def test_a_second_lbctl_in_the_same_home_refuses_in_one_line(
    machine: Callable[..., Machine],
) -> None:
    up = machine(ONE)
    up.start()
    second = subprocess.run(
        [BIN / "lbctl", "up", "-c", up.config],
        env=up.environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert f"process {up.process.pid if up.process else 0} already serves" in second.stderr
    assert "Traceback" not in second.stderr
    up.wait_ready(1, BOOT_S)
