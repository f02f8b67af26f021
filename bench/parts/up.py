"""`lbctl up` as a process with a home of its own, and what that process uses.

Knows Linux's /proc. Starts and ends only its own process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from lb.admin import access
from lb.client import AdminClient

START_S = 30.0
STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class Up:
    """A running proxy. `config_path` may be written anew before `reload`."""

    port: int
    pid: int
    config_path: Path
    log_path: Path
    admin: AdminClient
    """Blocking: call it in a thread."""

    def rss_bytes(self) -> int:
        """Memory that the process has in RAM."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise ProcessLookupError(self.pid)

    def files(self) -> int:
        """Its open files, sockets included."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def cpu_s(self) -> float:
        """CPU time so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def all_ready(self) -> None:
        """Wait until every backend of the pool takes requests."""
        async with asyncio.timeout(START_S):
            while not all(  # noqa: ASYNC110 - what is waited for has no event to set
                row["lifecycle"] == "ready" and row["healthy"]
                for row in (await asyncio.to_thread(self.admin.pool))["backends"]
            ):
                await asyncio.sleep(0.1)

    def reload(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def complaints(self) -> list[str]:
        """What the log has at warning or above."""
        words = (" WARNING ", " ERROR ", " CRITICAL ", "Traceback")
        lines = self.log_path.read_text().splitlines()
        return [line for line in lines if any(word in line for word in words)]


@contextlib.asynccontextmanager
async def lbctl_up(config: str) -> AsyncIterator[Up]:
    """Start it with this configuration, in which {port} stands for the proxy's port; SystemExit
    where it does not start. Ended by SIGTERM; SystemExit where it does not end well."""
    with tempfile.TemporaryDirectory(prefix="lbctl-bench-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        config_path, log_path = Path(folder) / "lb.toml", Path(folder) / "log"
        port = free_port()
        config_path.write_text(config.replace("{port}", str(port)))
        with log_path.open("w") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "lb.cli", "up", "-c", str(config_path),
                env={**os.environ, "LBCTL_HOME": str(home)},
                stderr=log,
            )  # fmt: skip
        try:
            await _serving(process, log_path)
            admin = AdminClient(access.read_address(home) or "", access.read_token(home))
            yield Up(port, process.pid, config_path, log_path, admin)
            process.terminate()
            async with asyncio.timeout(STOP_S):
                code = await process.wait()
            if code:
                raise SystemExit(f"lbctl up ended with {code}: {_text(log_path)[-2000:]}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def _serving(process: asyncio.subprocess.Process, log_path: Path) -> None:
    patience = time.monotonic() + START_S
    while "serving at" not in (said := _text(log_path)):
        if process.returncode is not None or time.monotonic() > patience:
            raise SystemExit(f"lbctl up does not start: {said[-2000:]}")
        await asyncio.sleep(0.05)


def _text(path: Path) -> str:
    return path.read_text()
