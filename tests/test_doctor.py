"""The doctor's findings on machines that lack something, each with what to do about it."""

from __future__ import annotations

import asyncio
import json
import platform
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from autoscale.rollout import Phase, Rollout
from guest.own.image import add
from lb import doctor
from lb.config import Config, HypervisorConfig, parse_config
from lb.doctor import Check, HostFacts
from lb.rollouts import FILE, Rollouts
from tests import disks

CONFIG = Config()


@dataclass(frozen=True)
class Facts:
    """A hypervisor's answer."""

    domain_type: str = "qemu"
    why: str = "no vmx, no svm"
    cores: int = 2
    libvirt_version: str = "9.0.0"
    cpu_limits: bool = True
    memory_bytes: int = 8 << 30


def opens(facts: Facts) -> doctor.OpenHost:
    async def open_host(_: HypervisorConfig) -> HostFacts:
        return facts

    return open_host


def fails(error: Exception) -> doctor.OpenHost:
    async def open_host(_: HypervisorConfig) -> HostFacts:
        raise error

    return open_host


def verdicts(found: list[Check]) -> dict[str, str]:
    return {check.name: check.verdict for check in found}


async def test_every_check_has_a_line_and_every_failure_a_way_out(tmp_path: Path) -> None:
    found = await doctor.checks(
        CONFIG, tmp_path / "home", open_host=opens(Facts()), is_serving=lambda: False
    )
    names = [check.name for check in found]
    assert names[:4] == ["python", "request path", "libvirt-python", "qemu"]
    assert len(names) == len(set(names))
    for check in found:
        assert check.finding
        assert "\n" not in check.finding + check.fix
        assert bool(check.fix) == (check.verdict != "ok")
    assert not (tmp_path / "home").exists(), "looking leaves nothing behind"
    assert verdicts(found)["image webapp"] == "fail"
    json.dumps([check.finding for check in found])


async def test_without_vms_no_hypervisor_is_needed(tmp_path: Path) -> None:
    config = parse_config({"service": {"web": {"backends": ["h:1"]}}})
    found = await doctor.checks(
        config, tmp_path, open_host=fails(AssertionError()), is_serving=lambda: False
    )
    names = {check.name.split()[0] for check in found}
    assert not names & {"hypervisor", "qemu", "image", "socket"}


def test_an_old_python() -> None:
    assert doctor.check_python((3, 11, 2)).verdict == "ok"
    assert doctor.check_python((4, 0, 0)).verdict == "ok"
    assert doctor.check_request_path("/lb/fastlane.cpython-311-x86_64-linux-gnu.so").verdict == "ok"
    slow = doctor.check_request_path("/lb/fastlane.py")
    assert (slow.verdict, slow.fix) == ("warn", "install gcc, and run `./run setup`")
    old = doctor.check_python((3, 10, 9))
    assert (old.verdict, old.fix) == ("fail", "install Python 3.11 or newer")


def test_libvirts_bindings_missing() -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'libvirt'", name="libvirt")

    check = doctor.check_libvirt_python(missing)
    assert check.verdict == "fail"
    assert "./run setup" in check.fix


def test_qemu_missing_matters_only_here() -> None:
    def nothing(_: str) -> None:
        return None

    fix = doctor.check_qemu(CONFIG, nothing).fix
    assert fix.startswith("apt-get install qemu-system-")
    if platform.machine() == "x86_64":
        packages = (Path(__file__).parents[1] / "run").read_text().split()
        assert fix.rpartition(" ")[2] in packages, "what ./run installs"
    remote = parse_config({"hypervisor": [{"uri": "qemu+ssh://far/system"}]})
    assert doctor.check_qemu(remote, nothing).verdict == "ok"


# ── hypervisors ──────────────────────────────────────────────────────────────────────────────────


async def test_a_hypervisor_that_opens_says_how_guests_will_run() -> None:
    found = await doctor.check_host(CONFIG.hypervisor[0], CONFIG, opens(Facts()))
    assert [check.verdict for check in found] == ["ok", "ok", "ok"]
    assert found[0].finding == "qemu:///embed: libvirt 9.0.0, 2 cores"
    assert found[1].finding == "qemu (emulation): no vmx, no svm"
    found = await doctor.check_host(CONFIG.hypervisor[0], CONFIG, opens(Facts("kvm", "vmx")))
    assert found[1].finding == "kvm (KVM): vmx"


@pytest.mark.parametrize(
    "error", [RuntimeError("refused\nand more"), OSError(), ImportError("libvirt")]
)
async def test_a_hypervisor_that_does_not_open(error: Exception) -> None:
    (check,) = await doctor.check_host(CONFIG.hypervisor[0], CONFIG, fails(error))
    assert check.verdict == "fail"
    assert "\n" not in check.finding
    assert "[[hypervisor]] local" in check.fix


async def test_a_hypervisor_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(_: HypervisorConfig) -> HostFacts:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(doctor, "OPEN_S", 0.01)
    (check,) = await doctor.check_host(CONFIG.hypervisor[0], CONFIG, hangs)
    assert "does not answer" in check.finding


async def test_no_cpu_limits_matters_only_where_one_is_asked_for() -> None:
    async def verdict(limit: float) -> str:
        config = parse_config({"service": {"web": {"vm": {"cpu_limit": limit}}}})
        facts = Facts(cpu_limits=False)
        found = await doctor.check_host(config.hypervisor[0], config, opens(facts))
        return found[-1].verdict

    assert await verdict(0.4) == "warn"
    assert await verdict(1.0) == "ok"


async def test_libvirts_own_test_driver_opens_for_real() -> None:
    facts = await doctor.open_with_libvirt(HypervisorConfig(uri="test:///default"))
    assert facts.cores > 0


# ── addresses and folders ────────────────────────────────────────────────────────────────────────


def test_a_port_is_free_taken_or_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        check = doctor.check_port("admin.listen", address, serving=False)
        assert (check.verdict, check.finding) == ("fail", "address already in use")
        assert "another admin.listen" in check.fix
        ours = doctor.check_port("admin.listen", address, serving=True)
        assert (ours.verdict, ours.finding) == ("ok", "lbctl is serving")
    assert doctor.check_port("admin.listen", address, serving=True).finding == "free"
    assert doctor.check_port("admin.listen", "no such name:1", serving=True).verdict == "fail"
    assert doctor.check_port("admin.listen", "192.0.2.1:80", serving=True).verdict == "fail"


def test_a_home_that_cannot_be_used(tmp_path: Path) -> None:
    assert doctor.check_home(tmp_path).verdict == "ok"
    assert "not made yet" in doctor.check_home(tmp_path / "a" / "b").finding
    (tmp_path / "file").touch()
    assert doctor.check_home(tmp_path / "file" / "home").verdict == "fail"
    assert doctor.check_home(Path("/proc/none")).verdict == "fail"


def test_a_home_too_deep_for_sockets(tmp_path: Path) -> None:
    assert doctor.check_path_length(Path("/srv/lbctl")).verdict == "ok"
    deep = doctor.check_path_length(Path("/srv") / ("x" * 100))
    assert (deep.verdict, deep.fix) == ("fail", "set LBCTL_HOME to a shorter folder")


@pytest.mark.parametrize(("free", "verdict"), [(10**10, "ok"), (10**9, "warn"), (10**8, "fail")])
def test_a_disk_that_fills_up(tmp_path: Path, free: int, verdict: str) -> None:
    assert doctor.check_disk(tmp_path, free).verdict == verdict
    assert doctor.check_disk(tmp_path / "not made").finding.endswith("GB free")


@pytest.mark.parametrize(
    ("memory_mib", "hosts", "verdict"),
    [
        (1024, [8 << 30], "ok"),  # 5 replicas, 2 standbys, 1 more
        (1025, [8 << 30], "warn"),
        (1025, [4 << 30, 5 << 30], "ok"),
        (2048, [1 << 30] * 16, "warn"),  # no host has room for a single one
        (1_000_000, [8 << 30], "warn"),
    ],
)
def test_more_memory_than_there_is_is_warned_of(
    memory_mib: int, hosts: list[int], verdict: str
) -> None:
    service = {"vm": {"memory_mib": memory_mib}, "scale": {"max": 5, "standby": 2}}
    config = parse_config({"service": {"web": service}})
    check = doctor.check_memory(config, hosts)
    assert (check.name, check.verdict) == ("memory", verdict)
    assert f"web may have 8 VMs of {memory_mib} MiB" in check.finding
    assert bool(check.fix) == (verdict == "warn")


async def test_memory_is_judged_where_every_hypervisor_answers(tmp_path: Path) -> None:
    async def checked(open_host: doctor.OpenHost) -> str | None:
        found = await doctor.checks(CONFIG, tmp_path, open_host=open_host, is_serving=lambda: False)
        return verdicts(found).get("memory")

    assert await checked(opens(Facts())) == "ok"
    assert await checked(opens(Facts(memory_bytes=1 << 20))) == "warn"
    assert await checked(fails(OSError("no libvirtd"))) is None


# ── images of one's own ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    """An own image `cloud` in LBCTL_HOME; the path of its file."""
    file = tmp_path / "cloud.img"
    file.write_bytes(disks.raw())
    add("cloud", file, tmp_path, lambda _what, _done: None)
    return file


def check_cloud(home: Path, uri: str = "qemu:///embed") -> Check:
    service = {"vm": {"image": "cloud"}}
    config = parse_config({"hypervisor": [{"uri": uri}], "service": {"web": service}})
    (check,) = doctor.check_images(config, home)
    return check


def test_an_own_image_is_looked_at_as_before_a_boot(tmp_path: Path, cloud: Path) -> None:
    check = check_cloud(tmp_path)
    assert (check.name, check.verdict, check.fix) == ("image cloud", "ok", "")
    assert str(cloud) in check.finding
    cloud.write_bytes(disks.raw(2 << 20))
    check = check_cloud(tmp_path)
    assert (check.verdict, check.finding) == (
        "fail",
        f"image 'cloud': {cloud} has changed since it was added",
    )
    assert check.fix == f"run `lbctl image add cloud {cloud} --force`"
    cloud.unlink()
    check = check_cloud(tmp_path)
    assert check.finding == f"image 'cloud': {cloud} is not there"
    assert check.fix == "put it back, or run `lbctl image add cloud FILE --force` with another"


def test_an_image_that_another_user_cannot_read_matters_to_a_daemon(
    tmp_path: Path, cloud: Path
) -> None:
    cloud.chmod(0o600)
    assert check_cloud(tmp_path).verdict == "ok"
    check = check_cloud(tmp_path, "qemu:///system")
    assert check.verdict == "fail"
    assert "not readable for others" in check.finding
    assert check.fix == f"chmod o+r {cloud}"


# ── images that a rollout gave ───────────────────────────────────────────────────────────────────


async def test_the_image_that_a_rollout_holds_is_looked_at_too(tmp_path: Path, cloud: Path) -> None:
    config = parse_config({"service": {"web": {"vm": {"image": "cloud"}}}})
    rollouts = Rollouts(tmp_path / FILE)

    async def checked(rollout: Rollout) -> list[Check]:
        rollouts.put("web", rollout)
        await rollouts.save()
        return list(doctor.check_images(config, tmp_path))

    failed = Rollout("cloud", "other", "next", "checksum", 1.7e9, phase=Phase.FAILED)
    cloud_check, other = await checked(failed)
    assert (cloud_check.name, cloud_check.verdict) == ("image cloud", "ok")
    assert other == Check(
        "image other",
        "fail",
        "image 'other', which a rollout gave `web`, is gone",
        "run `lbctl rollout web --image cloud`, or build it again",
    )
    running = replace(failed, phase=Phase.RUNNING)
    assert verdicts(await checked(running)).keys() == {"image cloud", "image other", "image next"}
    add("other", cloud, tmp_path, lambda _what, _done: None)
    _, other = await checked(failed)
    assert (other.verdict, other.fix) == ("ok", "")
    assert other.finding.endswith("; a rollout gave it `web`")
    assert len(await checked(replace(failed, configured="webapp"))) == 1, "it is forgotten"
