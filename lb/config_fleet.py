"""The configuration of machines: hypervisors, the shape of a replica, when to grow and shrink."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from math import isfinite
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import Field, model_validator

from lb.config_types import Name, Seconds, Table, parse_duration


class HypervisorConfig(Table):
    """One libvirt connection."""

    name: Name = "local"
    uri: str = "qemu:///embed"
    domain_type: Literal["auto", "kvm", "qemu"] = "auto"
    """auto: kvm where libvirt offers it and the CPU shows vmx or svm, else qemu (emulation)."""
    network: str = "auto"
    """user: a forwarded loopback port; network:NAME: a libvirt network; bridge:NAME: a bridge.
    auto: user for the embedded and the session driver, else network:default."""
    call_timeout: Annotated[Seconds, Field(ge=1, le=300)] = 20.0

    @model_validator(mode="after")
    def _network_form(self) -> HypervisorConfig:
        if not re.fullmatch(r"auto|user|(network|bridge):[\w.-]+", self.network):
            raise ValueError("network is auto, user, network:NAME or bridge:NAME")
        return self


class VmConfig(Table):
    """The shape of one replica."""

    image: Name = "webapp"
    vcpus: Annotated[int, Field(ge=1, le=256)] = 1
    memory_mib: Annotated[int, Field(ge=128, le=1048576)] = 384
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """Where the application listens inside the VM."""
    cpu_limit: Annotated[float, Field(gt=0, le=256)] = 1.0
    """Host cores one replica may use once it serves; it boots without the limit."""
    boot_timeout: Annotated[Seconds, Field(ge=1)] = 120.0
    drain_timeout: Seconds = 60.0
    shutdown_timeout: Seconds = 8.0
    """How long a retired guest may take to power off before it is destroyed."""
    max_lifetime: Annotated[Seconds, Field(ge=60)] | None = None
    """About so long after its start a VM is replaced by a fresh one; None: never."""
    snapshot: Literal["auto", "off"] = "auto"
    """auto: replicas are started as copies of a saved one where host and network can."""

    @model_validator(mode="after")
    def _limit_within_vcpus(self) -> VmConfig:
        if self.cpu_limit > self.vcpus:
            raise ValueError(
                f"cpu_limit = {self.cpu_limit:g} is more than vcpus = {self.vcpus} can use"
            )
        return self


class GrowLimitConfig(Table):
    """How many replicas may come within a time."""

    # not 0: a share alone would round down to nobody where there are few
    replicas: Annotated[int, Field(ge=1, le=1000)] = 10
    percent: Annotated[float, Field(ge=0, le=10000)] = 100.0
    """Of the replicas there are; the larger of the two counts."""
    period: Annotated[Seconds, Field(ge=1)] = 15.0

    def at_most(self, count: int) -> int:
        """The most that it allows within a period, where there are `count`."""
        return max(self.replicas, int(self.percent * count / 100))


class ShrinkLimitConfig(GrowLimitConfig):
    """How many may go. Fewer than may come: one too many costs money, one too few costs users."""

    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    percent: Annotated[float, Field(ge=0, le=10000)] = 50.0


class StepConfig(Table):
    """So many replicas more or fewer beyond a CPU utilisation."""

    cpu_above: Annotated[float, Field(gt=0, le=10)] | None = None
    cpu_below: Annotated[float, Field(gt=0, le=10)] | None = None
    add: Annotated[int, Field(ge=1, le=1000)] | None = None
    remove: Annotated[int, Field(ge=1, le=1000)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> StepConfig:
        given = {key for key in type(self).model_fields if getattr(self, key) is not None}
        if given not in ({"cpu_above", "add"}, {"cpu_below", "remove"}):
            raise ValueError("a step is cpu_above with add, or cpu_below with remove")
        return self


class ScheduleConfig(Table):
    """At least so many replicas between two times that come again and again."""

    start: str
    """A cron expression of five fields."""
    end: str
    timezone: str = "UTC"
    """A name of the IANA database, such as Europe/Berlin."""
    replicas: Annotated[int, Field(ge=1, le=1000)]

    @model_validator(mode="after")
    def _readable(self) -> ScheduleConfig:
        try:
            zone = ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder, such as Europe
            raise ValueError(
                f"timezone = {self.timezone!r} is not a time zone: write Europe/Berlin or UTC"
            ) from None
        for key, text in (("start", self.start), ("end", self.end)):
            if not _comes(text, zone):
                raise ValueError(
                    f"{key} = {text!r} is no cron expression that ever comes:"
                    " write minute hour day month weekday, such as '0 8 * * mon-fri'"
                )
        if self.start.split() == self.end.split():
            raise ValueError(f"start and end are the same time, {self.start!r}")
        return self


def _comes(cron: str, zone: ZoneInfo) -> bool:
    """Whether it names a time at all. With a sixth field the library would read seconds."""
    if len(cron.split()) != 5:
        return False
    try:
        next(CronSim(cron, datetime(2026, 1, 1, tzinfo=zone)))
    except (CronSimError, StopIteration):
        return False
    return True


class ScaleConfig(Table):
    """When to grow and shrink. Ratios are of the CPU a replica may use."""

    min: Annotated[int, Field(ge=0, le=1000)] = 1
    """0: none at all after `idle_after` without a request; the next request starts one."""
    max: Annotated[int, Field(ge=1, le=1000)] = 4
    standby: Annotated[int, Field(ge=0, le=100)] = 0
    """So many more are kept booted and suspended, to serve within milliseconds."""
    mode: Literal["auto", "observe", "hold"] = "auto"
    target_cpu: Annotated[float, Field(gt=0, le=1)] = 0.6
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """So far above its target, as a share of it, a signal asks for nothing yet."""
    standby_window: Seconds = 0.5
    """An overload must last this long before a standby is woken for it."""
    snapshot_window: Seconds = 0.5
    """The same before a snapshot is restored."""
    grow_window: Seconds = 3.0
    """The same before a machine is booted."""
    grow_limit: GrowLimitConfig = GrowLimitConfig()
    shrink_window: Seconds = 60.0
    """Fewer must have been enough for this long before one leaves."""
    shrink_window_max: Seconds = 300.0
    """The longest that it grows to by itself, where the load comes in waves."""
    shrink_margin: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Fewer are enough where the rest would stay below margin × target."""
    shrink_limit: ShrinkLimitConfig = ShrinkLimitConfig()
    min_change: Annotated[int, Field(ge=1, le=1000)] = 1
    """Change by at least so many at once, or not at all; the bounds are followed all the same."""
    target_concurrency: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Running requests per replica. Unset: 0.7 × max_in_flight of the service."""
    stable_window: Annotated[Seconds, Field(ge=6, le=3600)] = 60.0
    panic_window: Annotated[Seconds, Field(ge=1, le=600)] = 6.0
    panic_at: Annotated[float, Field(gt=1, le=10)] = 2.0
    """At so many times what the replicas are for, only `panic_window` counts and none leaves."""
    queue_drain: Annotated[Seconds, Field(ge=0.1, le=3600)] = 5.0
    """A queue that drains in this time asks for nothing."""
    latency_p99: Annotated[Seconds, Field(gt=0, le=3600)] | None = None
    idle_after: Annotated[Seconds, Field(ge=1)] = 600.0
    burst: Annotated[float, Field(gt=0, le=256)] | None = None
    """How many times its cpu_limit a replica may use while another is on its way."""
    host_contention: Literal["hold", "ignore"] = "hold"
    step: tuple[StepConfig, ...] = ()
    schedule: tuple[ScheduleConfig, ...] = ()
    forecast: Literal["off", "observe", "act"] = "observe"
    season: Annotated[Seconds, Field(ge=600, le=86400 * 7)] = 86400.0
    """After this time the load is expected to repeat itself."""
    sample_interval: Annotated[Seconds, Field(ge=0.1, le=60)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _cheaper_no_later(cls, value: Any) -> Any:
        """Who shortens `grow_window` alone means the cheaper ways too: the windows that were left
        out are at most as long as those given after them."""
        if not isinstance(value, dict):
            return value
        shortest = _seconds(value.get("grow_window"), cls.model_fields["grow_window"].default)
        filled = {}
        for key in ("snapshot_window", "standby_window"):
            shortest = min(shortest, _seconds(value.get(key), cls.model_fields[key].default))
            filled[key] = shortest
        return {**filled, **value}

    @model_validator(mode="after")
    def _agrees(self) -> ScaleConfig:
        for complaint in self._contradictions():
            raise ValueError(complaint)
        return self

    def _contradictions(self) -> Iterator[str]:
        if self.min > self.max:
            yield f"min = {self.min} is more than max = {self.max}"
        if self.burst is not None and self.target_cpu >= self.burst:
            yield f"target_cpu = {self.target_cpu:g} is not below burst = {self.burst:g}"
        elif self.burst is not None and self.burst <= 1:
            yield f"burst = {self.burst:g} is no relief: write how many times cpu_limit, above 1"
        if not self.standby_window <= self.snapshot_window <= self.grow_window:
            yield (
                f"standby_window = {self.standby_window:g} s, snapshot_window ="
                f" {self.snapshot_window:g} s and grow_window = {self.grow_window:g} s: what costs"
                " more must be surer, so none may be shorter than the one before"
            )
        for name, window in (
            ("grow_window", self.grow_window),
            ("shrink_window", self.shrink_window),
            ("stable_window", self.stable_window),
            ("panic_window", self.panic_window),
        ):
            if window < 2 * self.sample_interval:
                yield (
                    f"{name} = {window:g} s holds fewer than two samples"
                    f" (sample_interval = {self.sample_interval:g} s)"
                )
        if "shrink_window_max" in self.model_fields_set and (
            self.shrink_window_max < self.shrink_window
        ):
            yield (
                f"shrink_window_max = {self.shrink_window_max:g} s is shorter than shrink_window ="
                f" {self.shrink_window:g} s"
            )
        if self.panic_window >= self.stable_window:
            yield (
                f"panic_window = {self.panic_window:g} s is not shorter than stable_window ="
                f" {self.stable_window:g} s"
            )
        if self.target_cpu * (1 + self.tolerance) >= 1 and not self.step:
            yield (
                f"target_cpu = {self.target_cpu:g} with tolerance = {self.tolerance:g} is"
                f" {self.target_cpu * (1 + self.tolerance):.2f}: a replica that uses all of its CPU"
                " would not be above it"
            )
        if self.min_change > self.max - self.min and self.min_change > 1:
            yield (
                f"min_change = {self.min_change} is more than lies between min = {self.min} and"
                f" max = {self.max}"
            )
        for name, limit in (("grow_limit", self.grow_limit), ("shrink_limit", self.shrink_limit)):
            if self.min_change > (most := limit.at_most(self.max)):
                yield (
                    f"min_change = {self.min_change} is more than {name} ever allows, {most} with"
                    f" max = {self.max} replicas"
                )
        for entry in self.schedule:
            if entry.replicas > self.max:
                yield f"schedule: replicas = {entry.replicas} is more than max = {self.max}"
        yield from self._steps_that_cross()

    def _steps_that_cross(self) -> Iterator[str]:
        above = sorted((s.cpu_above, s.add) for s in self.step if s.cpu_above and s.add)
        below = sorted((s.cpu_below, s.remove) for s in self.step if s.cpu_below and s.remove)
        if above and self.burst is None and above[0][0] >= 1:
            yield (
                f"step: cpu_above = {above[0][0]:g} is never passed: without burst a replica uses"
                " no more than 1.0 of its CPU"
            )
        if above and below and below[-1][0] >= above[0][0]:
            yield (
                f"step: cpu_below = {below[-1][0]:g} is not below cpu_above = {above[0][0]:g}: the"
                " fleet would swing"
            )
        for (bound, change), (higher, more) in pairwise(above):
            if bound == higher:
                yield f"step: cpu_above = {bound:g} is there twice"
            if more < change:
                yield (
                    f"step: add = {more} above {higher:g} is less than add = {change} above"
                    f" {bound:g}: more load must not ask for fewer"
                )
        for (lower, more), (bound, change) in pairwise(below):
            if bound == lower:
                yield f"step: cpu_below = {bound:g} is there twice"
            if more < change:
                yield (
                    f"step: remove = {more} below {lower:g} is less than remove = {change} below"
                    f" {bound:g}: less load must not ask for more"
                )


def _seconds(value: Any, default: float) -> float:
    """What is no duration is refused elsewhere, by its key."""
    try:
        found = parse_duration(value)
    except ValueError:
        return default
    if isinstance(found, bool) or not isinstance(found, int | float) or not isfinite(found):
        return default
    return float(found)


def disagreements(
    vm: VmConfig, scale: ScaleConfig, max_in_flight: int, queue_length: int
) -> Iterator[str]:
    """Where a service's tables contradict each other, each usable by itself."""
    if scale.min == 0 and queue_length == 0:
        yield (
            "scale.min = 0 needs a queue, where a request waits while a replica wakes:"
            " queue.length is 0"
        )
    if scale.target_concurrency is not None and scale.target_concurrency > max_in_flight:
        yield (
            f"scale.target_concurrency = {scale.target_concurrency:g} is more than a replica ever"
            f" gets, max_in_flight = {max_in_flight}"
        )
    if scale.burst is not None and vm.cpu_limit * scale.burst > vm.vcpus:
        yield (
            f"scale.burst = {scale.burst:g} times vm.cpu_limit = {vm.cpu_limit:g} is more than"
            f" vcpus = {vm.vcpus} can use"
        )
