"""A client of the admin API, as lbctl needs it: blocking, and on the standard library alone.

Translates everything that can go wrong on the way into one AdminError, a line for the operator.
Knows no rendering. http.client and not aiohttp: lbctl should answer before aiohttp is imported.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from lb.errors import LbError

DEFAULT_URL: Final = "http://127.0.0.1:9900"
TIMEOUT_S: Final = 10.0
SILENCE_S: Final = 45.0
"""Three heartbeats of the stream: nothing for so long means that the other side is gone."""
RESUME_S: Final = 10.0
RESUME_PAUSE_S: Final = 0.5
APPLY_S: Final = 60.0
"""A configuration is in force only once its files are read and new backends were looked at."""

Json = Any


class AdminError(LbError):
    """The API was not reached, or refuses; the message says why and what to do."""


class UnreachableError(AdminError):
    """Nobody answers there."""


class ConfigRefusedError(AdminError):
    """The configuration that was sent cannot be used."""


class AdminClient:
    """One admin API. Every call opens its own connection: lbctl asks once and ends."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise AdminError(f"{url!r} has no usable port: write http://HOST:PORT") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise AdminError(f"{url!r} is no address of an admin API: write http://HOST:PORT")
        self.url = url.rstrip("/")
        self._https = parts.scheme == "https"
        self._host = parts.hostname
        self._port = port
        self._prefix = parts.path.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s
        self._clock = clock
        self._sleep = sleep

    # ── what is there ────────────────────────────────────────────────────────────────────────

    def pool(self) -> dict[str, Json]:
        """`services`, a list of names, and `backends`, a list of rows."""
        return dict(self._get("/api/v1/pool"))

    def vms(self) -> list[dict[str, Json]]:
        return list(self._get("/api/v1/vms")["vms"])

    def vm(self, name: str) -> dict[str, Json]:
        return dict(self._get(f"/api/v1/vms/{_part(name)}"))

    def hosts(self) -> list[dict[str, Json]]:
        return list(self._get("/api/v1/hosts")["hosts"])

    def scale(self, service: str) -> dict[str, Json]:
        return dict(self._get(f"/api/v1/scale/{_part(service)}"))

    def scales(self) -> list[dict[str, Json]]:
        return list(self._get("/api/v1/scale")["services"])

    def rollouts(self) -> list[dict[str, Json]]:
        return list(self._get("/api/v1/rollouts")["rollouts"])

    def rollout(self, service: str) -> dict[str, Json]:
        return dict(self._get(f"/api/v1/rollouts/{_part(service)}"))

    def decisions(
        self, since: int | None = None, limit: int = 100, service: str | None = None
    ) -> dict[str, Json]:
        """`decisions`, those that changed last at the end (see `Decisions.page`), and `last_id`,
        the newest revision."""
        query = {"limit": str(limit)}
        if since is not None:
            query["since"] = str(since)
        if service is not None:
            query["service"] = service
        return dict(self._get(f"/api/v1/decisions?{urlencode(query)}"))

    def events(
        self, since: int | None = None, limit: int = 100, service: str | None = None
    ) -> dict[str, Json]:
        """`events`, oldest first (see `Journal.events`), and `last_id`, that of the newest."""
        query = {"limit": str(limit)}
        if since is not None:
            query["since"] = str(since)
        if service is not None:
            query["service"] = service
        return dict(self._get(f"/api/v1/events?{urlencode(query)}"))

    def follow(
        self, since: int | None = None, service: str | None = None
    ) -> Generator[dict[str, Json], None, None]:
        """Events as they happen, after `since`; ends with an UnreachableError.

        A connection that breaks is resumed after the last event seen, so that a restart of
        `lbctl up` is survived; given up once it was gone for RESUME_S.
        """
        last = since
        broke_at: float | None = None
        while True:
            try:
                for event in self._stream(last, service):
                    broke_at = None
                    if event is not None:
                        last = int(event["id"])
                        yield event
            except UnreachableError:
                if last is None:
                    raise
                # from the break: before it, a quiet stream may have said nothing for long
                now = self._clock()
                broke_at = now if broke_at is None else broke_at
                if now - broke_at > RESUME_S:
                    raise
            self._sleep(RESUME_PAUSE_S)

    # ── what to change ───────────────────────────────────────────────────────────────────────

    def add_backend(self, service: str, address: str) -> str:
        body = {"address": address}
        answer = self._call("POST", f"/api/v1/pool/{_part(service)}/backends", body)
        return str(answer["name"])

    def remove_backend(self, service: str, name: str) -> None:
        self._call("DELETE", f"/api/v1/pool/{_part(service)}/backends/{_part(name)}")

    def drain_backend(self, service: str, name: str) -> None:
        self._call("POST", f"/api/v1/pool/{_part(service)}/backends/{_part(name)}/drain")

    def ready_backend(self, service: str, name: str) -> None:
        self._call("POST", f"/api/v1/pool/{_part(service)}/backends/{_part(name)}/ready")

    def set_scale(
        self, service: str, mode: str, to: int | None = None, for_s: float | None = None
    ) -> dict[str, Json]:
        """The service's row afterwards. `mode` is fixed, hold, observe, or auto."""
        body = {"mode": mode, "to": to, "for_s": for_s}
        said = {key: value for key, value in body.items() if value is not None}
        return dict(self._call("PUT", f"/api/v1/scale/{_part(service)}", said))

    def spawn_vm(self, service: str) -> dict[str, Json]:
        """The service's row (see `scale`) afterwards."""
        return dict(self._call("POST", "/api/v1/vms", {"service": service}))

    def retire_vm(self, name: str) -> None:
        self._call("DELETE", f"/api/v1/vms/{_part(name)}")

    def protect_vm(self, name: str, *, protected: bool) -> None:
        self._call("PATCH", f"/api/v1/vms/{_part(name)}", {"protected": protected})

    def begin_rollout(
        self, service: str, image: str | None, max_surge: int = 1, pause_at: float | None = None
    ) -> dict[str, Json]:
        """The rollout's row, as `rollout`. `image` None: what the configured one is by now."""
        body = {"image": image, "max_surge": max_surge, "pause_at": pause_at}
        said = {key: value for key, value in body.items() if value is not None}
        return dict(self._call("PUT", f"/api/v1/rollouts/{_part(service)}", said))

    def change_rollout(self, service: str, phase: str) -> dict[str, Json]:
        """`phase`: paused, running or rolling_back."""
        return dict(self._call("PATCH", f"/api/v1/rollouts/{_part(service)}", {"phase": phase}))

    def apply_config(
        self, text: str | None, folder: str | None, *, dry_run: bool = False
    ) -> dict[str, Json]:
        """`changes` and `needs_restart`, sentences each. `text`: of a file in `folder`; None for
        the file that `lbctl up` was started with. Raises ConfigRefusedError."""
        query = {"dry_run": "true" if dry_run else "false"}
        if folder is not None:
            query["folder"] = folder
        # an empty body asks for the server's own file: a file that is empty must not be one
        data = b"" if text is None else f"{text}\n".encode()
        path = f"/api/v1/config?{urlencode(query)}"
        return dict(self._send("POST", path, data, "application/toml", APPLY_S))

    # ── the wire ─────────────────────────────────────────────────────────────────────────────

    def _get(self, path: str) -> Json:
        return self._call("GET", path)

    def _call(self, method: str, path: str, body: Json = None) -> Json:
        data = None if body is None else json.dumps(body).encode()
        return self._send(method, path, data, "application/json", self._timeout_s)

    def _send(
        self, method: str, path: str, data: bytes | None, content_type: str, timeout_s: float
    ) -> Json:
        headers = {"Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = content_type
        if method != "GET":
            # only where it is needed: what never leaves cannot be read on the way
            if self._token is None:
                raise AdminError(
                    "changing anything needs the token that `lbctl up` keeps in LBCTL_HOME/token:"
                    " run lbctl as the user who runs it, with the same LBCTL_HOME"
                )
            headers["Authorization"] = f"Bearer {self._token}"
        connection = self._connection(timeout_s)
        try:
            connection.request(method, self._prefix + path, data, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._translated(error) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise self._refusal(response.status, content)
        return self._json(content) if content else None

    def _stream(self, since: int | None, service: str | None) -> Iterator[dict[str, Json] | None]:
        """One connection's worth of events, None for other signs of life such as heartbeats. Ends
        quietly when the server ends it."""
        query = {} if service is None else {"service": service}
        headers = {"Accept": "text/event-stream"}
        if since is not None:
            headers["Last-Event-ID"] = str(since)
        connection = self._connection(SILENCE_S)
        try:
            path = f"{self._prefix}/api/v1/events/stream?{urlencode(query)}"
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise self._refusal(response.status, response.read())
            # each event is one data line: that is how our server writes them
            while line := response.readline():
                yield self._json(line[5:]) if line.startswith(b"data:") else None
        except (OSError, http.client.HTTPException) as error:
            raise self._translated(error) from error
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        make = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        return make(self._host, self._port, timeout=timeout_s)

    def _json(self, content: bytes) -> Json:
        try:
            return json.loads(content)
        except ValueError as error:
            raise AdminError(f"{self.url} answers, but not as lbctl's admin API does") from error

    def _refusal(self, status: int, content: bytes) -> AdminError:
        try:
            detail = str(json.loads(content)["detail"])
        except (ValueError, KeyError, TypeError):
            return AdminError(f"{self.url} answers {status}, and not as lbctl's admin API does")
        if status == 401:
            return AdminError(
                f"{self.url} does not take our token: it was started with another LBCTL_HOME"
            )
        if status == 422:
            return ConfigRefusedError(detail)
        return AdminError(detail)

    def _translated(self, error: Exception) -> AdminError:
        if isinstance(error, ConnectionRefusedError):
            return UnreachableError(
                f"no lbctl is serving at {self.url}: start one with `lbctl up`,"
                " or say where it is with --admin URL"
            )
        if isinstance(error, socket.gaierror):
            return UnreachableError(f"the name {self._host} does not resolve: check --admin")
        if isinstance(error, TimeoutError):
            return UnreachableError(f"no answer from {self.url} in {self._timeout_s:g} s")
        if isinstance(error, ssl.SSLError):
            return AdminError(f"{self.url}: {error.reason}")
        if isinstance(error, http.client.HTTPException) and not isinstance(
            error, http.client.RemoteDisconnected | http.client.IncompleteRead
        ):
            return AdminError(f"{self.url} does not speak HTTP: check --admin")
        return UnreachableError(f"the connection to {self.url} broke: {error}")


def _part(name: str) -> str:
    """One segment of a path: a slash in a name must not become another route."""
    return quote(name, safe="")
