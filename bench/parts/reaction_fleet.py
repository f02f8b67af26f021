"""The fleet of `bench reaction`: a real `lbctl up` with real virtual machines, and its start state.

Owns the configuration, waiting until everything is as it was, and killing a guest. It must not
measure: that is what the load and the journal say.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from bench.parts.reaction_figures import Event, Sent
from bench.parts.reaction_load import replica_of
from bench.parts.up import Up, guests, lbctl_up
from loadtest.closed import saturate

SERVICE = "web"
CONFIG = """
[proxy]
listen = "127.0.0.1:{port}"
[proxy.timeouts]
first_byte = "1m"
[admin]
listen = "127.0.0.1:0"
[service.web]
max_in_flight = 4
[service.web.queue]
length = 20000
max_wait = "1m"
[service.web.vm]
cpu_limit = 0.4
snapshot = "%(snapshot)s"
[service.web.scale]
min = 1
max = 2
standby = %(standby)d
"""
"""What is not a default: two machines on two cores; as many requests at once as keep their one
virtual CPU busy, and the others wait where both can take them; a line long enough that no request
of an overload is refused. The planner's settings are all defaults."""
WAYS = {"standby": (1, "auto"), "wake": (1, "auto"), "snapshot": (0, "auto"), "cold": (0, "off")}
"""`standby` and `snapshot` of the configuration."""
BOOT_S = 120.0
CALIBRATION_CONNECTIONS = 4
CALIBRATION_S = 8.0
ASK_AGAIN_S = 0.05
"""Where there is an answer at once: the replica's work is the load's."""
CALM_S = 4.0
"""After calibrating, and between rounds: CPU figures and queues forget what was."""


class Fleet:
    """Of one way into service."""

    def __init__(self, up: Up, way: str) -> None:
        self._up = up
        self._way = way
        self._has_saved = False
        self.url = f"http://127.0.0.1:{up.port}/render?work=1"

    async def at_start(self) -> str:
        """Wait until one replica serves and the reserve is full; order that where it is not so by
        itself. The name of the replica."""
        await self._order("fixed", 1)
        standbys, snapshot = WAYS[self._way]

        def settled(vms: list[dict[str, Any]]) -> bool:
            states = sorted((vm["state"], vm["role"]) for vm in vms)
            return states == [("ready", "replica")] + [("standby", "standby")] * standbys

        await self._until(settled, "the fleet does not come back to its start")
        await self._up.all_ready()
        if snapshot == "auto":
            await self._saved(settled)
        await self._order("auto")
        return str(next(vm["name"] for vm in await self._vms() if vm["role"] == "replica"))

    async def _saved(self, settled: Callable[[list[dict[str, Any]]], bool]) -> None:
        """A guest to copy is there."""
        until = time.monotonic() + BOOT_S
        while not self._has_saved:
            # looked for once: later the newest events do not reach back so far
            self._has_saved = any(e.kind == "snapshot.made" for e in await self.events())
            if time.monotonic() > until:
                raise SystemExit("reaction: no guest is saved to be copied")
            await asyncio.sleep(0.2)
        await self._until(settled, "the fleet does not come back to its start")

    async def capacity(self) -> float:
        """Requests per second of one replica, under its CPU limit."""
        await self._order("fixed", 1)
        # the limit is set a moment after it serves
        await asyncio.sleep(CALM_S)
        found = await saturate(self.url, CALIBRATION_CONNECTIONS, CALIBRATION_S, warm_up=2.0)
        if not found.completed:
            raise SystemExit("reaction: the first replica answers nothing")
        await asyncio.sleep(CALM_S)
        await self._order("auto")
        return found.per_second

    @contextlib.asynccontextmanager
    async def asked(self) -> AsyncIterator[list[Sent]]:
        """Meanwhile somebody asks, and asks again once answered: so that at each moment one request
        waits for whoever comes. It costs next to no work. Gives the list that it adds to."""
        answers: list[Sent] = []
        asking = asyncio.create_task(self._ask_on(answers))
        try:
            yield answers
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask_on(self, answers: list[Sent]) -> None:
        question = b"GET /healthz HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"
        while True:
            at = time.time()
            reader, writer = await asyncio.open_connection("127.0.0.1", self._up.port)
            writer.write(question)
            head = (await reader.read()).partition(b"\r\n\r\n")[0]
            writer.close()
            status = int(head.split(b" ", 2)[1]) if head else 0
            answers.append(Sent(at, time.time(), status, replica_of(head), "asked"))
            await asyncio.sleep(ASK_AGAIN_S)

    async def events(self) -> list[Event]:
        """The newest of the journal, oldest first."""
        page = await asyncio.to_thread(self._up.admin.events, None, 400, None)
        return [Event(e["at"], e["kind"], e["subject"]) for e in page["events"]]

    def kill(self, name: str) -> float:
        """SIGKILL for the QEMU of this VM; the Unix time of that."""
        tag = name.encode()
        found = [pid for pid, command in guests(self._up.home).items() if tag in command]
        if len(found) != 1:
            raise SystemExit(f"reaction: {len(found)} processes run {name}")
        killed = time.time()
        os.kill(found[0], signal.SIGKILL)
        return killed

    async def _until(self, happened: Callable[[list[dict[str, Any]]], bool], words: str) -> None:
        until = time.monotonic() + BOOT_S
        while not happened(vms := await self._vms()):
            if time.monotonic() > until:
                said = ", ".join(f"{v['name']} {v['role']} {v['state']}" for v in vms)
                raise SystemExit(f"reaction: {words}: {said}")
            await asyncio.sleep(0.2)

    async def _vms(self) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._up.admin.vms)

    async def _order(self, mode: str, to: int | None = None) -> None:
        await asyncio.to_thread(self._up.admin.set_scale, SERVICE, mode, to)


@contextlib.asynccontextmanager
async def fleet(way: str, images: Path) -> AsyncIterator[Fleet]:
    """A proxy of its own with its VMs, all gone at the end."""
    standbys, snapshot = WAYS[way]
    config = CONFIG % {"standby": standbys, "snapshot": snapshot}
    async with lbctl_up(config, images=images, arguments=["--retire-vms"]) as up:
        yield Fleet(up, way)
