"""Finds a running test's control socket and speaks to it. Blocking; for the command line.

Each test listens in a folder of its user, `$XDG_RUNTIME_DIR/loadtest` or, without one,
`/tmp/loadtest-UID`, as `PID.sock`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

from loadtest.errors import LoadtestError, ShiftError

_TIMEOUT_S = 5.0


def folder() -> Path:
    """The user's folder of control sockets, made if need be, nobody else's. LoadtestError."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    # In a folder all may write to, the name is made ours by the check below.
    path = Path(runtime) / "loadtest" if runtime else Path(f"/tmp/loadtest-{os.getuid()}")  # noqa: S108
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as wrong:
        raise LoadtestError(f"{path}: {wrong.strerror}; choose a path with --control") from None
    theirs = found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022
    if not stat.S_ISDIR(found.st_mode) or theirs:
        raise LoadtestError(f"{path}: others can write there; choose a path with --control")
    return path


def default_socket() -> Path:
    """Where this process's test listens if not told otherwise."""
    return folder() / f"{os.getpid()}.sock"


def find() -> Path:
    """The one test that runs. LoadtestError if there is none, or several to choose from."""
    alive = []
    for path in sorted(folder().glob("*.sock")):
        try:
            status = ask(path, "GET")
        except ConnectionRefusedError:  # left behind by a killed one
            path.unlink(missing_ok=True)
        except (OSError, LoadtestError):
            continue
        else:
            alive.append((path, status))
    if not alive:
        raise LoadtestError("no load test is running; start one with `loadtest run`")
    if len(alive) > 1:
        which = ", ".join(f"{path} ({status.get('url')})" for path, status in alive)
        raise LoadtestError(f"{len(alive)} load tests are running, choose with --control: {which}")
    return alive[0][0]


def ask(path: Path, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request for `/v1/status`. Raises ShiftError if refused, OSError if nobody listens."""
    connection = _UnixConnection(path)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, "/v1/status", payload, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        document = json.loads(answer.read())
    except (http.client.HTTPException, ValueError) as wrong:
        raise LoadtestError(f"{path}: not a load test's answer ({wrong!r})") from None
    finally:
        connection.close()
    if not isinstance(document, dict):
        raise LoadtestError(f"{path}: not a load test's answer")
    if answer.status >= 400:
        raise ShiftError(str(document.get("detail", answer.reason)))
    return document


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("loadtest", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(_TIMEOUT_S)
            sock.connect(str(self._path))
            self.sock = sock
            stack.pop_all()
