"""From the text of a configuration file to a configuration whose paths are absolute.

A path in the file is meant from the file's own folder, wherever the process was started. Opens
nothing that the file names.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from lb.config import Config, ConfigError, ProxyConfig, ServiceConfig, parse_config


def read_text(text: str, folder: Path) -> Config:
    """What `text`, the content of a file in `folder`, says. Raises ConfigError."""
    try:
        return below(parse_config(tomllib.loads(text)), folder)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}") from error


def below(config: Config, folder: Path) -> Config:
    """The same with every relative path taken from `folder`."""
    return config.model_copy(
        update={
            "proxy": _proxy(config.proxy, folder),
            "service": {name: _service(part, folder) for name, part in config.service.items()},
        }
    )


def _proxy(proxy: ProxyConfig, folder: Path) -> ProxyConfig:
    certificates = tuple(
        pair.model_copy(update=_absolute(folder, cert=pair.cert, key=pair.key))
        for pair in proxy.tls.certificates
    )
    ca = _absolute(folder, client_ca=proxy.tls.client_ca)
    log = proxy.access_log
    if log.path != "-":  # standard output
        log = log.model_copy(update=_absolute(folder, path=log.path))
    return proxy.model_copy(
        update={
            "tls": proxy.tls.model_copy(update={"certificates": certificates, **ca}),
            "access_log": log,
        }
    )


def _service(service: ServiceConfig, folder: Path) -> ServiceConfig:
    tls = service.tls
    files = _absolute(folder, ca=tls.ca, cert=tls.cert, key=tls.key)
    return service.model_copy(
        update={
            "tls": tls.model_copy(update=files),
            "error_pages": _absolute(folder, **service.error_pages),
        }
    )


def _absolute(folder: Path, **paths: str) -> dict[str, str]:
    """An empty one stays empty: there is none."""
    return {key: str(folder / path) if path else "" for key, path in paths.items()}
