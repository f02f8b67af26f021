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
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lb.admin import access
from lb.client import AdminClient

START_S = 30.0
STOP_S = 60.0
LBCTL = (sys.executable, "-m", "lb.cli")


@dataclass(frozen=True, slots=True)
class Up:
    """A running proxy. `config_path` may be written anew before `reload`."""

    port: int
    pid: int
    home: Path
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
async def lbctl_up(
    config: str,
    *,
    images: Path | None = None,
    arguments: Sequence[str] = (),
    command: Sequence[str] = LBCTL,
) -> AsyncIterator[Up]:
    """Start it with this configuration, in which {port} stands for the proxy's port; SystemExit
    where it does not start. Ended by SIGTERM; SystemExit where it does not end well. `images`: a
    folder of guest images for it; whatever runs in its home is killed after it. `command`: what
    stands for `lbctl`, pinned to a core or watched by a profiler."""
    with scratch_home(images) as home:
        config_path, log_path = home.parent / "lb.toml", home.parent / "log"
        port = free_port()
        config_path.write_text(config.replace("{port}", str(port)))
        with log_path.open("w") as log:
            process = await asyncio.create_subprocess_exec(
                *command, "up", "-c", str(config_path), *arguments,
                env={**os.environ, "LBCTL_HOME": str(home)},
                stderr=log,
            )  # fmt: skip
        try:
            await _serving(process, log_path)
            admin = AdminClient(access.read_address(home) or "", access.read_token(home))
            yield Up(port, process.pid, home, config_path, log_path, admin)
            process.terminate()
            async with asyncio.timeout(STOP_S):
                code = await process.wait()
            if code:
                raise SystemExit(f"lbctl up ended with {code}: {_text(log_path)[-2000:]}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await _end_guests(home)


@contextlib.contextmanager
def scratch_home(images: Path | None = None) -> Iterator[Path]:
    """An LBCTL_HOME in a folder of its own, short enough for libvirt's sockets, gone at the end;
    with the guest images of that folder."""
    with tempfile.TemporaryDirectory(prefix="lbb-", dir="/tmp") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        if images is not None:
            (home / "images").symlink_to(images)
        yield home


def guests(home: Path) -> dict[int, bytes]:
    """The QEMU processes of this home, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                command = (entry / "cmdline").read_bytes()
                if b"qemu-system" in command.split(b"\0")[0] and os.fsencode(home) in command:
                    found[int(entry.name)] = command
    return found


async def _end_guests(home: Path) -> None:
    for guest in guests(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(guest, signal.SIGKILL)
    async with asyncio.timeout(STOP_S):
        while guests(home):  # noqa: ASYNC110 - processes of others have no event to set
            await asyncio.sleep(0.05)


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
