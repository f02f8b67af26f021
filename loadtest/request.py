"""A URL taken apart, and the bytes of a request to it.

Values only; resolving the host's name is `connect.py`'s.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

from loadtest.errors import InputError

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SCHEMES = {"http": 80, "https": 443}
# RFC 9110 §9.2.2: asking these twice has the effect of asking once, so a request that met a
# connection the server had just closed may go out again.
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})


@dataclass(frozen=True, slots=True)
class Target:
    """A URL's parts: `path` includes the query and is what the request line carries."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises InputError that names the URL and what is wrong with it."""
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as wrong:
            raise InputError(f"URL {url!r}: {wrong}") from None
        if parts.scheme not in _SCHEMES:
            raise InputError(f"URL {url!r}: must begin with http:// or https://")
        if not parts.hostname:
            raise InputError(f"URL {url!r}: it names no host")
        if parts.username is not None:
            raise InputError(f"URL {url!r}: put credentials into --header 'Authorization: …'")
        path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        if parts.query:
            path += "?" + urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]")
        default = _SCHEMES[parts.scheme]
        return cls(parts.scheme, parts.hostname, default if port is None else port, path)

    @property
    def authority(self) -> str:
        """The Host header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _SCHEMES[self.scheme] else f"{host}:{self.port}"


def build_request(
    target: Target, method: str, headers: tuple[tuple[str, str], ...], body: bytes
) -> bytes:
    """An HTTP/1.1 request. A header given replaces the default of that name. InputError if bad."""
    if not _TOKEN.fullmatch(method):
        raise InputError(f"method {method!r}: not an HTTP method")
    lines = {
        "host": f"Host: {target.authority}",
        "user-agent": "User-Agent: loadtest",
        "accept": "Accept: */*",
    }
    if body or method in ("POST", "PUT", "PATCH"):
        lines["content-length"] = f"Content-Length: {len(body)}"
    extra = []
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or any(c in value for c in "\r\n\0"):
            raise InputError(f"header {name + ': ' + value!r}: not a valid HTTP header")
        if name.lower() in ("content-length", "transfer-encoding"):
            raise InputError(f"header {name!r}: the body sets it")
        lines.pop(name.lower(), None)
        extra.append(f"{name}: {value}")
    head = "\r\n".join([f"{method} {target.path} HTTP/1.1", *lines.values(), *extra, "", ""])
    try:
        return head.encode("latin-1") + body
    except UnicodeEncodeError as wrong:
        raise InputError(
            f"header: {wrong.object[wrong.start : wrong.end]!r} is not latin-1"
        ) from None
