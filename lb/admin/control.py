"""What the admin API needs from whoever composes the process: one narrow Protocol and its rows.

Values only, no I/O and no HTTP: the API renders these rows and calls these verbs, `lb.service`
implements them, tests pass a fake. A row's field names are the JSON's keys: they are public.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lb.backend import BackendView
from lb.config_changes import Changes
from lb.decisions import Decisions
from lb.errors import LbError
from lb.journal import Journal
from lb.series import Series


class UnknownNameError(LbError):
    """No service, backend or VM has that name; the message is a sentence for the operator."""


class RefusedError(LbError):
    """The name exists, but this cannot be done to it now; the message says why and what helps."""


@dataclass(frozen=True, slots=True)
class VmRow:
    """One virtual machine of ours, standbys included."""

    name: str
    service: str
    state: str
    """As the fleet sees it: defined, booting, ready, standby, draining, gone or failed; or stray,
    where no service of the configuration owns it."""
    libvirt_state: str
    """As libvirt sees it: running, paused, shutoff, …"""
    host: str
    address: str | None = None
    age_s: float | None = None
    cpu_host_ratio: float | None = None
    """CPU of the whole QEMU process ÷ CPU allowed."""
    cpu_vcpu_ratio: float | None = None
    """CPU of its virtual CPUs ÷ CPU allowed; the rest is QEMU's own overhead."""
    memory_bytes: int | None = None
    image: str | None = None
    """The beginning of its checksum."""
    image_name: str | None = None
    """None where it was started by an earlier `lbctl up`, from an image that is another one now."""
    role: str | None = None
    """What it is there for: replica, standby or template."""
    path: str | None = None
    """How it came into service, or is about to: cold, snapshot or standby. None for a stray."""
    protected: bool = False
    """Whether an operator spared it from scale-ins, rollouts and lifetimes."""


@dataclass(frozen=True, slots=True)
class HostRow:
    """One configured hypervisor."""

    name: str
    uri: str
    reachable: bool
    domain_type: str | None = None
    """kvm, or qemu for software emulation."""
    cores: int | None = None
    libvirt_version: str | None = None
    replicas: int = 0
    standbys: int = 0
    """Its other VMs: standbys, and those that become a template."""
    error: str | None = None
    silent_since: float | None = None
    """Since when its calls are not answered, Unix seconds; None: the last one was."""
    hung_calls: int = 0
    """Calls that did not return in time, nor since: a thread each."""
    held_by: str | None = None
    """Who acts on these machines there in this process's place."""
    pauses: tuple[Mapping[str, Any], ...] = ()
    """Launches there that wait because those before them were refused, by service."""


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """A service's size, what it should be, and why."""

    service: str
    desired: int
    ready: int
    booting: int
    standby: int
    draining: int
    min: int
    max: int
    reason: str | None = None
    """The last decision's reason, one word of `autoscale.model.Reason`."""
    sentence: str | None = None
    """The last decision in one sentence with numbers; None before the first."""
    decided_at: float | None = None
    """Unix seconds."""
    mode: str | None = None
    """What is done about what the planner finds: auto, observe, hold, or fixed; by an operator's
    order where there is one, else by the configuration. None without VMs."""
    to: int | None = None
    """How many, where an operator fixed it."""
    until: float | None = None
    """Until when his order holds, Unix seconds; None: until he takes it back, or there is none."""
    ordered: bool = False
    """Whether an operator's order is in force."""
    wanted: int | None = None
    """What the parts together asked for, whatever was done about it."""
    parts: tuple[Mapping[str, Any], ...] = ()
    """What each part of the planner asked for, and by which numbers."""
    guards: tuple[Mapping[str, Any], ...] = ()
    """What held the last decision, or made it."""
    pauses: tuple[Mapping[str, Any], ...] = ()
    """Launches that wait because those before them failed: the service's, or on one `host`."""
    image: str | None = None
    """What replicas are started from."""
    image_held: str | None = None
    """That a rollout holds this image against the configuration, and what to do; None: it does
    not."""


@dataclass(frozen=True, slots=True)
class ScaleOrder:
    """What an operator tells the planner of a service."""

    mode: str
    """fixed, hold or observe; auto takes back what was ordered before."""
    to: int | None = None
    """How many, with fixed."""
    for_s: float | None = None
    """For how long; None: until it is taken back."""


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """How far the last rollout of a service is."""

    service: str
    phase: str
    """running, paused, rolling_back; done, undone or failed at its end."""
    image_from: str
    image_to: str
    new: int
    """Replicas of the new image in service."""
    old: int
    """The others in service."""
    protected: tuple[str, ...]
    """Those it has to spare."""
    max_surge: int
    pause_at: float | None
    """It pauses by itself once this share is new; 0 to 1."""
    judged: bool
    """Whether the first new ones were found to be as good as the old ones."""
    started_at: float
    """Unix seconds."""
    sentence: str
    booting: int = 0
    """Replicas that are not in service yet, of whichever image."""
    left_s: float | None = None
    """Until it is judged, given up or paused, if nothing else happens; the sentence says which."""


@dataclass(frozen=True, slots=True)
class RolloutOrder:
    """What an operator wants of a rollout."""

    what: str
    """start, pause, resume or undo; what follows goes with start."""
    image: str | None = None
    """None: what the configured one is by now."""
    max_surge: int = 1
    pause_at: float | None = None


class Control(Protocol):
    """The running process as the operator sees it.

    The synchronous calls answer from memory and never wait; `vms` and `hosts` may ask libvirt.
    A verb raises UnknownNameError (or the pool's UnknownBackendError) for a name that does not
    exist, and RefusedError where it makes no sense now.
    """

    @property
    def journal(self) -> Journal: ...

    @property
    def series(self) -> Series: ...

    def pool(self) -> dict[str, list[BackendView]]:
        """Every service's backends; a service without any is there with an empty list."""
        ...

    def add_backend(self, service: str, address: str) -> str:
        """A static member `host:port`, already checked for its form. Returns its name."""
        ...

    def drain(self, service: str, name: str) -> None: ...

    def ready(self, service: str, name: str) -> None:
        """Take a drain back."""
        ...

    def remove(self, service: str, name: str) -> None: ...

    async def vms(self) -> list[VmRow]: ...

    async def spawn_vm(self, service: str) -> ScaleRow:
        """Order one replica more than are wanted now; it holds as any order does. Raises
        RefusedError at the maximum, and for a service without VMs."""
        ...

    async def retire_vm(self, name: str) -> None:
        """Let this one drain and end; where as many are still wanted, another takes its place.
        Raises RefusedError for one that leaves already, and where fewer than the minimum would
        be left."""
        ...

    async def protect_vm(self, name: str, *, protected: bool) -> None:
        """Spare this one from scale-ins, rollouts and lifetimes, or no longer; over a restart
        too. Raises RefusedError for one that is leaving."""
        ...

    def rollouts(self) -> list[RolloutRow]:
        """The last one of each service that ever had one."""
        ...

    def rollout(self, service: str) -> RolloutRow:
        """Raises UnknownNameError where there was none."""
        ...

    async def order_rollout(self, service: str, order: RolloutOrder) -> RolloutRow:
        """Begin, pause, go on, or go back; remembered over a restart. Raises RefusedError where
        that cannot be now."""
        ...

    async def hosts(self) -> list[HostRow]: ...

    def scale(self, service: str) -> ScaleRow: ...

    async def set_scale(self, service: str, order: ScaleOrder) -> ScaleRow:
        """Let the order hold from now on, over a restart too. Raises RefusedError for a number out
        of bounds, and for a service without VMs."""
        ...

    @property
    def decisions(self) -> Decisions: ...

    async def apply_config(
        self, text: str | None, folder: Path | None, *, dry_run: bool
    ) -> Changes:
        """Put the configuration `text` in force, or the file that the process was started with;
        with `dry_run` only look whether it could be. Relative paths in it are below `folder`, else
        below the folder of that file. Raises ConfigError for a configuration that cannot be used,
        an LbError where it cannot be put in force now; and then nothing has changed."""
        ...

    def metrics(self) -> tuple[bytes, str]:
        """The exposition and its content type."""
        ...

    def is_ready(self) -> tuple[bool, str]:
        """May traffic be sent to this process; and why not, or why."""
        ...
