"""Real guests through the adapter: one is saved, and its copies are guests of their own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import libvirt_qemu
import pytest

from autoscale.domain_xml import Identity, VmSpec
from autoscale.host import SnapshotUnusable
from autoscale.hypervisor import LibvirtHypervisor
from guest import image
from tests.e2e.machine import BOOT_S, qemus, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

PROBE = '''
class Probed(Agent):
    """With a look at what a guest otherwise shows nobody."""

    def __init__(self, machine):
        super().__init__(machine)
        self.commands["test-probe"] = lambda _: {
            "time": time.time(), "random": os.urandom(16).hex(), "name": socket.gethostname(),
        }


Agent = Probed
'''
MAIN = 'if __name__ == "__main__":'


@dataclass(frozen=True)
class Seen:
    """What a guest says of itself."""

    name: str
    random: str
    clock_error_s: float


@pytest.fixture
def home(images: Path) -> Iterator[Path]:
    """A home with an image whose agent can be probed; no guest of it outlives the test."""
    folder = Path(tempfile.mkdtemp(prefix="lbcopy-", dir="/tmp"))  # short: sockets live below it
    try:
        shutil.copytree(images / "webapp", folder / "images" / "webapp")
        _add_probe(folder)
        yield folder
    finally:
        for guest in qemus(folder):
            os.kill(guest, signal.SIGKILL)
        until(lambda: not qemus(folder), 10, "QEMU processes do not end")
        shutil.rmtree(folder)


def _add_probe(home: Path) -> None:
    sources = Path(image.__file__).parent
    agent = (sources / "agent.py").read_text()
    unit = (sources / "systemd" / "agent.service").read_text()
    assert MAIN in agent
    assert "agent.pyc" in unit
    (home / "agent.py").write_text(agent.replace(MAIN, f"{PROBE}\n\n{MAIN}"))
    (home / "agent.service").write_text(unit.replace("agent.pyc", "agent.py"))
    disk = home / "images" / "webapp" / image.DISK
    for name, folder in (("agent.py", "/usr/lib/webapp"), ("agent.service", "/etc/systemd/system")):
        _edit(disk, f"rm {folder}/{name}")
        _edit(disk, f"write {home / name} {folder}/{name}")
        (home / name).unlink()
    found = _edit(disk, "cat /usr/lib/webapp/agent.py")
    assert "test-probe" in found, "debugfs did not change the image"


def _edit(disk: Path, request: str) -> str:
    tool = shutil.which("debugfs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert tool, "apt-get install e2fsprogs"
    done = subprocess.run(
        [tool, "-w", "-R", request, disk], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def spec(home: Path, name: str) -> VmSpec:
    found = image.load(home, "webapp")
    identity = Identity("ours", "web", found.recipe, 8080, 1.0, time.time())
    return VmSpec(
        name, str(uuid4()), 384, 1, str(found.kernel), str(found.initrd or ""), str(found.disk),
        found.cmdline, identity, genid=str(uuid4()),
    )  # fmt: skip


def answers(port: int) -> str:
    """The replica that answers there, empty for none."""
    try:
        url = f"http://127.0.0.1:{port}/readyz"
        with urllib.request.urlopen(url, timeout=1) as answer:
            return str(answer.headers["X-Replica"])
    except (OSError, urllib.error.URLError):
        return ""


def look(host: LibvirtHypervisor, name: str) -> Seen:
    domain = host._conn.lookupByName(name)
    before = time.time()
    said = libvirt_qemu.qemuAgentCommand(domain, '{"execute": "test-probe"}', 5, 0)
    middle = (before + time.time()) / 2
    seen = json.loads(said)["return"]
    return Seen(seen["name"], seen["random"], seen["time"] - middle)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if not path.is_dir()}


async def test_one_is_saved_and_its_copies_are_guests_of_their_own(home: Path) -> None:
    host = LibvirtHypervisor("local", "qemu:///embed", instance="ours", home=home)
    try:
        info = await host.open()
        assert info.copies == ""
        made = await host.create(spec(home, "web-000000"))
        await asyncio.to_thread(until, lambda: answers(made.host_port), BOOT_S, "it does not boot")
        await host.save("web-000000", "k1")
        assert qemus(home) == []
        assert await host.saved() == {"k1"}
        assert files(home / "saved") == {"guest", "sha256"}

        async def copy(name: str) -> int:
            began = time.monotonic()
            identity = await host.restore(spec(home, name), "k1")
            restored = time.monotonic()
            await host.introduce(name, name, os.urandom(32))
            told = time.monotonic()
            port = identity.host_port
            said = await asyncio.to_thread(until, lambda: answers(port), 20, f"{name} is silent")
            print(
                f"{name}: restored {restored - began:.2f} s, introduced {told - restored:.2f} s,"
                f" answered {time.monotonic() - began:.2f} s"
            )
            assert said == name
            return port

        names = ("web-000001", "web-000002")
        await asyncio.sleep(1.0)  # the saved clock shall be visibly behind
        ports = [await copy(names[0]), await copy(names[1])]
        assert ports[0] != ports[1]
        seen = [await asyncio.to_thread(look, host, name) for name in names]
        print(seen)
        assert [one.name for one in seen] == list(names)
        assert seen[0].random != seen[1].random
        assert max(abs(one.clock_error_s) for one in seen) < 0.2
        assert {d.name for d in await host.observe()} == set(names)
        assert files(home / "saved") == {"guest", "sha256"}, "nothing is left of starting them"
        assert not [t for t in threading.enumerate() if t.name == "saved-guest"]

        # it stands still, and so does its clock
        await host.suspend(names[0])
        await asyncio.sleep(1.0)
        assert await asyncio.to_thread(answers, ports[0]) == ""
        woken = time.monotonic()
        await host.resume(names[0])
        resumed = time.monotonic() - woken
        await host.set_time(names[0])
        clock = time.monotonic() - woken
        assert await asyncio.to_thread(answers, ports[0]) == names[0]
        print(f"resumed {resumed:.3f} s, clock {clock:.3f} s, {time.monotonic() - woken:.3f} s")
        after = await asyncio.to_thread(look, host, names[0])
        assert abs(after.clock_error_s) < 0.2

        # both saved and damaged: never started
        with (home / "saved/local/k1/guest").open("r+b") as file:
            file.seek(-1000, os.SEEK_END)
            file.write(b"damage")
        with pytest.raises(SnapshotUnusable, match="checksum"):
            await host.restore(spec(home, "web-000003"), "k1")
        assert await host.saved() == frozenset()

        for name in names:
            await host.destroy(name)
        assert await host.observe() == ()
        until(lambda: not qemus(home), 10, "QEMU goes on")
        for folder in ("saved", "agent", "console"):
            assert files(home / folder) == set(), folder
    finally:
        await host.close()
