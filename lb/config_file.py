"""From the text of a configuration file to a configuration whose paths are absolute, and to what is
in the files that it names.

A path in the file is meant from the file's own folder, wherever the process was started.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from lb import tls
from lb.config import Config, ConfigError, ProxyConfig, ServiceConfig, parse_config
from lb.error_pages import ErrorPages


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


def read_files(config: Config) -> dict[str, ErrorPages]:
    """Each service's error pages; certificates are read too, to see that they can be. Blocking.
    Raises ConfigError or TlsError."""
    tls.check(config.proxy.tls)
    pages = {}
    for name, part in config.service.items():
        tls.client_context(part.tls)
        key = f"service.{name}.error_pages"
        pages[name] = ErrorPages.load(part.error_pages, Path(), key=key)
    return pages


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
    files = service.tls
    paths = _absolute(folder, ca=files.ca, cert=files.cert, key=files.key)
    return service.model_copy(
        update={
            "tls": files.model_copy(update=paths),
            "error_pages": _absolute(folder, **service.error_pages),
        }
    )


def _absolute(folder: Path, **paths: str) -> dict[str, str]:
    """An empty one stays empty: there is none."""
    return {key: str(folder / path) if path else "" for key, path in paths.items()}
