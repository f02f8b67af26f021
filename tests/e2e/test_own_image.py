"""Replicas of a user's own cloud image: overlays, cloud-init, and nothing left of either.

The image is Debian with cloud-init and no agent of ours, started by a BIOS from its own disk.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guest import debian
from guest.own import image as own_image
from tests.e2e import cloud_image
from tests.e2e.conftest import _HOME
from tests.e2e.hosts import PhysicalHost
from tests.e2e.machine import Machine, qemus, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

BOOT_S = 400.0
"""cloud-init starts Python three times, and this machine may emulate the CPU: 55 s alone."""

PORT = 8080
USER_DATA = f"""#!/bin/sh
# A web application in the shortest words: it says who it is, and writes to its disk.
hostname >/var/tmp/written
cat >/usr/local/bin/app <<'END'
import http.server, json, pathlib, socket
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/readyz":
            return self.answer(b"ready")
        wrote = pathlib.Path("/var/tmp/written")
        with wrote.open("ab") as file:
            file.write(bytes(1 << 20))
        size = wrote.stat().st_size
        facts = pathlib.Path("/run/cloud-init/instance-data.json").read_text()
        told = {{"name": socket.gethostname(), "size": size,
                "instance": json.loads(facts)["v1"]["instance_id"]}}
        self.answer(json.dumps(told).encode())
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("", {PORT}), App).serve_forever()
END
systemd-run --unit=app python3 /usr/local/bin/app
"""

NAT = """<network><name>default</name><forward mode='nat'/>
<bridge name='virbr0' stp='on' delay='0'/>
<ip address='10.79.0.1' netmask='255.255.255.0'><dhcp>
<range start='10.79.0.100' end='10.79.0.200'/></dhcp></ip></network>"""


@pytest.fixture(scope="session")
def cloud() -> Path:
    return cloud_image.made(_HOME)


@pytest.fixture
def images(cloud: Path, tmp_path: Path) -> Iterator[Path]:
    """The folder of images, with `cloud` in it; its file is in the end as it was."""
    seed = tmp_path / "user-data"
    seed.write_text(USER_DATA)
    before = checksum(cloud)
    own_image.add("cloud", cloud, tmp_path, lambda _what, _done: None, user_data=seed)
    yield tmp_path / "images"
    assert checksum(cloud) == before
    assert not [path for path in cloud.parent.iterdir() if "TRANSIENT" in path.name]


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def vm(image: str = "cloud") -> str:
    return f'image = "{image}"\nmemory_mib = 512\nport = {PORT}\nboot_timeout = {BOOT_S:g}'


def scale(replicas: int) -> str:
    return f"[service.web.scale]\nmin = {replicas}\nmax = {replicas}\n"


def ask(address: str) -> dict[str, Any]:
    host, _, port = address.partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request("GET", "/")
        told: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return told


def test_replicas_of_an_own_image_boot_write_die_and_leave_nothing(
    machine: Callable[..., Machine],
) -> None:
    """On the embedded driver: a forwarded port, an overlay by libvirt for each."""
    up = machine(scale(2), vm())
    started = time.monotonic()
    up.start()
    backends = {b["name"]: b["address"] for b in up.wait_ready(2, BOOT_S)}
    print(f"two replicas of a cloud image were ready after {time.monotonic() - started:.1f} s")
    told = {name: ask(address) for name, address in backends.items()}
    assert {t["name"] for t in told.values()} == set(backends), "its host name is the replica's"
    assert len({t["instance"] for t in told.values()}) == 2
    again = {name: ask(address)["size"] for name, address in backends.items()}
    assert all(again[name] == told[name]["size"] + (1 << 20) for name in backends), "it writes"
    (note,) = up.events("host.no_copies")
    assert "never copied" in note["message"]

    disks = up.home / "disks" / "local"
    assert {path.name.partition(".")[0] for path in disks.iterdir()} == set(backends)
    os.kill(qemus(up.home)[0], signal.SIGKILL)
    until(lambda: up.events("vm.gone"), 10, "the death of a QEMU was not noticed")
    after = {b["name"]: b["address"] for b in up.wait_ready(2, BOOT_S)}
    (new,) = set(after) - set(backends)
    assert ask(after[new])["name"] == new
    assert {path.name.partition(".")[0] for path in disks.iterdir()} == set(after)

    # nobody is there to clean up after this one; the successor is
    up.kill()
    gone, stays = sorted(after)
    os.kill(next(q for q in qemus(up.home) if gone.encode() in command(q)), signal.SIGKILL)
    until(lambda: len(qemus(up.home)) == 1, 10, "it does not die")
    up.start("--retire-vms")
    until(lambda: not any(path.name.startswith(gone) for path in disks.iterdir()), 30, "not swept")
    until(lambda: stays in {b["name"] for b in up.ready()}, 30, "the other one serves on")
    up.signal(signal.SIGTERM)
    assert up.wait_ended(120) == 0
    assert qemus(up.home) == []
    assert list(disks.iterdir()) == []


def command(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a libvirtd and namespaces of its own")
def test_on_a_libvirtd_overlays_are_volumes_and_go_with_their_machines(
    machine: Callable[..., Machine], cloud: Path, images: Path
) -> None:
    """On a NAT network; the image is based on another file, as a user may have it."""
    layered = images.parent / "user" / "layered.qcow2"
    layered.parent.mkdir()
    debian.run(
        [
            *("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2"),
            "-b",
            str(cloud),
            str(layered),
        ]
    )
    seed = images.parent / "user-data"
    own_image.add("layered", layered, images.parent, lambda _what, _done: None, user_data=seed)
    before = checksum(layered), layered.stat().st_uid
    with PhysicalHost() as host:
        host.api(lambda conn: conn.networkDefineXML(NAT).create())
        up = machine(
            scale(1)
            + f'[[hypervisor]]\nname = "box"\nuri = "{host.uri}"\nnetwork = "network:default"\n',
            vm("layered"),
        )
        folder = layered.parent
        there = sorted(folder.iterdir())

        def pools() -> list[str]:
            return [pool.name() for pool in host.api(lambda conn: conn.listAllStoragePools())]

        with host.inside():
            up.start("--retire-vms")
            (backend,) = up.wait_ready(1, BOOT_S)
            told = ask(backend["address"])
            assert told["name"] == backend["name"]
            assert backend["address"].startswith("10.79.0.")

            def volumes() -> list[str]:
                pool = host.api(lambda conn: conn.storagePoolLookupByTargetPath(str(folder)))
                return [v for v in host.api(lambda _conn: pool.listVolumes()) if "lbctl-" in v]

            assert len(volumes()) == 2
            assert all(backend["name"] in volume for volume in volumes())
            assert len(pools()) == 1
            first = backend["name"]

            # it dies while nobody is there; the successor cleans up, and starts another
            up.kill()
            host.api(lambda conn: conn.lookupByName(first).destroy())
            assert len(volumes()) == 2
            up.start("--retire-vms")
            (second,) = up.wait_ready(1, BOOT_S)
            assert second["name"] != first
            assert len(volumes()) == 2
            assert all(second["name"] in volume for volume in volumes())
            assert ask(second["address"])["instance"] != told["instance"]
            up.signal(signal.SIGTERM)
            assert up.wait_ended(120) == 0
        assert pools() == []
        assert host.api(lambda conn: conn.listAllDomains()) == []
        assert sorted(folder.iterdir()) == there
        assert (checksum(layered), layered.stat().st_uid) == before
