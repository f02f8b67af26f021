"""The configuration of machines: hypervisors, the shape of a replica, when to grow and shrink."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lb.config_types import Name, Seconds, Table


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

    @model_validator(mode="after")
    def _limit_within_vcpus(self) -> VmConfig:
        if self.cpu_limit > self.vcpus:
            raise ValueError(
                f"cpu_limit = {self.cpu_limit:g} is more than vcpus = {self.vcpus} can use"
            )
        return self


class ScaleConfig(Table):
    """When to grow and shrink. Ratios are of the CPU a replica may use."""

    min: Annotated[int, Field(ge=1, le=1000)] = 1
    max: Annotated[int, Field(ge=1, le=1000)] = 4
    target_cpu: Annotated[float, Field(gt=0, le=1)] = 0.6
    grow_window: Seconds = 5.0
    """Every replica must stay above the target for this long before one more starts."""
    shrink_window: Seconds = 60.0
    """One fewer must have been enough for this long before one leaves."""
    shrink_margin: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """One fewer is enough where the rest would stay below margin × target."""
    sample_interval: Annotated[Seconds, Field(ge=0.1, le=60)] = 1.0

    @model_validator(mode="after")
    def _min_max(self) -> ScaleConfig:
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is more than max = {self.max}")
        if self.grow_window < 2 * self.sample_interval:
            raise ValueError(
                f"grow_window = {self.grow_window:g} s holds fewer than two samples"
                f" (sample_interval = {self.sample_interval:g} s)"
            )
        if self.shrink_window < 2 * self.sample_interval:
            raise ValueError(
                f"shrink_window = {self.shrink_window:g} s holds fewer than two samples"
                f" (sample_interval = {self.sample_interval:g} s)"
            )
        return self
