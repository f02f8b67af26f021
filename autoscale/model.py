"""The values that cross room borders: what was seen, what was decided, what happened.

Everything here is frozen and free of I/O, so it can be logged, journalled, sent over a wire and
compared in a test. Units stand in the names: `_s` seconds, `_bytes`, `_cores` (1.0 = one core).
Timestamps named `at` are seconds on the monotonic clock of the process that made them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Reason(StrEnum):
    """Why something was decided or happened. The same word in log, metric, journal, dashboard."""

    # what asks for replicas, and so why there are more of them
    CPU_OVERLOAD = "cpu_overload"
    CONCURRENCY = "concurrency"
    QUEUE = "queue"
    LATENCY = "latency"
    STEP = "step"
    SCHEDULE = "schedule"
    FORECAST = "forecast"
    BELOW_MIN = "below_min"
    FROM_ZERO = "from_zero"
    # why there are fewer
    CPU_LOW = "cpu_low"
    LOAD_LOW = "load_low"
    IDLE = "idle"
    ABOVE_MAX = "above_max"
    # both ways
    OVERRIDE = "override"
    # why there are as many as before
    STEADY = "steady"
    AT_MAX = "at_max"
    AT_MIN = "at_min"
    NOT_SUSTAINED = "not_sustained"
    KEPT = "kept"
    STABILISING = "stabilising"
    WOULD_CROSS = "would_cross"
    PANIC = "panic"
    RATE_LIMITED = "rate_limited"
    SMALL_CHANGE = "small_change"
    SETTLING = "settling"
    UNAVAILABLE = "unavailable"
    NO_DATA = "no_data"
    HOST_CONTENDED = "host_contended"
    HOLD = "hold"
    OBSERVE = "observe"
    # causes of events
    ADOPTED = "adopted"
    REPLACED = "replaced"
    CRASHED = "crashed"
    BOOT_TIMEOUT = "boot_timeout"
    UNHEALTHY = "unhealthy"
    HEALTHY = "healthy"
    EJECTED = "ejected"
    REINSTATED = "reinstated"
    LAUNCH_FAILED = "launch_failed"
    NO_MEMORY = "no_memory"
    DISK_FULL = "disk_full"
    NO_PORT = "no_port"
    IMAGE_GONE = "image_gone"
    NO_ADDRESS = "no_address"
    BREAKER_OPEN = "breaker_open"
    BREAKER_CLOSED = "breaker_closed"
    HOST_REFUSES = "host_refuses"
    NO_CPU_LIMITS = "no_cpu_limits"
    DRAINED = "drained"
    RESERVED = "reserved"
    SURPLUS = "surplus"
    STALE = "stale"
    ROLLOUT = "rollout"
    ROLLBACK = "rollback"
    MAX_LIFETIME = "max_lifetime"
    PROTECTED = "protected"
    NO_SNAPSHOTS = "no_snapshots"
    DRAIN_TIMEOUT = "drain_timeout"
    SHUTDOWN = "shutdown"
    OPERATOR = "operator"
    UNKNOWN_SERVICE = "unknown_service"
    HYPERVISOR_UNREACHABLE = "hypervisor_unreachable"
    HYPERVISOR_BACK = "hypervisor_back"
    HELD_ELSEWHERE = "held_elsewhere"
    UNREADABLE = "unreadable"


class VmState(StrEnum):
    """Where a VM stands in its life; the table of transitions is owned by `fleet`."""

    DEFINED = "defined"
    BOOTING = "booting"
    READY = "ready"
    STANDBY = "standby"
    DRAINING = "draining"
    GONE = "gone"
    FAILED = "failed"


class Path(StrEnum):
    """How a replica comes into service, the cheapest first."""

    STANDBY = "standby"
    """Booted before, suspended: it only has to be woken."""
    SNAPSHOT = "snapshot"
    """Restored from the memory of one that had booted."""
    COLD = "cold"


class Direction(StrEnum):
    """Which way a decision moves the fleet."""

    UP = "up"
    DOWN = "down"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Sample:
    """One VM's cumulative counters as libvirt gave them at one instant.

    `cpu_s` is all the CPU the VM's QEMU process used (host view), `vcpu_s` the part its virtual
    CPUs used; the rest is QEMU's own overhead. `vcpu_delay_s` is the time the vCPUs were runnable
    but waited for a host core, None where libvirt does not tell. `limit_cores` is the CPU the VM
    may use (vCPUs × quota share), so that utilisation 1.0 means "cannot use more".
    """

    vm: str
    at: float
    cpu_s: float
    vcpu_s: float
    vcpus: int
    limit_cores: float
    vcpu_delay_s: float | None = None
    memory_bytes: int | None = None
    """Of the host, as far as the guest has touched it; None where libvirt does not tell."""
    most_memory_bytes: int = 0
    """What the guest was given; 0 where libvirt does not tell."""
    run: str = ""
    """Which run of it: changes where it was started again, or moved to another host."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What two samples of one VM say of the time between them. Ratios are 0 … about 1."""

    vm: str
    at: float
    utilisation: float
    """CPU used ÷ CPU that its shape allows, host view: Δcpu / (Δt × cores). Above 1 where the limit
    was lifted for a while."""
    cpu_cores: float
    vcpu_cores: float
    delay_ratio: float | None = None
    """Time its vCPUs were ready to run and got no core ÷ (Δt × vCPUs), less what the VM's own CPU
    limit explains: run-queue delay, the host's doing."""
    interval_s: float = 0.0
    """Time between the two samples: this is the mean over (at − interval_s, at]."""
    vcpus: int = 1


@dataclass(frozen=True, slots=True)
class BackendLoad:
    """One backend as the pool saw it when asked."""

    name: str
    lifecycle: str
    healthy: bool
    in_flight: int
    vm: str | None = None
    ejected: bool = False
    """Requests go elsewhere for a while, because of what those before them told of it."""

    @property
    def passes(self) -> bool:
        """Whether it is up: it was ready, and its checks pass. It may be ejected all the same."""
        return self.lifecycle == "ready" and self.healthy

    @property
    def available(self) -> bool:
        """Whether it may get a request."""
        return self.passes and not self.ejected


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """A service's backends at one instant: what policy and fleet may read of the pool."""

    service: str
    backends: tuple[BackendLoad, ...] = ()

    def of(self, name: str) -> BackendLoad | None:
        return next((b for b in self.backends if b.name == name), None)


@dataclass(frozen=True, slots=True)
class Answers:
    """What requests told of one backend since it joined: all cumulative, so that what happened
    between two instants is a difference."""

    asked: int = 0
    """Requests that were answered, and those that failed there without an answer."""
    bad: int = 0
    """Of them, how many speak against it."""
    durations: tuple[int, ...] = ()
    """Answers by how long they took: up to each of `bounds_s`, and longer than all of them."""
    bounds_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Demand:
    """What clients ask of a service, at one instant. `_total` figures are cumulative, so that a
    rate is a difference of two of them and no reading is lost between."""

    at: float
    arrived_total: int = 0
    """Requests that came, those refused included."""
    queued: int = 0
    """Requests that wait for a backend now."""
    waiting_s: float = 0.0
    """For how long somebody has been waiting without a break."""
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    """As clients saw it, waiting included, over the last ten seconds; None without a request."""
    in_flight: Mapping[str, int] = field(default_factory=dict)
    """Running requests by backend."""
    served_total: Mapping[str, int] = field(default_factory=dict)
    """Answers by backend."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which replicas can come into service now."""

    path: Path
    seconds: float
    """From the call to serving: the 95th percentile of what was measured, or what is expected."""
    available: int | None = None
    """So many can come this way; None: as many as are wanted."""


COLD_START_S = 10.0
"""What a cold boot is expected to take until one was measured."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many replicas of a service exist, by state. `existing` counts every domain of ours,
    whatever its state: it is the figure that must never exceed the maximum."""

    service: str
    ready: int = 0
    booting: int = 0
    standby: int = 0
    draining: int = 0
    existing: int = 0
    unavailable: int = 0
    """Of those ready, how many get no request: their checks fail, they are ejected, or an operator
    drained them."""
    launch_failures: int = 0
    """Launches that failed in a row."""
    ways: tuple[Way, ...] = (Way(Path.COLD, COLD_START_S),)
    """How more could come, the cheapest first."""
    surge: int = 0
    """Of those booting and ready, how many are there only until others, out of date, have left."""

    @property
    def active(self) -> int:
        """Replicas that serve or are about to."""
        return self.ready + self.booting

    def without_surge(self) -> Fleet:
        """As the load is to be judged by: who is there in somebody's place is not one more."""
        booting = min(self.surge, self.booting)
        ready = min(self.surge - booting, self.ready)
        return replace(self, booting=self.booting - booting, ready=self.ready - ready, surge=0)


class EventKind(StrEnum):
    """What a scale event tells the pool."""

    JOIN = "join"
    """A replica has an address: probe it, and serve from it once it is ready."""
    DRAIN = "drain"
    """No new request to it; those running finish."""
    LEAVE = "leave"
    """It is gone, or about to be: forget it."""


@dataclass(frozen=True, slots=True)
class ScaleEvent:
    """One change of a service's membership, from the fleet to the pool, in-process."""

    kind: EventKind
    service: str
    backend: str
    reason: Reason
    address: str = ""
    """`host:port`; needed for JOIN."""
    host: str = ""
    """Name of the hypervisor the VM runs on."""
    weight: int = 1
    ready: bool = False
    """With JOIN: it passed its checks before (a standby, a restored copy), and serves at once."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of the journal: something happened to something, for a reason."""

    kind: str
    """A word from the journal's vocabulary, such as `vm.ready` or `decision`."""
    service: str
    subject: str
    reason: Reason
    message: str
    data: dict[str, float | int | str | bool | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VmStatus:
    """One VM as operators, metrics and the demo see it."""

    name: str
    service: str
    host: str
    state: VmState
    power: str
    """libvirt's word for it, empty before the first listing."""
    address: str | None
    age_s: float
    generation: str
    limit_cores: float | None
    sample: Sample | None
    signal: Signal | None
    role: str = "replica"
    """What it is there for: replica, standby or template."""
    path: Path = Path.COLD
    """How it came into service, or is about to."""
    protected: bool = False
    """Whether it is spared by scale-ins, rollouts and lifetimes."""
