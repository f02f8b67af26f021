"""HAProxy, nginx and our own proxy before the same backends, doing the same: who is compared.

Equal features: least-requests, kept connections both ways, X-Forwarded-*, Forwarded, Via and a
request id of each request's own (`bench.parts.equal` looks what arrives), counters per backend, no
access log, one thread. Each has one port in the clear and one for TLS, and is pinned to one core.
They are ended by their own process, and by the kernel where this one is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.parts.fast_backend import LISTENING
from bench.parts.machine import program, version_of
from bench.parts.up import LBCTL, free_port, lbctl_up
from lb import self_signed

NAMES: Final = ("haproxy", "nginx", "ours")
START_S: Final = 15.0
PATIENCE_S: Final = 30.0
"""With a program that should have ended."""
MOST_CLIENTS: Final = 15_000

HAPROXY: Final = """
global
  nbthread 1
  no strict-limits
  maxconn {clients}
  stats socket {folder}/stats.sock
defaults
  mode http
  timeout connect 2s
  timeout client 10m
  timeout server 60s
  timeout http-request 10m
  timeout http-keep-alive 10m
  option forwardfor
  option http-keep-alive
  http-reuse always
  unique-id-format %{{+X}}o%ci%cp%fi%fp%Ts%rt
  unique-id-header X-Request-Id
frontend clear
  bind 127.0.0.1:{port} backlog 4096
  http-request set-header X-Forwarded-Port {port}
  http-request set-header X-Forwarded-Proto http
  http-request set-header Forwarded "for=%[src];host=\\"%[req.hdr(host)]\\";proto=http"
  default_backend web
frontend secret
  bind 127.0.0.1:{tls_port} backlog 4096 ssl crt {folder}/both.pem
  http-request set-header X-Forwarded-Port {tls_port}
  http-request set-header X-Forwarded-Proto https
  http-request set-header Forwarded "for=%[src];host=\\"%[req.hdr(host)]\\";proto=https"
  default_backend web
backend web
  balance leastconn
  option httpchk GET /readyz
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request add-header Via "1.1 haproxy"
  http-response add-header Via "1.1 haproxy"
{servers}
"""

NGINX: Final = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid;
error_log {folder}/errors crit; worker_rlimit_nofile {files};
events {{ worker_connections {files}; }}
http {{
  access_log off; server_tokens off;
  keepalive_requests 1000000000; keepalive_timeout 600s; client_header_timeout 600s;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  upstream web {{
    zone web 64k;
    least_conn;
{servers}
    keepalive 256; keepalive_requests 1000000000;
  }}
  ssl_certificate {folder}/tls/self-signed.pem;
  ssl_certificate_key {folder}/tls/self-signed.key;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{tls_port} ssl backlog=4096;
    location /nginx_status {{ stub_status; }}
    location / {{
      proxy_pass http://web;
      proxy_http_version 1.1;
      proxy_request_buffering off; proxy_max_temp_file_size 0; client_max_body_size 0;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Port $server_port;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header Forwarded "for=$remote_addr;host=\\"$http_host\\";proto=$scheme";
      proxy_set_header X-Request-Id $request_id;
      proxy_set_header Via "1.1 nginx";
      add_header Via "1.1 nginx";
    }}
  }}
}}
"""

OURS: Final = """
hypervisor = []
[proxy]
upstream_connections = 65536
{options}
[[proxy.listen]]
address = "127.0.0.1:{{port}}"
tls = "off"
[[proxy.listen]]
address = "127.0.0.1:{tls_port}"
tls = "on"
[proxy.tls]
certificates = [{{cert = "{folder}/tls/self-signed.pem", key = "{folder}/tls/self-signed.key"}}]
[proxy.timeouts]
head = "10m"
idle = "10m"
[proxy.limits]
connections = {clients}
[admin]
listen = "127.0.0.1:0"
[service.web]
backends = [{servers}]
max_in_flight = 100000
"""
"""Slow clients are let be for as long as HAProxy and nginx are told to, for they are what
`bench connections` holds."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """One that runs. `name` is one of `NAMES`."""

    name: str
    port: int
    tls_port: int
    pid: int


@dataclass(frozen=True, slots=True)
class Ground:
    """What they share: a folder with a certificate, backends, and the core that a proxy has for
    itself."""

    folder: Path
    backends: tuple[int, ...]
    proxy_core: int
    clients_core: int
    options: tuple[str, ...] = ()
    """Further lines for our [proxy], such as `fast_lane = false`."""
    profile: Path | None = None
    """Ours runs under cProfile, which leaves its findings there."""


def pinned(core: int | str, *words: str) -> list[str]:
    """On that core (or those, "0,1") alone, and ended with the process that started it."""
    return ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(core), *words]


def cores() -> tuple[int, int]:
    """(the proxy's, everybody else's): the last two that we may use. SystemExit 2 with one only."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        print("two cores are needed: one for the proxy, one for the rest", file=sys.stderr)
        raise SystemExit(2)
    return allowed[-1], allowed[-2]


def versions(names: Sequence[str]) -> dict[str, str]:
    return {name: version_of(name) for name in names if name != "ours"}


@contextlib.asynccontextmanager
async def ground(
    backends: int = 3, *, options: Sequence[str] = (), profile: Path | None = None
) -> AsyncIterator[Ground]:
    """The backends, running, and what the proxies need; all gone at the end. This process moves to
    the clients' core, for its own work is theirs."""
    proxy_core, clients_core = cores()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {clients_core})
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            cert, key = self_signed.ensure(folder)
            both = folder / "both.pem"
            both.touch(mode=0o600)
            both.write_bytes(cert.read_bytes() + key.read_bytes())
            ports = tuple(free_port() for _ in range(backends))
            async with _fast_backend(ports, clients_core):
                yield Ground(folder, ports, proxy_core, clients_core, tuple(options), profile)
    finally:
        os.sched_setaffinity(0, before)


@contextlib.asynccontextmanager
async def _fast_backend(ports: Sequence[int], core: int) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *pinned(core, sys.executable, "-m", "bench.parts.fast_backend", *map(str, ports)),
        stdout=asyncio.subprocess.PIPE,
    )
    async with ended(process):
        said = b""
        if process.stdout is not None:
            async with asyncio.timeout(START_S):
                said = await process.stdout.readline()
        if said.decode().strip() != LISTENING:
            raise SystemExit("the backend does not start")
        yield


@contextlib.asynccontextmanager
async def ended(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """The process lives no longer than this."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def running(name: str, on: Ground) -> AsyncIterator[Proxy]:
    """That proxy, once it serves; SystemExit where it does not start."""
    if name == "ours":
        async with _ours(on) as proxy:
            yield proxy
        return
    port, tls_port = free_port(), free_port()
    config = on.folder / f"{name}.conf"
    text = haproxy_config if name == "haproxy" else nginx_config
    config.write_text(text(port, tls_port, on))
    words = [program("haproxy"), "-q", "-db", "-f", str(config)]
    if name == "nginx":
        words = [program("nginx"), "-p", str(on.folder), "-c", str(config)]
        words += ["-e", f"{on.folder}/errors"]
    log = on.folder / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *pinned(on.proxy_core, *words), stdout=output, stderr=output
        )
    async with ended(process):
        if not await _answers(process, port):
            raise SystemExit(f"{name} does not start: {log.read_text(errors='replace')[-1000:]}")
        yield Proxy(name, port, tls_port, process.pid)


def haproxy_config(port: int, tls_port: int, on: Ground) -> str:
    servers = "\n".join(
        f"  server web{at} 127.0.0.1:{backend} check inter 1s"
        for at, backend in enumerate(on.backends)
    )
    return HAPROXY.format(
        port=port, tls_port=tls_port, folder=on.folder, servers=servers, clients=MOST_CLIENTS
    )


def nginx_config(port: int, tls_port: int, on: Ground) -> str:
    servers = "\n".join(f"    server 127.0.0.1:{backend};" for backend in on.backends)
    return NGINX.format(
        port=port, tls_port=tls_port, folder=on.folder, servers=servers, files=files_allowed()
    )


def our_config(tls_port: int, on: Ground) -> str:
    """With {port} left for whoever starts it."""
    return OURS.format(
        tls_port=tls_port,
        folder=on.folder,
        servers=", ".join(f'"127.0.0.1:{backend}"' for backend in on.backends),
        options="\n".join(on.options),
        clients=MOST_CLIENTS,
    )


@contextlib.asynccontextmanager
async def _ours(on: Ground) -> AsyncIterator[Proxy]:
    tls_port = free_port()
    lbctl: Sequence[str] = LBCTL
    if on.profile is not None:
        lbctl = (sys.executable, "-m", "bench.parts.profiled", str(on.profile))
    command = pinned(on.proxy_core, *lbctl)
    async with lbctl_up(our_config(tls_port, on), command=command) as up:
        await up.all_ready()
        yield Proxy("ours", up.port, tls_port, up.pid)


async def _answers(process: asyncio.subprocess.Process, port: int) -> bool:
    """Wait until its backends answer through it; False where it ended instead, or took too long."""
    until = time.monotonic() + START_S
    while process.returncode is None and time.monotonic() < until:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            status, _, _ = await asked(port, "/42")
            if status == 200:
                return True
        await asyncio.sleep(0.02)
    return False


async def program_output(words: Sequence[str], seconds: float) -> str:
    """What a `pinned` program prints. Raises ValueError where it fails or does not end; then it is
    gone all the same."""
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(seconds + PATIENCE_S):
            said, complaint = await process.communicate()
    except TimeoutError:
        raise ValueError(f"{words[6]} does not end") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode:
        raise ValueError(f"{words[6]} failed: {(complaint or said).decode()[-300:]}")
    return said.decode()


async def asked(port: int, target: str) -> tuple[int, bytes, bytes]:
    """(status, head, body) of one request on a connection of its own. Raises OSError,
    IncompleteReadError, ValueError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: bench.example\r\n\r\n".encode())
        async with asyncio.timeout(START_S):
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            return int(head.split()[1]), head, await reader.readexactly(int(length or b"0"))
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def files_allowed() -> int:
    """Open files that a process may ask for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if hard == resource.RLIM_INFINITY else min(hard, 1_000_000)
