"""Paths in a configuration are meant from its file's folder, wherever the process was started."""

from __future__ import annotations

from pathlib import Path

import pytest

from lb.config import Config, ConfigError
from lb.config_file import below, read_text

EVERY_PATH = """
[proxy.tls]
certificates = [{cert = "a.pem", key = "/etc/a.key"}]
client_auth = "optional"
client_ca = "ca.pem"
[proxy.access_log]
format = "json"
path = "access.log"
[service.web.tls]
ca = "sub/ca.pem"
cert = "b.pem"
key = "b.key"
[service.web.error_pages]
"503" = "busy.html"
"""


def test_every_path_becomes_absolute() -> None:
    config = read_text(EVERY_PATH, Path("/srv/lb"))
    (pair,) = config.proxy.tls.certificates
    assert (pair.cert, pair.key) == ("/srv/lb/a.pem", "/etc/a.key")
    assert config.proxy.tls.client_ca == "/srv/lb/ca.pem"
    assert config.proxy.access_log.path == "/srv/lb/access.log"
    web = config.service["web"]
    assert (web.tls.ca, web.tls.cert) == ("/srv/lb/sub/ca.pem", "/srv/lb/b.pem")
    assert web.tls.key == "/srv/lb/b.key"
    assert web.error_pages == {"503": "/srv/lb/busy.html"}
    assert below(config, Path("/elsewhere")) == config


def test_what_is_no_path_stays() -> None:
    assert read_text("", Path("/srv")) == Config(), "standard output, no file"


@pytest.mark.parametrize(
    ("text", "complaint"), [("[[", "not valid TOML"), ("x = 1", "x: no such key")]
)
def test_what_is_wrong_is_said(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_text(text, Path("/"))
