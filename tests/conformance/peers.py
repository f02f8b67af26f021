"""HAProxy and nginx on loopback ports, a process each, before backends of ours.

Each listens on several ports, each before a backend of its own, so that cases can run side by side
and what arrives at a backend is one case's. Started in the foreground and ended by their process.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.conformance.wire import Wire
from tests.conformance.witness import Witness

_START_S: Final = 10.0


class Slot:
    """One port of the peer, and the backend behind it, which is one case's at a time."""

    def __init__(self) -> None:
        self.port = 0
        self.backend_port = 0
        self.witness: Witness | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._wire, "127.0.0.1", 0)
        self.backend_port = self._server.sockets[0].getsockname()[1]

    def _wire(self) -> asyncio.Protocol:
        # A connection that comes between two cases is nobody's.
        return self.witness.wire() if self.witness is not None else Wire()

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()


@dataclass(frozen=True)
class Peer:
    """A program to compare with."""

    name: str
    version: str
    """Of which the explanations in the tables speak; others do other things."""
    config: Callable[[Sequence[Slot], Path], str]
    command: Callable[[Path, Path], list[str]]
    """(program, configuration) → what to run in the foreground."""
    version_flag: str = "-v"

    @property
    def program(self) -> Path | None:
        found = shutil.which(self.name, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin")
        return Path(found) if found else None

    async def found_version(self) -> str:
        """Major and minor of what is installed, such as 2.6."""
        assert self.program is not None
        process = await asyncio.create_subprocess_exec(
            self.program, self.version_flag,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        text, _ = await process.communicate()
        match = re.search(rb"[0-9]+\.[0-9]+", text)
        return match[0].decode() if match else ""

    @contextlib.asynccontextmanager
    async def running(self, slots: Sequence[Slot], folder: Path) -> AsyncIterator[None]:
        """Start it before the slots' backends. A port may be taken between choosing and binding
        it: then others are tried."""
        process = await self._start(slots, folder)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _start(self, slots: Sequence[Slot], folder: Path) -> asyncio.subprocess.Process:
        assert self.program is not None
        for attempt in range(3):
            for slot, port in zip(slots, free_ports(len(slots)), strict=True):
                slot.port = port
            config = folder / f"{self.name}-{attempt}.conf"
            log = folder / f"{self.name}-{attempt}.log"
            config.write_text(self.config(slots, folder), encoding="utf-8")
            with log.open("wb") as output:
                process = await asyncio.create_subprocess_exec(
                    # If the tests are killed, so is it.
                    *("setpriv", "--pdeathsig", "KILL"),
                    *self.command(self.program, config),
                    stdout=output,
                    stderr=output,
                )
            try:
                if await _serves(process, slots):
                    return process
            except BaseException:
                process.kill()
                raise
            process.kill()
            await process.wait()
        raise RuntimeError(f"{self.name} does not start: {log.read_text(errors='replace')[-2000:]}")


async def _serves(process: asyncio.subprocess.Process, slots: Sequence[Slot]) -> bool:
    """Wait until every port answers; False where the process ended instead."""
    async with asyncio.timeout(_START_S):
        for slot in slots:
            while process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", slot.port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
                    continue
                writer.close()
                await writer.wait_closed()
                break
    return process.returncode is None


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _haproxy(slots: Sequence[Slot], folder: Path) -> str:
    """As its manual would have a web service, with room for the tables' long heads."""
    parts = [
        """
global
  maxconn 500
  tune.bufsize 131072
  tune.http.maxhdr 256
defaults
  mode http
  timeout connect 2s
  timeout client 5s
  timeout server 5s
  timeout http-request 5s
  timeout tunnel 5s
  option forwardfor
  http-reuse never
  retries 0
"""
    ]
    parts += [
        f"""
listen on{slot.port}
  bind 127.0.0.1:{slot.port}
  server backend 127.0.0.1:{slot.backend_port}
"""
        for slot in slots
    ]
    return "".join(parts)


def _nginx(slots: Sequence[Slot], folder: Path) -> str:
    """As its manual would have a reverse proxy with WebSocket, streaming both ways."""
    servers = "".join(
        f"""
  server {{
    listen 127.0.0.1:{slot.port};
    location / {{ proxy_pass http://127.0.0.1:{slot.backend_port}; }}
  }}"""
        for slot in slots
    )
    paths = "".join(
        f"  {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 500; }}
http {{
  access_log off;
{paths}  large_client_header_buffers 8 128k;
  client_max_body_size 0;
  proxy_buffer_size 64k;
  proxy_buffers 8 64k;
  proxy_busy_buffers_size 128k;
  proxy_http_version 1.1;
  proxy_request_buffering off;
  proxy_buffering off;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  proxy_set_header Host $http_host;
  proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection $connection_upgrade;
  proxy_set_header X-Forwarded-For $remote_addr;
  keepalive_timeout 5s;
  client_header_timeout 5s;
  client_body_timeout 5s;
  proxy_read_timeout 5s;{servers}
}}
"""


HAPROXY: Final = Peer(
    "haproxy", "2.6", _haproxy, lambda program, config: [str(program), "-db", "-f", str(config)]
)
NGINX: Final = Peer(
    "nginx", "1.22", _nginx,
    lambda program, config: [str(program), "-p", str(config.parent), "-e", "stderr",
                             "-c", str(config)],
)  # fmt: skip
