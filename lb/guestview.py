"""What the guests say of their own CPU, for display beside what the host sees.

Reads each guest's `/metrics` now and then. Nothing here is ever decided on: scaling looks at
libvirt alone, and a guest that does not answer is simply missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from lb.tasks import cancel, spawn

INTERVAL_S = 3.0
"""Rendering its metrics costs an emulated guest some 20 ms of CPU: less than a per cent at 3 s."""
TIMEOUT_S = 2.0
LARGEST_ANSWER = 1 << 20
METRIC = "guest_cpu_seconds"
IDLE_MODES = frozenset({"idle", "iowait"})


@dataclass(frozen=True, slots=True)
class GuestCpu:
    """A guest's own counters: seconds its CPUs were busy since its boot."""

    at: float
    busy_s: float


def busy_seconds(exposition: str) -> float | None:
    """Σ of `guest_cpu_seconds_total` over all modes but idle and iowait; None without the metric.

    `guest` and `guest_nice` are part of `user` and `nice` in /proc/stat, so they do not count.
    """
    busy, found = 0.0, False
    for family in text_string_to_metric_families(exposition):
        if family.name != METRIC:
            continue
        for sample in family.samples:
            mode = sample.labels.get("mode", "")
            if sample.name == f"{METRIC}_total" and not mode.startswith("guest"):
                found = True
                busy += 0.0 if mode in IDLE_MODES else sample.value
    return busy if found else None


def busy_cores(before: GuestCpu | None, after: GuestCpu) -> float | None:
    """Cores busy between two readings, in the guest's own view; None where that cannot be told."""
    if before is None or after.at <= before.at or after.busy_s < before.busy_s:
        return None
    return (after.busy_s - before.busy_s) / (after.at - before.at)


class GuestView:
    """Polls the guests that `addresses` names (VM → host:port) and remembers cores busy by VM."""

    def __init__(
        self,
        addresses: Callable[[], Mapping[str, str]],
        clock: Callable[[], float] = time.monotonic,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._addresses = addresses
        self._clock = clock
        self._interval_s = interval_s
        self._readings: dict[str, GuestCpu] = {}
        self._cores: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def cores(self) -> Mapping[str, float]:
        """Cores busy by VM, as of the last two readings."""
        return self._cores

    async def start(self) -> None:
        self._task = spawn(self._run(), name="guest view")

    async def stop(self) -> None:
        await cancel(self._task)

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while True:
                addresses = dict(self._addresses())
                self._forget_all_but(addresses)
                await asyncio.gather(
                    *(self._read(session, vm, address) for vm, address in addresses.items())
                )
                await asyncio.sleep(self._interval_s)

    def _forget_all_but(self, vms: Iterable[str]) -> None:
        kept = set(vms)
        self._readings = {vm: r for vm, r in self._readings.items() if vm in kept}
        self._cores = {vm: c for vm, c in self._cores.items() if vm in kept}

    async def _read(self, session: aiohttp.ClientSession, vm: str, address: str) -> None:
        try:
            # a guest is not trusted: it must not send us on to somebody else
            url = f"http://{address}/metrics"
            async with session.get(url, allow_redirects=False) as response:
                body = bytearray()
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > LARGEST_ANSWER:
                        raise ValueError("too long to be a guest's metrics")  # noqa: TRY301
            busy_s = busy_seconds(body.decode("utf-8", "replace"))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            busy_s = None  # not an application of that kind, or too busy to say: missing
        if busy_s is None:
            self._cores.pop(vm, None)
            self._readings.pop(vm, None)
            return
        reading = GuestCpu(self._clock(), busy_s)
        cores = busy_cores(self._readings.get(vm), reading)
        self._readings[vm] = reading
        if cores is not None:
            self._cores[vm] = cores
