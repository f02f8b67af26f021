"""`lbctl up` killed and started again, on real machines: how long until it serves from one that it
found there.

Owns the processes and the one machine it starts, which is gone when `measure` returns; what else is
in the home folder it leaves alone.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench.parts.up import free_port

BOOT_S: Final = 120.0
"""A boot takes some 5 s alone under emulation; a busy machine may need many times that."""
AGAIN_S: Final = 60.0
"""Patience with a process that finds its machine already running."""
STOP_S: Final = 60.0
LOOK_S: Final = 0.002
"""Between two attempts: what the measured seconds may be too long by."""

QUESTION: Final = "/healthz"
"""Next to no work: `/` has an emulated guest draw for the better part of a second."""

CONFIG: Final = """
[proxy]
listen = "127.0.0.1:{port}"
shutdown_grace = 1
[admin]
listen = "127.0.0.1:0"
[service.web.vm]
shutdown_timeout = 10
snapshot = "off"
[service.web.scale]
min = 1
max = 1
"""


def measure(home: Path, rounds: int) -> list[float]:
    """Seconds from the start of the process to the first answer of 200 through its proxy, by round.

    `home` is an LBCTL_HOME with an image and short enough for libvirt's sockets; nobody else may
    use it meanwhile. SystemExit where one does not serve, or serves from another machine than the
    one that was there: then it was not adopted.
    """
    port = free_port()
    config_path = home / "restart.toml"
    config_path.write_text(CONFIG.format(port=port), encoding="utf-8")
    with (home / "restart.log").open("ab") as log:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "lb.cli", "up", "-c", config_path, "--retire-vms"],
                env={**os.environ, "LBCTL_HOME": str(home)},
                stdout=log,
                stderr=log,
            )

        process = start()
        try:
            _, adopted = first_answer(process, port, BOOT_S)
            found = []
            for _ in range(rounds):
                process.kill()
                process.wait()
                began = time.monotonic()
                process = start()
                at, replica = first_answer(process, port, AGAIN_S)
                if replica != adopted:
                    raise SystemExit(f"{replica} answered, and not {adopted}, which was there")
                found.append(at - began)
            return found
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def first_answer(
    process: subprocess.Popen[bytes], port: int, patience_s: float
) -> tuple[float, str]:
    """When (monotonic) 200 came through the proxy on this port of ours, and from which replica.
    SystemExit where the process ends first, or nothing came in time."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"lbctl up ended with {process.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience_s)
        with (
            contextlib.closing(connection),
            contextlib.suppress(OSError, http.client.HTTPException),
        ):
            connection.request("GET", QUESTION)
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                return time.monotonic(), answer.headers.get("X-Replica", "")
        time.sleep(LOOK_S)
    raise SystemExit(f"nothing served within {patience_s:g} s")
