"""The socket by which a running test is steered: HTTP on a unix socket, `/v1/status`.

GET answers the status, PATCH takes one JSON object with `phase` and/or `rate`, or `finish`.
Errors are `application/problem+json`. Parses and answers; deciding is the test's.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from loadtest.errors import InputError, ShiftError
from loadtest.timeline import Cause, check_shift_rate

_MAX_SOCKET_PATH = 107  # bytes; the kernel's sun_path holds 108 with the closing zero


class Steerable(Protocol):
    """The part of a running test that the socket reaches."""

    def status(self) -> dict[str, Any]: ...
    def shift(self, phase: str, cause: Cause) -> None: ...
    def set_rate(self, rate: float, cause: Cause) -> None: ...
    def finish(self, reason: str = "finish") -> None: ...


@asynccontextmanager
async def serve(test: Steerable, path: Path) -> AsyncIterator[None]:
    """Listens at `path` (mode 0600) within; the file is gone afterwards. Raises InputError."""
    _make_way(path)
    app = web.Application()
    status = _Status(test)
    app.router.add_get("/v1/status", status.get)
    app.router.add_patch("/v1/status", status.patch)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        listener = _listen(path)
        try:
            await web.SockSite(runner, listener).start()
            yield
        finally:
            _remove(path)
            listener.close()
    finally:
        await runner.cleanup()


class _Status:
    def __init__(self, test: Steerable) -> None:
        self._test = test

    async def get(self, _request: web.Request) -> web.Response:
        return web.json_response(self._test.status())

    async def patch(self, request: web.Request) -> web.Response:
        try:
            wanted = _parse(await request.text())
        except ValueError as wrong:
            return _problem(400, "not a shift", str(wrong))
        try:
            # Both or neither: the one thing that can be wrong after a shift is looked at before.
            if "rate" in wanted:
                check_shift_rate(wanted["rate"])
            if "phase" in wanted:
                self._test.shift(wanted["phase"], "control")
            if "rate" in wanted:
                self._test.set_rate(wanted["rate"], "control")
        except ShiftError as refused:
            return _problem(409, "shift refused", str(refused))
        if wanted.get("finish"):
            self._test.finish()
        return web.json_response(self._test.status())


def _parse(text: str) -> dict[str, Any]:
    """`{"phase": str, "rate": number, "finish": true}`, at least one. Raises ValueError."""
    document = json.loads(text)
    if not isinstance(document, dict) or not document:
        raise ValueError('give an object with "phase", "rate" or "finish"')
    kinds = {"phase": (str,), "rate": (int, float), "finish": (bool,)}
    for key, value in document.items():
        if key not in kinds:
            raise ValueError(f"{key!r}: allowed are {', '.join(kinds)}")
        if not isinstance(value, kinds[key]) or (key == "rate" and isinstance(value, bool)):
            raise ValueError(f"{key!r}: {value!r} is not a {kinds[key][-1].__name__}")
    if "rate" in document:
        try:
            document["rate"] = float(document["rate"])
        except OverflowError:
            raise ValueError("'rate': it is too large a number") from None
    return document


def _problem(status: int, title: str, detail: str) -> web.Response:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return web.json_response(body, status=status, content_type="application/problem+json")


def _make_way(path: Path) -> None:
    """Removes a socket nobody listens on any more; refuses anything else that is there."""
    if len(bytes(path)) > _MAX_SOCKET_PATH:
        raise InputError(f"control socket {path}: longer than {_MAX_SOCKET_PATH} bytes")
    if not path.parent.is_dir():
        raise InputError(f"control socket {path}: {path.parent} is not a folder")
    if not path.exists():
        return
    if not path.is_socket():
        raise InputError(f"control socket {path}: a file of that name exists and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as wrong:
            raise InputError(f"control socket {path}: {wrong}") from None
        else:
            raise InputError(f"control socket {path}: another load test listens there")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o600)  # before listen(): until then nobody gets in
        listener.listen(16)
        listener.setblocking(False)
    except OSError as wrong:
        listener.close()
        raise InputError(f"control socket {path}: {wrong.strerror}") from None
    return listener
