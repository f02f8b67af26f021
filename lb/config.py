"""The typed configuration: every default and every bound stands here, nowhere else.

Reads TOML into frozen pydantic models. Knows nothing of how the values are used.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from lb.address import check_address, split_host


class ConfigError(Exception):
    """The configuration cannot be used; the message names the key and what is allowed."""


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(value: object) -> object:
    """'1m30s', '250ms' or a number of seconds → seconds. Anything else passes on to be refused."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{value!r} is not a duration: write 500ms, 10s, 2m or 1h30m")
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def _check_host(value: str) -> str:
    split_host(value)
    return value


Seconds = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, le=86400 * 366)]
ListenAddress = Annotated[str, AfterValidator(lambda text: check_address(text, lowest_port=0))]
BackendAddress = Annotated[str, AfterValidator(check_address)]
HostName = Annotated[str, AfterValidator(_check_host)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$")]
PolicyName = Literal["least_requests", "round_robin"]


class _Table(BaseModel):
    # strict: `min = "2"` and `min = true` are mistakes, not numbers
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _arrays(cls, value: Any) -> Any:
        """TOML's arrays, which strict checking would not take for tuples."""
        if not isinstance(value, dict):
            return value
        return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}


class TimeoutsConfig(_Table):
    """How long the proxy waits, in seconds, before it answers for the backend."""

    connect: Seconds = 2.0
    first_byte: Seconds = 60.0
    """From the request sent to the response's head."""
    between_bytes: Seconds = 30.0
    """Between two pieces of the response's body."""
    idle: Seconds = 75.0
    """How long a client's connection may wait for its next request."""


class ProxyConfig(_Table):
    """The public side."""

    listen: Annotated[tuple[ListenAddress, ...], Field(min_length=1)] = ("127.0.0.1:8080",)
    timeouts: TimeoutsConfig = TimeoutsConfig()
    upstream_connections: Annotated[int, Field(ge=1, le=65536)] = 4096
    """Most connections to all backends together."""
    shutdown_grace: Seconds = 30.0
    """How long SIGTERM waits for running requests."""

    @model_validator(mode="before")
    @classmethod
    def _one_listen(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("listen"), str):
            return {**value, "listen": (value["listen"],)}
        return value


class AdminConfig(_Table):
    """The operator's side: API, metrics, health."""

    listen: ListenAddress = "127.0.0.1:9900"
    hosts: tuple[HostName, ...] = ()
    """Further names a request's Host may carry; the listen address is always allowed."""


class HypervisorConfig(_Table):
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


class VmConfig(_Table):
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


class ScaleConfig(_Table):
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


class HealthConfig(_Table):
    """How the prober asks, and how the pool judges its reports."""

    path: Annotated[str, Field(pattern=r"^/[!-~]*$")] = "/readyz"
    interval: Annotated[Seconds, Field(ge=0.05)] = 1.0
    interval_down: Annotated[Seconds, Field(ge=0.05)] = 0.25
    """While starting or unhealthy: sooner asked, sooner back."""
    timeout: Annotated[Seconds, Field(ge=0.05)] = 2.0
    rise: Annotated[int, Field(ge=1, le=100)] = 1
    fall: Annotated[int, Field(ge=1, le=100)] = 3


class QueueConfig(_Table):
    """Where requests wait while every backend is at its limit."""

    length: Annotated[int, Field(ge=0, le=1_000_000)] = 1024
    max_wait: Seconds = 30.0


class ServiceConfig(_Table):
    """One application: its static members, its VMs, how it is balanced and scaled."""

    backends: tuple[BackendAddress, ...] = ()
    policy: PolicyName = "least_requests"
    max_in_flight: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Requests running on one backend at a time. What is more waits here, where a replica that
    joins can take it, and where it cannot choke the guest's health checks."""
    queue: QueueConfig = QueueConfig()
    health: HealthConfig = HealthConfig()
    vm: VmConfig | None = None
    scale: ScaleConfig = ScaleConfig()

    @model_validator(mode="after")
    def _scale_needs_machines(self) -> ServiceConfig:
        if self.vm is None and self.scale != ScaleConfig():
            raise ValueError("scale needs VMs: add a [service.NAME.vm] table, it may be empty")
        return self


class Config(_Table):
    """Everything. With no file: one local hypervisor, one service `web` of VMs."""

    proxy: ProxyConfig = ProxyConfig()
    admin: AdminConfig = AdminConfig()
    hypervisor: tuple[HypervisorConfig, ...] = (HypervisorConfig(),)
    service: dict[Name, ServiceConfig] = {"web": ServiceConfig(vm=VmConfig())}

    @model_validator(mode="after")
    def _whole(self) -> Config:
        names = [h.name for h in self.hypervisor]
        if len(set(names)) != len(names):
            raise ValueError("two [[hypervisor]] entries share a name")
        if len(self.service) != 1:
            raise ValueError("exactly one [service.NAME] is served for now")
        if not self.hypervisor and any(part.vm is not None for part in self.service.values()):
            raise ValueError(
                "a service of VMs needs a host: add a [[hypervisor]], or leave that key out"
            )
        return self


def check_name(text: str) -> str:
    """The text itself, where it may name a service, a host or an image. Raises ConfigError."""
    try:
        return TypeAdapter[str](Name).validate_python(text)
    except ValidationError:
        raise ConfigError(
            f"{text!r} is not a name: lower-case letters, digits and inner hyphens, at most 32"
        ) from None


def load_config(path: Path | None) -> Config:
    """Read and check a TOML file; None gives the defaults. Raises ConfigError, one line a fault."""
    if path is None:
        return Config()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigError(f"cannot read {path}: {why}: say with -c where it is") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: it is not UTF-8: save it as that") from error
    try:
        return parse_config(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(data: dict[str, Any]) -> Config:
    """Check a mapping as read from TOML. Raises ConfigError naming each key and what is allowed."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(_describe(fault) for fault in error.errors())) from error


def _describe(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"]) or "the file"
    if fault["type"] == "extra_forbidden":
        return f"{where}: no such key"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]}"
