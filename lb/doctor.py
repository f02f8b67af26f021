"""`lbctl doctor`: everything that `lbctl up` needs of this machine, looked at one by one.

Each check ends in one line and, where something is wrong, in what to do about it. It only looks:
it runs no program, leaves no file behind, and never opens a libvirt root that is in use.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from lb import fastlane
from lb.address import split_address
from lb.config import Config, HypervisorConfig

if TYPE_CHECKING:
    from guest.image import Image
    from guest.own.image import OwnImage

Verdict = Literal["ok", "warn", "fail"]
COLOURS: Final[dict[Verdict, str]] = {"ok": "green", "warn": "yellow", "fail": "red"}

OLDEST_PYTHON: Final = (3, 11)
BUILD_BYTES: Final = 1_500_000_000
"""What building the guest image needs for a while."""
LOW_BYTES: Final = 200_000_000
"""Consoles, journal and libvirt's own files; below this a night may fill the disk."""
OPEN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `fix` says what to do; empty where nothing is to be done."""

    name: str
    verdict: Verdict
    finding: str
    fix: str = ""


class HostFacts(Protocol):
    """What an opened hypervisor says of itself; `autoscale.host.HostInfo` is one."""

    @property
    def domain_type(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def cores(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def libvirt_version(self) -> str: ...
    @property
    def cpu_limits(self) -> bool: ...


OpenHost = Callable[[HypervisorConfig], Awaitable[HostFacts]]
"""Connect, ask, disconnect. Raises an exception whose message is one line for the operator."""

IsServing = Callable[[], bool]
"""Does an `lbctl up` of this LBCTL_HOME answer?"""


async def checks(
    config: Config,
    home: Path,
    *,
    open_host: OpenHost | None = None,
    is_serving: IsServing | None = None,
) -> list[Check]:
    """Look at everything; tests put their own hypervisors in place of libvirt's."""
    serving = await asyncio.to_thread(is_serving or (lambda: _answers(home)))
    found = [check_python(sys.version_info[:3]), check_request_path(), check_libvirt_python()]
    # without VMs no hypervisor is ever opened
    hypervisors = config.hypervisor if _has_vms(config) else ()
    if hypervisors:
        found.append(check_qemu(config))
    opened: dict[str, HostFacts] = {}

    async def open_and_remember(hypervisor: HypervisorConfig) -> HostFacts:
        facts = await (open_host or open_with_libvirt)(hypervisor)
        opened[hypervisor.name] = facts
        return facts

    for hypervisor in hypervisors:
        found += await check_host(hypervisor, config, open_and_remember)
    if opened and len(opened) == len(hypervisors):  # what one that is silent has is not known
        found.append(check_memory(config, [facts.memory_bytes for facts in opened.values()]))
    found += check_images(config, home)
    found += [check_port(what, address, serving) for what, address in _addresses(config)]
    found += [check_home(home), check_disk(home)]
    if any(_is_embedded(hypervisor) for hypervisor in hypervisors):
        found.append(check_path_length(home))
    return found


# ── programs and libraries ───────────────────────────────────────────────────────────────────────


def check_python(version: tuple[int, ...]) -> Check:
    text = ".".join(map(str, version))
    if version[:2] >= OLDEST_PYTHON:
        return Check("python", "ok", text)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return Check("python", "fail", f"{text} is too old", f"install Python {oldest} or newer")


def check_libvirt_python(load: Callable[[str], Any] = importlib.import_module) -> Check:
    name = "libvirt-python"
    try:
        load("autoscale.hypervisor")
    except ImportError as error:
        fix = "run `./run setup`, which installs libvirt-dev and builds it"
        return Check(name, "fail", f"cannot be imported: {error}", fix)
    return Check(name, "ok", "can be imported")


def check_request_path(file: str = fastlane.__file__) -> Check:
    """`file`: what Python runs the fast lane from."""
    if not file.endswith(".py"):
        return Check("request path", "ok", "compiled")
    finding = "interpreted: forwarding takes half as much CPU again"
    return Check("request path", "warn", finding, "install gcc, and run `./run setup`")


def _qemu_package() -> str:
    """Debian's package of this machine's emulator, the one that ./run installs."""
    family = {"x86_64": "x86", "aarch64": "arm"}.get(platform.machine(), "misc")
    return f"apt-get install qemu-system-{family}"


def check_qemu(config: Config, which: Callable[[str], str | None] = shutil.which) -> Check:
    """Only local hypervisors run QEMU from this machine's packages."""
    program = f"qemu-system-{platform.machine()}"
    if not any(_is_local(hypervisor) for hypervisor in config.hypervisor):
        return Check("qemu", "ok", "not needed here: every hypervisor is another machine's")
    path = which(program)
    if path is None:
        return Check("qemu", "fail", f"{program} is not installed", _qemu_package())
    return Check("qemu", "ok", path)


# ── hypervisors ──────────────────────────────────────────────────────────────────────────────────


async def check_host(
    hypervisor: HypervisorConfig, config: Config, open_host: OpenHost
) -> list[Check]:
    """It opens; it runs guests by KVM or by emulation; it can limit their CPU."""
    name = f"hypervisor {hypervisor.name}"
    try:
        async with asyncio.timeout(OPEN_S):
            facts = await open_host(hypervisor)
    except TimeoutError:
        finding = f"{hypervisor.uri} does not answer in {OPEN_S:g} s"
        return [Check(name, "fail", finding, "see whether its libvirt daemon runs")]
    except Exception as error:  # noqa: BLE001 — whatever it is, it is what was to be found out
        fix = f"see [[hypervisor]] {hypervisor.name} in the configuration, and its libvirt daemon"
        return [Check(name, "fail", f"{hypervisor.uri}: {_first_line(error)}", fix)]
    opened = f"{hypervisor.uri}: libvirt {facts.libvirt_version}, {facts.cores} cores"
    kind = "KVM" if facts.domain_type == "kvm" else "emulation"
    runs = f"{facts.domain_type} ({kind}): {facts.why}"
    found = [Check(name, "ok", opened), Check(f"{name}: guests run by", "ok", runs)]
    if facts.cpu_limits:
        return [*found, Check(f"{name}: CPU limits", "ok", "possible")]
    needs_limits = any(
        service.vm is not None and service.vm.cpu_limit < service.vm.vcpus
        for service in config.service.values()
    )
    return [
        *found,
        Check(
            f"{name}: CPU limits",
            "warn" if needs_limits else "ok",
            "not possible: no cgroups for this user",
            "run as root, or set cpu_limit to the number of vcpus" if needs_limits else "",
        ),
    ]


def check_memory(config: Config, hosts: Sequence[int]) -> Check:
    """Whether the hypervisors, which have so many bytes each, could carry every VM there may ever
    be: max + standby + 1 of each service."""
    needs, largest, words = 0, 0, []
    for name, service in config.service.items():
        if service.vm is None:
            continue
        number = service.scale.max + service.scale.standby + 1
        needs += number * service.vm.memory_mib << 20
        largest = max(largest, service.vm.memory_mib << 20)
        words.append(f"{name} may have {number} VMs of {service.vm.memory_mib} MiB")
    has = sum(hosts)
    whose = "the hypervisor has" if len(hosts) == 1 else "the hypervisors have"
    finding = f"{', '.join(words)}: {_gib(needs)} at most; {whose} {_gib(has)}"
    if needs <= has and largest <= max(hosts):
        return Check("memory", "ok", finding)
    return Check("memory", "warn", finding, "lower memory_mib, max or standby")


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


async def open_with_libvirt(hypervisor: HypervisorConfig) -> HostFacts:
    """Open it as `lbctl up` would, but an embedded driver in a folder of its own: its real root
    belongs to the one process that serves, and maybe guests live there."""
    from autoscale.hypervisor import LibvirtHypervisor

    with tempfile.TemporaryDirectory(prefix="lbctl-doctor-", ignore_cleanup_errors=True) as scratch:
        host = LibvirtHypervisor(
            hypervisor.name,
            hypervisor.uri.partition("?")[0] if _is_embedded(hypervisor) else hypervisor.uri,
            instance="doctor",
            home=Path(scratch),
            domain_type=hypervisor.domain_type,
            network=hypervisor.network,
            call_timeout=hypervisor.call_timeout,
        )
        try:
            return await host.open()
        finally:
            await host.close()


def _has_vms(config: Config) -> bool:
    return any(service.vm is not None for service in config.service.values())


def _is_embedded(hypervisor: HypervisorConfig) -> bool:
    return hypervisor.uri.startswith("qemu:///embed")


def _is_daemon(hypervisor: HypervisorConfig) -> bool:
    """This machine's libvirtd, whose QEMU runs as a user of its own."""
    return hypervisor.uri.startswith(("qemu:///system", "qemu+unix:///system"))


def _is_local(hypervisor: HypervisorConfig) -> bool:
    return hypervisor.uri.startswith("qemu:///")


# ── the image ────────────────────────────────────────────────────────────────────────────────────


def check_images(config: Config, home: Path) -> Iterator[Check]:
    """Each image that a service's VMs boot: by the configuration, and by rollouts so far."""
    from guest.image import ImageError, NoImageError
    from guest.own.image import OwnImage, find
    from lb.rollout_words import gone

    named = {service.vm.image for service in config.service.values() if service.vm is not None}
    given = {image: (service, by) for service, image, by in rolled(config, home)}
    for name in sorted(named | given.keys()):
        try:
            image = find(home, name)
        except ImageError as error:
            if name in given and name not in named:
                service, by = given[name]
                why = "" if isinstance(error, NoImageError) else str(error)
                finding, _, todo = gone(service, name, by, why).rpartition(": ")
                yield Check(f"image {name}", "fail", finding, f"run {todo}")
                continue
            # the image's own errors end in what to do
            finding, _, fix = str(error).rpartition(": ")
            yield Check(f"image {name}", "fail", finding, fix)
            continue
        if isinstance(image, OwnImage):
            check = check_own_image(image, config)
        else:
            check = check_built_image(image)
        if name in given:
            check = replace(check, finding=f"{check.finding}; a rollout gave it `{given[name][0]}`")
        yield check


def rolled(config: Config, home: Path) -> Iterator[tuple[str, str, str]]:
    """Services, the images that a rollout gives their VMs, and those that the configuration
    names."""
    from lb.rollouts import FILE, Rollouts

    rollouts = Rollouts(home / FILE)
    for name, service in config.service.items():
        rollout = rollouts.of(name)
        if rollout is None or service.vm is None or rollout.configured != service.vm.image:
            continue  # the configuration has the last word
        # with `next_image` one that is under way goes on
        images = {rollout.image, *((rollout.next_image,) if rollout.goes_on else ())}
        for image in sorted(images - {service.vm.image}):
            yield name, image, service.vm.image


def check_built_image(image: Image) -> Check:
    from guest.image import is_current

    parts = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in image.boot_parts.items())
    finding = f"built {image.built_at}; boots in: {parts or 'not measured'}"
    if is_current(image):
        return Check(f"image {image.name}", "ok", finding)
    fix = f"run `lbctl image build {image.name}` for the sources as they are now"
    return Check(f"image {image.name}", "warn", finding, fix)


def check_own_image(image: OwnImage, config: Config) -> Check:
    """Its file is as it was added; here, whether another user's QEMU can read it too."""
    from guest.own.disk_file import closed_to_others

    name = f"image {image.name}"
    if any(_is_daemon(hypervisor) for hypervisor in config.hypervisor):
        finding, _, fix = closed_to_others(image.layers).partition(": ")
        if finding:
            return Check(name, "fail", f"{finding}, so libvirtd's QEMU cannot read it", fix)
    seeded = "with user-data" if image.user_data else "without user-data"
    return Check(name, "ok", f"your own: {image.disk.path} ({image.disk.format}), {seeded}")


# ── addresses ────────────────────────────────────────────────────────────────────────────────────


def _addresses(config: Config) -> Iterator[tuple[str, str]]:
    for listen in config.proxy.listen:
        yield "proxy.listen", listen.address
    yield "admin.listen", config.admin.listen


def check_port(what: str, address: str, serving: bool) -> Check:
    """Try it; nothing ever listens there, so no connection is taken from anybody."""
    name = f"{what} {address}"
    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = found[0]
        with socket.socket(family, kind, protocol) as probe:
            # as servers do: connections that linger from an earlier run are no obstacle
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and serving:
            return Check(name, "ok", "lbctl is serving")
        fix = f"stop what uses it, or set another {what}"
        return Check(name, "fail", (error.strerror or str(error)).lower(), fix)
    return Check(name, "ok", "free")


def _answers(home: Path) -> bool:
    from lb.admin import access
    from lb.client import AdminClient, AdminError

    try:
        url = access.read_address(home)
        if url is None:
            return False
        AdminClient(url, timeout_s=2.0).pool()
    except AdminError:
        return False
    return True


# ── LBCTL_HOME ───────────────────────────────────────────────────────────────────────────────────


def check_home(home: Path) -> Check:
    """Can files be made there? A home that does not exist yet is judged by where it would be."""
    folder = _existing(home)
    fix = f"make {folder} writable for this user, or set LBCTL_HOME"
    if not folder.is_dir():
        return Check("LBCTL_HOME", "fail", f"{folder} is not a folder", "set LBCTL_HOME")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return Check("LBCTL_HOME", "fail", f"{home} cannot be written: {reason}", fix)
    return Check("LBCTL_HOME", "ok", f"{home}{'' if home.exists() else ' (not made yet)'}")


def check_disk(home: Path, free: int | None = None) -> Check:
    if free is None:
        free = shutil.disk_usage(_existing(home)).free
    finding = f"{free / 1e9:.1f} GB free"
    if free < LOW_BYTES:
        return Check("disk", "fail", finding, f"free some on the disk of {home}")
    if free < BUILD_BYTES:
        fix = f"building an image needs {BUILD_BYTES / 1e9:.1f} GB on the disk of {home}"
        return Check("disk", "warn", finding, fix)
    return Check("disk", "ok", finding)


def check_path_length(home: Path) -> Check:
    from autoscale.embedded import excess_path_length, root_folder

    excess = excess_path_length(root_folder(home))
    length = len(os.fsencode(home))
    if excess:
        finding = f"{home} is {excess} characters too long for libvirt's sockets"
        return Check("socket paths", "fail", finding, "set LBCTL_HOME to a shorter folder")
    return Check("socket paths", "ok", f"LBCTL_HOME has {length} characters: short enough")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _first_line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0]
