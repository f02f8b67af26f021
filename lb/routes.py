"""Which route a request takes: by host, then by the longest path; and what a route does to it.

Pure. A route is found in a few dictionary look-ups, whatever the number of routes. It reads the
path as the client sent it, as HAProxy does; but where a server that decodes `%XX` and resolves `..`
would read a path that belongs to another route, the request is refused: a route must not be a way
around another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from lb.config import Config
from lb.config_service import FieldEdits, RouteConfig, RouteTimeouts
from lb.errors import AmbiguousPathError

Fields = Sequence[tuple[bytes, bytes]]

LONGEST_NAME: Final = 253
"""Of a host (RFC 1035 §2.3.4); a longer one is nobody's."""

KNOWN_HOSTS: Final = 1024
"""Beyond it they are forgotten and found anew, so that invented hosts cost no memory."""

_HOST: Final = re.compile(rb"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]*)?").fullmatch
_ESCAPE: Final = re.compile(rb"%[0-9A-Fa-f]{2}")
_HOLE: Final = re.compile(rb"\{(scheme|host|path|query|target)\}")
_SAFE_PATH: Final = "%/:@!$&'()*+,;=~"
_SAFE_QUERY: Final = _SAFE_PATH + "?"


@dataclass(frozen=True, slots=True)
class Edits:
    """What is done to a list of header fields."""

    dropped: frozenset[bytes]
    """Lower-case names: those removed, and those set anew."""
    added: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, config: FieldEdits) -> Edits | None:
        """None where there is nothing to do."""
        dropped = frozenset(name.lower().encode() for name in (*config.remove, *config.set))
        added = tuple(
            (name.encode(), value.encode())
            for name, value in (*config.set.items(), *config.add.items())
        )
        return cls(dropped, added) if dropped or added else None

    def apply(self, fields: Fields) -> list[tuple[bytes, bytes]]:
        dropped = self.dropped
        return [*(pair for pair in fields if pair[0].lower() not in dropped), *self.added]


@dataclass(frozen=True, slots=True)
class Route:
    """Where one kind of request goes, and what is done to it on the way."""

    service: str | None
    """None: it is a redirect."""
    path: bytes = b""
    """What the request's path begins with, without a slash at the end."""
    redirect: bytes = b""
    status: int = 308
    """Of the redirect."""
    strip: bool = False
    timeouts: RouteTimeouts = field(default_factory=RouteTimeouts)
    request: Edits | None = None
    response: Edits | None = None

    @classmethod
    def of(cls, config: RouteConfig) -> Route:
        return cls(
            service=config.service,
            path=_prefix(config),
            redirect=(config.redirect or "").encode(),
            status=config.redirect_status,
            strip=config.strip_path,
            timeouts=config.timeouts,
            request=Edits.of(config.request),
            response=Edits.of(config.response),
        )

    def onward_target(self, target: bytes) -> bytes:
        """The target as the backend gets it. `target` is one that this route was found for.

        What is left of a stripped one begins with exactly one slash: `//host/x` would be another
        server's place to whoever resolves it as a reference.
        """
        if not self.strip or not self.path:
            return target
        path, mark, query = target[len(self.path) :].partition(b"?")
        return b"/" + path.lstrip(b"/\\") + mark + query

    def location(self, scheme: bytes, host: bytes | None, target: bytes) -> bytes:
        """Where a redirect leads. Whatever comes from the request is percent-encoded as far as it
        could mean anything else than a part of that place."""
        name = _HOST(host.lower()) if host is not None else None
        path, mark, query = self.onward_target(target).partition(b"?")
        path = quote_from_bytes(b"/" + path.lstrip(b"/*"), _SAFE_PATH).encode()
        query = mark + quote_from_bytes(query, _SAFE_QUERY).encode()
        values = {
            b"scheme": scheme,
            b"host": name[1] if name else b"",
            b"path": path,
            b"query": query,
            b"target": path + query,
        }
        return _HOLE.sub(lambda hole: values[hole[1]], self.redirect)

    def edit_request(self, fields: Fields) -> Fields:
        return fields if self.request is None else self.request.apply(fields)

    def edit_response(self, fields: Fields) -> Fields:
        return fields if self.response is None else self.response.apply(fields)


class _Paths:
    """The routes of one host pattern, by path."""

    def __init__(self, routes: Iterable[RouteConfig]) -> None:
        self._sent = {_prefix(config): Route.of(config) for config in routes}
        self._plain = {unquote_to_bytes(path): route for path, route in self._sent.items()}
        self.root = self._sent.get(b"")
        self.depth = max((path.count(b"/") for path in self._sent), default=0)

    def find(self, path: bytes, *, plain: bool) -> Route | None:
        """The longest that is `path` or lies above it. No longer path is looked at than the
        longest route's: a path of 4,000 slashes costs no more than one of three."""
        known = self._plain if plain else self._sent
        found, at = self.root, 0
        for _ in range(self.depth):
            at = path.find(b"/", at + 1)
            if at < 0:
                return known.get(path, found)
            found = known.get(path[:at], found)
        return found


class _Chain:
    """For one host: its paths, then those of each pattern that fits it, the most exact first."""

    def __init__(self, fitting: Sequence[_Paths]) -> None:
        self._fitting = tuple(fitting)
        self.only = fitting[0].root if fitting else None
        self.by_path = any(paths.depth for paths in fitting)
        """Else the path decides nothing: every route is `only`."""

    def find(self, path: bytes, *, plain: bool = False) -> Route | None:
        for paths in self._fitting:
            if (route := paths.find(path, plain=plain)) is not None:
                return route
        return None


class Routes:
    """Every route. With none at all, everything goes to `default`."""

    def __init__(self, routes: Sequence[RouteConfig] = (), default: str | None = None) -> None:
        self._only = Route(default) if default is not None and not routes else None
        by_host: dict[str, list[RouteConfig]] = {}
        for config in routes:
            by_host.setdefault(config.host, []).append(config)
        paths = {host: _Paths(configs) for host, configs in by_host.items()}
        names = [host for host in paths if not host.startswith("*")]
        self._exact = {host.encode(): _chain(host, paths) for host in names}
        self._below = {
            host.removeprefix("*.").encode(): _chain(host, paths)
            for host in paths
            if host.startswith("*.")
        }
        self._any = _chain("*", paths)
        self._known: dict[bytes, _Chain] = {}
        """Hosts as clients wrote them lately: most requests name one of a few."""

    def match(self, host: bytes | None, path: bytes) -> Route | None:
        """The route of a request; None where there is none for it.

        `host` may have a port and any case, `path` a query. Raises AmbiguousPathError.
        """
        if self._only is not None:
            return self._only
        chain = self._any if host is None else self._known.get(host) or self._learn(host)
        if not chain.by_path:
            return chain.only
        path = path.partition(b"?")[0]
        if b"%" in path:
            path = _ESCAPE.sub(lambda escape: escape[0].upper(), path)
        found = chain.find(path)
        if (
            b"%" in path or b"//" in path or b"/." in path or b";" in path or b"\\" in path
        ) and found != chain.find(plain_path(path), plain=True):
            raise AmbiguousPathError(
                "the path can be read in two ways that lead to different places:"
                " write it without needless %XX, //, /./ and /../"
            )
        return found

    def _learn(self, host: bytes) -> _Chain:
        if len(self._known) >= KNOWN_HOSTS:
            self._known.clear()
        chain = self._known[host] = self._chain_of(host)
        return chain

    def _chain_of(self, host: bytes) -> _Chain:
        match = _HOST(host.lower())
        if match is None or len(match[1]) > LONGEST_NAME:
            return self._any
        name = match[1].removesuffix(b".")
        if (chain := self._exact.get(name)) is not None:
            return chain
        dot = name.find(b".")
        while dot >= 0:
            if (chain := self._below.get(name[dot + 1 :])) is not None:
                return chain
            dot = name.find(b".", dot + 1)
        return self._any


def plain_path(path: bytes) -> bytes:
    """As the most obliging server would read it: `%XX` decoded once, `\\` a slash, `;…` ignored,
    empty segments and `.` left out, `..` resolved. Without a slash at the end.

    Tomcat ignores `;…`, IIS and every WHATWG URL parser (Node) take `\\` for a slash, most
    frameworks decode first and then resolve.
    """
    kept: list[bytes] = []
    for segment in unquote_to_bytes(path).replace(b"\\", b"/").split(b"/"):
        name = segment.partition(b";")[0]
        if name == b"..":
            del kept[-1:]
        elif name not in (b"", b"."):
            kept.append(name)
    return b"".join(b"/" + name for name in kept)


def routes_of(config: Config) -> Routes:
    """Those of a whole configuration: without any, everything goes to its one service."""
    return Routes(config.route, None if config.route else next(iter(config.service)))


def _chain(host: str, paths: Mapping[str, _Paths]) -> _Chain:
    """The patterns that fit whatever fits `host`, the most exact first."""
    fitting = [host] if host in paths else []
    name = host.removeprefix("*.")
    while "." in name:
        name = name.partition(".")[2]
        fitting.append(f"*.{name}")
    if host != "*":
        fitting.append("*")
    return _Chain([paths[pattern] for pattern in fitting if pattern in paths])


def _prefix(config: RouteConfig) -> bytes:
    return config.path.rstrip("/").encode()
