"""What the scaler asks of a hypervisor: a narrow Protocol, its values and its errors.

`hypervisor` implements it on libvirt, the tests' fake by script. Nothing here knows libvirt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

from autoscale.domain_xml import Identity, VmSpec
from autoscale.model import Reason, Sample


class HypervisorError(Exception):
    """A hypervisor did not do what it was asked; the message is one line for the operator."""


class HostUnreachable(HypervisorError):
    """No answer from the host, or its connection is lost: nothing is known of its domains."""


class HostHeld(HostUnreachable):
    """Another process acts on our machines there: as long as it does, we must not."""


class DomainRefused(HypervisorError):
    """The host answered, and will not start this domain. Its kinds say in their message what to do
    about it, and have a reason of their own."""

    reason: ClassVar[Reason] = Reason.LAUNCH_FAILED
    fix: ClassVar[str] = ""


class NoMemory(DomainRefused):
    """The host has not so much memory to give."""

    reason = Reason.NO_MEMORY
    fix = "free memory on that host, or lower memory_mib or max of the service"


class DiskFull(DomainRefused):
    """There is no room on the host's disk for what a domain needs there."""

    reason = Reason.DISK_FULL
    fix = "make room on that host's disk, or move LBCTL_HOME to one that has some"


class NoPort(DomainRefused):
    """No port of the host could be led to the guest."""

    reason = Reason.NO_PORT
    fix = (
        "free ports of 127.0.0.1 on that host (`ss -tln` shows who has them), or widen"
        " net.ipv4.ip_local_port_range"
    )


class ImageUnavailable(DomainRefused):
    """There is nothing to start it from."""

    reason = Reason.IMAGE_GONE


class NoSuchImage(ImageUnavailable):
    """No image has that name, or none has it any more."""


class ImageLost(ImageUnavailable):
    """It was there when it was looked for, and not when the host opened it."""

    fix = "put the image back where that host can read it: `lbctl image list` says which there are"


class SnapshotUnusable(DomainRefused):
    """A saved guest that cannot be started as a copy: another way has to do."""


class NoSuchDomain(HypervisorError):
    """The domain is gone: for whoever wanted it away, that is success."""


class LimitUnsupported(HypervisorError):
    """The host cannot limit CPU (no cgroups for this user)."""


class PowerState(StrEnum):
    """libvirt's domain state, folded to what the fleet acts on."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    OFF = "off"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Domain:
    """One domain of ours, as one bulk call showed it."""

    name: str
    uuid: str
    power: PowerState
    identity: Identity
    sample: Sample | None
    """None where the driver gives no counters: missing, not zero."""


@dataclass(frozen=True, slots=True)
class HostInfo:
    """What a host is and how it will run our guests."""

    name: str
    uri: str
    domain_type: str
    why: str
    """Why that domain type, in a few words."""
    cores: int
    memory_bytes: int
    libvirt_version: str
    network: str
    cpu_limits: bool
    copies: str = ""
    """Why no copies can be started of a saved guest there; empty: they can."""


@dataclass(frozen=True, slots=True)
class Contact:
    """How the calls to a host have gone since the start of the process."""

    answered: int = 0
    refused: int = 0
    """Answered with an error."""
    lost: int = 0
    """Not to be asked: there was no connection, or it broke."""
    timed_out: int = 0
    """Not answered in time."""
    hanging: int = 0
    """Calls that have not returned yet, long after anybody waited for them: a thread each."""
    silent_s: float | None = None
    """For how long it has not answered; None: the last call was answered."""
    holder: str = ""
    """Who acts on our machines there in our place; empty: nobody."""

    @property
    def calls(self) -> dict[str, int]:
        """All of them, by what became of each."""
        return {
            "ok": self.answered,
            "error": self.refused,
            "lost": self.lost,
            "timeout": self.timed_out,
        }


class Hypervisor(Protocol):
    """One libvirt host. Every coroutine raises HypervisorError and nothing else."""

    @property
    def name(self) -> str: ...

    @property
    def info(self) -> HostInfo | None:
        """What the last connection found there; None before the first."""

    @property
    def contact(self) -> Contact:
        """How the calls to it have gone."""

    async def open(self) -> HostInfo:
        """Connect (again, where the connection was lost) and say what is there."""

    async def close(self) -> None:
        """Let go of the connection. Domains live on."""

    async def observe(self) -> tuple[Domain, ...]:
        """Every domain of ours on this host, in whatever state, with its counters: one call."""

    async def create(self, spec: VmSpec) -> Identity:
        """Start a domain; returns its identity as recorded, forwarded port included."""

    async def address(self, domain: str, identity: Identity) -> str | None:
        """Where its application listens, `host:port`; None while it has no address."""

    async def set_cpu_limit(self, domain: str, cores: float | None) -> None:
        """Limit all its vCPUs together to so many host cores, live; None lifts the limit."""

    async def set_cpu_weight(self, domain: str, weight: int) -> None:
        """Its share where host cores are short, live; libvirt's usual one is 1024. Raises
        LimitUnsupported."""

    async def suspend(self, domain: str) -> None:
        """Stop its virtual CPUs; its memory stays. Suspended already is success."""

    async def resume(self, domain: str) -> None:
        """Let it go on. Running already is success."""

    async def saved(self) -> frozenset[str]:
        """The keys of the guests that are saved whole on this host; none where it can start no
        copies (`HostInfo.copies`)."""

    async def keep_saved(self, services: Collection[str]) -> None:
        """What is saved on this host for any other service goes."""

    async def save(self, domain: str, key: str) -> None:
        """Write its whole state to a file of the host's and end it; what was saved for the same
        service under another key goes. The file is whole when this returns, and nothing is left of
        it where it raises."""

    async def restore(self, spec: VmSpec, key: str) -> Identity:
        """Start `spec` as a copy of the guest saved under `key`: another name, UUID, generation id,
        metadata and forwarded port. Returns its identity as recorded. Raises SnapshotUnusable where
        this file allows no copies: there is no domain then, and the file is gone."""

    async def introduce(self, domain: str, name: str, seed: bytes) -> None:
        """Tell a copy its name, give it fresh randomness, set its clock. Told twice does no harm.
        Raises HypervisorError where its agent does not say yes."""

    async def set_time(self, domain: str) -> None:
        """Set its clock to the host's, after it stood still: in the guest, no time had passed."""

    async def set_identity(self, domain: str, identity: Identity) -> None:
        """Rewrite its metadata, live."""

    async def shutdown(self, domain: str) -> None:
        """Press its power button; returns at once."""

    async def destroy(self, domain: str) -> None:
        """End it: gracefully (QEMU flushes and exits), else by force. Gone already is success."""

    async def console_tail(self, domain: str, lines: int = 20) -> str:
        """The end of its console, empty where the host keeps none for us."""

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call `callback(domain name)` on the event loop when a domain of ours starts or stops."""
