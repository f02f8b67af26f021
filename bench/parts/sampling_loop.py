"""A proxy and a host of a thousand domains in one process, as `lbctl up` has them, and how late its
event loop is while the host is sampled.

`python -m bench.parts.sampling_loop CONFIG HOME DOMAINS` says its proxy's port, then, at a line on
its standard input, samples once a second through `autoscale.hypervisor` until the next line, and
prints `Sampled` as JSON. The domains are libvirt's test driver's: nothing runs in them, and they
have a state, but no counters of CPU time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import uvloop

from autoscale.domain_xml import Identity, identity_element
from autoscale.host import Domain
from autoscale.hypervisor import LibvirtHypervisor
from lb.config_file import read_text
from lb.installation import Installation
from lb.service import Balancer
from loadtest.timer import WakeUp

TICK_S: Final = 0.001
EVERY_S: Final = 1.0
CONTROL_S: Final = 0.5
"""So long after each call the loop is looked at again, for as long as the call took."""
INSTANCE: Final = "bench"


@dataclass(frozen=True, slots=True)
class Call:
    """One listing of every domain. Seconds."""

    took_s: float
    lag_s: float
    """How late the loop was at worst, while it ran."""
    control_s: float
    """And in a stretch of the same length without one."""


@dataclass(frozen=True, slots=True)
class Sampled:
    domains: int
    first_s: float
    """The first listing, in which each domain is asked whose it is."""
    calls: list[Call]
    lags_s: list[float]
    """p50, p99, and the most of all ticks."""


def node_xml(domains: int) -> str:
    """A host for `test://FILE` with so many domains of ours."""
    each = "".join(
        f"<domain type='test'><name>web-{at:06}</name>"
        f"<metadata>{ET.tostring(identity_element(identity(at)), encoding='unicode')}</metadata>"
        "<memory>65536</memory><vcpu>1</vcpu><os><type arch='x86_64'>hvm</type></os></domain>"
        for at in range(domains)
    )
    return (
        "<node><cpu><mhz>2000</mhz><model>x86_64</model><active>64</active><nodes>1</nodes>"
        "<sockets>1</sockets><cores>64</cores><threads>1</threads></cpu>"
        f"<memory>1073741824</memory>{each}</node>"
    )


def identity(at: int) -> Identity:
    return Identity(INSTANCE, "web", "generation-1", 8080, 1.0, 1.7e9, host_port=20000 + at)


class Ticker:
    """How late is each of a thousand ticks a second?"""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, float]] = []
        """When it was due, and how late it came."""
        self._timer = WakeUp(asyncio.get_running_loop(), self._tick)
        self._due = time.monotonic() + TICK_S
        self._timer.arm(TICK_S)

    def _tick(self) -> None:
        now = time.monotonic()
        self.ticks.append((self._due, now - self._due))
        # the ticks that were missed meanwhile would have been late by less
        self._due = now + TICK_S
        self._timer.arm(TICK_S)

    def close(self) -> None:
        self._timer.close()


def worst(ticks: list[tuple[float, float]], begin: float, end: float) -> float:
    """The most that a tick was late that was due, or came, between these; 0 without any."""
    return max((late for due, late in ticks if due <= end and due + late >= begin), default=0.0)


async def sample(host: LibvirtHypervisor, domains: int, until: asyncio.Event) -> Sampled:
    began = time.monotonic()
    await _observed(host, domains)
    first_s = time.monotonic() - began
    ticker, calls = Ticker(), []
    while not until.is_set():
        began = time.monotonic()
        await _observed(host, domains)
        ended = time.monotonic()
        await asyncio.sleep(EVERY_S - (ended - began))
        calls.append((began, ended))
    ticker.close()
    lags = sorted(late for _, late in ticker.ticks)
    return Sampled(
        domains=domains,
        first_s=first_s,
        calls=[
            Call(
                ended - began,
                worst(ticker.ticks, began, ended),
                worst(ticker.ticks, began + CONTROL_S, ended + CONTROL_S),
            )
            for began, ended in calls
        ],
        lags_s=[lags[len(lags) // 2], lags[int(len(lags) * 0.99)], lags[-1]],
    )


async def _observed(host: LibvirtHypervisor, domains: int) -> tuple[Domain, ...]:
    found = await host.observe()
    if len(found) != domains:
        raise SystemExit(f"{len(found)} of {domains} domains are seen")
    return found


async def run(config: str, home: Path, domains: int) -> None:
    node = home / "node.xml"
    node.write_text(node_xml(domains))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    with Installation(home) as installation:
        balancer = Balancer(read_text(config, home), installation)
        host = LibvirtHypervisor(
            "many", f"test://{node}", instance=INSTANCE, home=home, network="network:default"
        )
        await balancer.start()
        try:
            await host.open()
            print(balancer.urls[0], flush=True)
            await reader.readline()
            until = asyncio.Event()
            sampling = asyncio.create_task(sample(host, domains, until))
            await reader.readline()
            until.set()
            print(json.dumps(asdict(await sampling)), flush=True)
        finally:
            await host.close()
            await balancer.stop()


if __name__ == "__main__":
    config_path, home_path, number = sys.argv[1:]
    uvloop.run(run(Path(config_path).read_text(), Path(home_path), int(number)))
