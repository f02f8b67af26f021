"""The typed configuration: every default and every bound stands here and in the tables beside it
(`config_proxy`, `config_service`, `config_fleet`), nowhere else.

Reads TOML into frozen pydantic models. Knows nothing of how the values are used.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError, model_validator

from lb.config_fleet import HypervisorConfig as HypervisorConfig
from lb.config_fleet import ScaleConfig as ScaleConfig
from lb.config_fleet import VmConfig as VmConfig
from lb.config_proxy import AccessLogConfig as AccessLogConfig
from lb.config_proxy import LimitsConfig as LimitsConfig
from lb.config_proxy import ListenConfig as ListenConfig
from lb.config_proxy import ProxyConfig as ProxyConfig
from lb.config_proxy import TimeoutsConfig as TimeoutsConfig
from lb.config_proxy import TlsConfig as TlsConfig
from lb.config_service import HealthConfig as HealthConfig
from lb.config_service import QueueConfig as QueueConfig
from lb.config_service import RouteConfig as RouteConfig
from lb.config_service import ServiceConfig as ServiceConfig
from lb.config_types import HostName, ListenAddress, Name, Table
from lb.config_types import parse_duration as parse_duration


class ConfigError(Exception):
    """The configuration cannot be used; the message names the key and what is allowed."""


class AdminConfig(Table):
    """The operator's side: API, metrics, health."""

    listen: ListenAddress = "127.0.0.1:9900"
    hosts: tuple[HostName, ...] = ()
    """Further names a request's Host may carry; the listen address is always allowed."""


class Config(Table):
    """Everything. With no file: one local hypervisor, one service `web` of VMs."""

    proxy: ProxyConfig = ProxyConfig()
    admin: AdminConfig = AdminConfig()
    hypervisor: tuple[HypervisorConfig, ...] = (HypervisorConfig(),)
    service: dict[Name, ServiceConfig] = {"web": ServiceConfig(vm=VmConfig())}
    route: tuple[RouteConfig, ...] = ()
    """Which requests go to which service. With one service, none is needed."""

    @model_validator(mode="after")
    def _whole(self) -> Config:
        names = [h.name for h in self.hypervisor]
        if len(set(names)) != len(names):
            raise ValueError("two [[hypervisor]] entries share a name")
        if not self.service:
            raise ValueError("there is no service: add a [service.NAME], or leave that key out")
        self._check_routes()
        if not self.hypervisor and any(part.vm is not None for part in self.service.values()):
            raise ValueError(
                "a service of VMs needs a host: add a [[hypervisor]], or leave that key out"
            )
        return self

    def _check_routes(self) -> None:
        places: set[tuple[str, str]] = set()
        for route in self.route:
            if route.service is not None and route.service not in self.service:
                known = ", ".join(self.service)
                raise ValueError(f"a route leads to service {route.service}: there is {known}")
            place = (route.host, route.path.rstrip("/"))
            if place in places:
                raise ValueError(f"two routes for host {route.host} and path {route.path}")
            places.add(place)
        led_to = {route.service for route in self.route}
        unreached = [name for name in self.service if name not in led_to]
        if unreached and (self.route or len(self.service) > 1):
            raise ValueError(f"no [[route]] leads to service {', '.join(unreached)}")


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
