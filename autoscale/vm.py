"""One virtual machine's life: its states as a table, and what is remembered between two ticks.

Owns the transitions; an unknown one raises. It must not do I/O or decide when to move: that is
`fleet`'s.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from autoscale.domain_xml import Identity, Layer, VmSpec
from autoscale.model import (
    BackendLoad,
    Fleet,
    Path,
    PoolLoad,
    Reason,
    Sample,
    Signal,
    VmState,
    VmStatus,
    Way,
)

_S = VmState
TRANSITIONS: dict[VmState, frozenset[VmState]] = {
    _S.DEFINED: frozenset({_S.BOOTING, _S.DRAINING, _S.FAILED, _S.GONE}),
    _S.BOOTING: frozenset({_S.READY, _S.DRAINING, _S.FAILED, _S.GONE}),
    _S.READY: frozenset({_S.STANDBY, _S.DRAINING, _S.FAILED, _S.GONE}),
    _S.STANDBY: frozenset({_S.READY, _S.DRAINING, _S.FAILED, _S.GONE}),
    _S.DRAINING: frozenset({_S.FAILED, _S.GONE}),
    _S.FAILED: frozenset({_S.GONE}),
    _S.GONE: frozenset(),
}


class Role(StrEnum):
    """What a VM is there for. It stands in its metadata, so that a successor knows."""

    REPLICA = "replica"
    """It serves, or will."""
    STANDBY = "standby"
    """It waits, booted and suspended, to become a replica within milliseconds."""
    TEMPLATE = "template"
    """It is saved once it has booted; replicas are started as copies of what was saved."""


def role_of(identity: Identity) -> Role:
    """What its metadata says it is there for; a word of some later version stands for a replica."""
    return Role(identity.role) if identity.role in set(Role) else Role.REPLICA


def path_of(identity: Identity) -> Path:
    """How its metadata says it came; a word of some later version stands for a boot."""
    return Path(identity.path) if identity.path in set(Path) else Path.COLD


SERVING = "serving"
COPIED = "copied"
"""Phases in the metadata: a copy is one until it was told its own name."""


class ImpossibleTransition(RuntimeError):
    """A bug: the lifecycle table has no such edge."""


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What a replica boots from: paths on the host, and the generation they make it."""

    generation: str
    kernel: str
    """Empty where its firmware finds it on its own disk; so are initrd and cmdline then."""
    initrd: str
    disk: str
    cmdline: str
    own_disk: bool = False
    """Whether each writes to an overlay of its own; else the disk is shared and read-only."""
    disk_format: str = "raw"
    disk_bytes: int = 0
    below: tuple[Layer, ...] = ()
    user_data: str = ""


@dataclass(frozen=True, slots=True)
class VmShape:
    """What each replica of a service is given, and how long the stages of its life may take."""

    vcpus: int
    memory_mib: int
    app_port: int
    cpu_limit: float
    boot_timeout_s: float
    drain_timeout_s: float
    shutdown_timeout_s: float
    standby: int = 0
    """So many are kept booted and suspended, beside those that serve."""
    snapshot: bool = False
    """Whether replicas may be started as copies of a saved one."""
    image: str = ""
    """Name of what they boot from, as the configuration says it."""
    max_lifetime_s: float | None = None
    """About so long after its start a VM is replaced by a fresh one; None: never."""

    @property
    def cut(self) -> str:
        """What of it cannot change while a VM lives, as it stands in the metadata."""
        return f"{self.vcpus}x{self.memory_mib}-{self.app_port}"


_ALIVE = frozenset({_S.DEFINED, _S.BOOTING, _S.READY, _S.STANDBY})


@dataclass(slots=True)
class Vm:
    """What the fleet remembers of one VM. Mutable, and only `fleet` writes it."""

    name: str
    host: str
    identity: Identity
    started_at: float
    """When it was asked for, or adopted; monotonic."""
    since: float
    """When it entered its state."""
    state: VmState = VmState.DEFINED
    role: Role = Role.REPLICA
    power: str = ""
    address: str | None = None
    checked: bool = False
    """Its application answered that it is ready, before it was in any pool."""
    introduced: bool = True
    """A copy has been told its own name and the time; whoever booted by itself knows them."""
    key: str | None = None
    """Of the saved guest that it is a copy of, or that it is there to become; None: of none, or
    nobody knows."""
    protected: bool = False
    """An operator's word; its metadata says so by the next step."""
    joined: bool = False
    """The pool has been told of it, and not yet that it left."""
    weight: int | None = None
    """Its share of host cores as it was set; None while none was, or while nobody knows."""
    path: Path = Path.COLD
    """How it comes into service."""
    limit_cores: float | None = None
    """The CPU limit that was set; None while none was, or while nobody knows."""
    left_because: Reason | None = None
    """Why it serves nobody any more, or not for now; None while it does, or will."""
    shutdown_at: float | None = None
    created_at: float | None = None
    """When its creation was answered; None while the call is under way."""
    adopted: bool = False
    reason: Reason = Reason.ADOPTED
    """Why it was started; the pool is told it with JOIN, the journal when it serves."""
    sick_since: float | None = None
    busy: bool = False
    """A libvirt call for it is under way: one at a time."""
    sample: Sample | None = None
    signal: Signal | None = None

    def move(self, state: VmState, now: float) -> None:
        """Enter a state. Raises ImpossibleTransition where the table has no such edge."""
        if state not in TRANSITIONS[self.state]:
            raise ImpossibleTransition(f"{self.name}: {self.state} → {state}")
        self.state, self.since = state, now

    @property
    def is_marked(self) -> bool:
        """Its metadata says what it is there for, how it came, and whether it is spared."""
        said = self.identity.role, self.identity.path, self.identity.protected
        return said == (self.role, self.path, self.protected)

    @property
    def generation(self) -> str:
        """Checksum of what it booted from; empty where that is not known yet."""
        return self.identity.generation

    @property
    def alive(self) -> bool:
        """It is not on its way out."""
        return self.state in _ALIVE

    @property
    def serves_or_will(self) -> bool:
        """One that wakes still stands as standby, but as a replica's."""
        return self.role is Role.REPLICA and self.alive

    @property
    def in_reserve(self) -> bool:
        """It waits for its turn, or boots or rests in order to."""
        return self.role is Role.STANDBY and self.alive

    @property
    def is_being_saved(self) -> bool:
        return self.role is Role.TEMPLATE and self.state is VmState.READY and self.busy

    @property
    def wakes(self) -> bool:
        """It was asleep, or may be, and shall serve."""
        return self.role is Role.REPLICA and self.state is VmState.STANDBY

    @property
    def starting(self) -> bool:
        return self.state in (VmState.DEFINED, VmState.BOOTING)

    def age_s(self, wall_s: float) -> float:
        """Since it was asked for, by whichever process; `wall_s` is Unix time, as its metadata has
        it. A clock that was set back makes nobody younger than new."""
        return max(0.0, wall_s - self.identity.created_at)

    def status(self, service: str, wall_s: float) -> VmStatus:
        return VmStatus(
            name=self.name,
            service=service,
            host=self.host,
            state=self.state,
            power=self.power,
            address=self.address,
            age_s=self.age_s(wall_s),
            generation=self.identity.generation,
            limit_cores=self.limit_cores,
            sample=self.sample,
            signal=self.signal,
            role=self.role.value,
            path=self.path,
            protected=self.protected,
        )


def spec_of(vm: Vm, uuid: UUID, shape: VmShape, files: BootFiles) -> VmSpec:
    """What a hypervisor is asked to start for it: its identity says what it boots from."""
    return VmSpec(
        name=vm.name,
        uuid=str(uuid),
        memory_mib=shape.memory_mib,
        vcpus=shape.vcpus,
        kernel=files.kernel,
        initrd=files.initrd,
        disk=files.disk,
        cmdline=files.cmdline,
        identity=replace(vm.identity, generation=files.generation),
        own_disk=files.own_disk,
        disk_format=files.disk_format,
        disk_bytes=files.disk_bytes,
        below=files.below,
        user_data=files.user_data,
    )


def count(
    service: str,
    vms: Collection[Vm],
    load: PoolLoad,
    launch_failures: int,
    ways: tuple[Way, ...],
    surge: int = 0,
) -> Fleet:
    """How many there are, by state; a launch under way exists already, and one that wakes is on
    its way. Those in reserve count as standby, and not as ready."""
    serving = [vm for vm in vms if vm.role is Role.REPLICA]
    ready = [vm for vm in serving if vm.state is VmState.READY]
    return Fleet(
        service=service,
        ready=len(ready),
        booting=sum(vm.starting or vm.wakes for vm in serving),
        standby=sum(vm.in_reserve and vm.state is VmState.STANDBY for vm in vms),
        draining=sum(vm.state in (VmState.DRAINING, VmState.FAILED) for vm in vms),
        existing=len(vms),
        unavailable=sum(not is_available(vm, load) for vm in ready),
        launch_failures=launch_failures,
        ways=ways,
        surge=surge,
    )


def is_available(vm: Vm, load: PoolLoad) -> bool:
    """Whether it gets requests: the VM is there, its checks pass, nobody drained or ejected it."""
    backend = load.of(vm.name)
    serves = vm.role is Role.REPLICA and vm.state is VmState.READY
    return serves and backend is not None and backend.available


def who_serves(vms: Collection[Vm], load: PoolLoad) -> tuple[str, ...]:
    """Those available: their load is the service's, the others' tells nothing.

    Where none is, those whose checks fail: an overload that makes every check fail would else
    never start one more.
    """
    available = tuple(vm.name for vm in vms if is_available(vm, load))
    if available:
        return available
    ready = (v for v in vms if v.role is Role.REPLICA and v.state is VmState.READY)
    return tuple(vm.name for vm in ready if is_sick(load.of(vm.name)))


def is_sick(backend: BackendLoad | None) -> bool:
    """A replica that once was ready and whose probes now fail, or that the pool lost. One that an
    operator drained is not sick; one he took back has to pass its checks again. One that is ejected
    is not: it comes back by itself, and a new VM might do no better."""
    return backend is None or (backend.lifecycle != "draining" and not backend.passes)


REFUSALS = (Reason.LAUNCH_FAILED, Reason.NO_MEMORY, Reason.DISK_FULL, Reason.NO_PORT)
"""Why a host would not start one: its own trouble, where another host may have none."""

FAILURE_WORDS: dict[Reason, str] = {
    Reason.CRASHED: "stopped by itself",
    Reason.BOOT_TIMEOUT: "never became ready",
    Reason.NO_ADDRESS: "got no address",
    Reason.UNHEALTHY: "stayed unhealthy",
    Reason.LAUNCH_FAILED: "could not be started",
}
