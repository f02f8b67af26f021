"""What is asked of the agent in a guest, and where its socket is on our side.

Owns the words of `lbctl-wake` and the folder of the sockets. It must not know libvirt: whoever has
the connection asks.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from autoscale.embedded import LONGEST_SOCKET_PATH
from autoscale.verdicts import Code

LIMIT_S = 5
"""For one answer. It comes in 2 to 30 ms."""

CONNECTS_S = 2.0
"""So long after a guest was restored libvirt may hear that its agent is there."""
STARTS_S = 10.0
"""So long after its application an agent may start."""
_LOOK_S = 0.02

_LONGEST_NAME = 12 + 1 + 6
"""Of a VM: the beginning of its service's, a dash, six digits."""


def wake_command(name: str, seed: bytes) -> str:
    """Tells a copy its name and gives it fresh randomness; its agent returns once both are in
    force. The time is not in it: it would be that of the sending."""
    arguments = {"name": name, "seed": base64.b64encode(seed).decode("ascii")}
    return json.dumps({"execute": "lbctl-wake", "arguments": arguments})


def time_of(ns: int) -> dict[str, int]:
    """A wall clock's nanoseconds as `virDomainSetTime` wants them."""
    return {"seconds": ns // 1_000_000_000, "nseconds": ns % 1_000_000_000}


def patiently(ask: Callable[[], object], seconds: float, clock: Callable[[], float]) -> None:
    """Ask, and again while libvirt's error says that the agent is not there yet."""
    until = clock() + seconds
    while True:
        try:
            ask()
        except Exception as error:
            code = getattr(error, "get_error_code", int)()
            if code != Code.AGENT_UNRESPONSIVE or clock() > until:
                raise
        else:
            return
        time.sleep(_LOOK_S)


class AgentSockets:
    """`FOLDER/VM`, where libvirt listens for the agent of a guest. libvirt makes and removes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def fit(self) -> bool:
        """Whether a path in this folder is short enough for a socket."""
        return len(os.fsencode(self._folder)) + 1 + _LONGEST_NAME <= LONGEST_SOCKET_PATH

    def prepare(self, vm: str) -> str:
        """The path; its folder exists after this. Empty where none would fit."""
        path = self._folder / vm
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            return ""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return str(path)

    def remove(self, vm: str) -> None:
        """Of one that is gone, should libvirt have left it there."""
        with contextlib.suppress(OSError):
            (self._folder / vm).unlink(missing_ok=True)
