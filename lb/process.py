"""`lbctl up` as a process: its signals, its limit of open files, its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
from pathlib import Path
from typing import Final

import uvloop

from lb.config import Config, ConfigError
from lb.errors import LbError
from lb.hosts import reap_guests
from lb.installation import Installation
from lb.service import Balancer
from lb.tasks import spawn

log = logging.getLogger(__name__)

FILES: Final = 65536
"""Open files we ask for, as far as the hard limit allows."""


def run(config: Config, home: Path, retire_vms: bool, config_path: Path | None) -> int:
    """Serve until SIGTERM or SIGINT. Raises ConfigError or LbError where it cannot start."""
    _raise_file_limit()
    reap_guests(config.hypervisor, home)
    with Installation(home) as installation:
        return uvloop.run(_serve(config, installation, retire_vms, config_path))


def _raise_file_limit() -> None:
    """Each request is a client's connection and a backend's: the usual 1024 files are soon gone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(
    config: Config, installation: Installation, retire_vms: bool, config_path: Path | None
) -> int:
    balancer = Balancer(config, installation, config_path=config_path)
    loop, ending = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        if ending.is_set():
            log.warning("asked to end again: running requests are cut")
            balancer.hurry()
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, _reload, balancer)
    await balancer.start()
    # What stands now stands to the end. Without this, collections of everything that was ever
    # imported stopped an overloaded proxy for 45 to 113 ms, every two seconds. None before it
    # either: that would be 55 ms in which the hosts are to be opened, for 2000 objects of 100 000.
    gc.freeze()
    gc.enable()
    log.info("serving at %s", ", ".join(balancer.urls))
    await ending.wait()
    log.info("stopping%s", ", and retiring the VMs" if retire_vms else "; the VMs stay")
    await balancer.stop(retire_vms=retire_vms)
    return 0


def _reload(balancer: Balancer) -> None:
    async def apply() -> None:
        with contextlib.suppress(ConfigError, LbError):  # the log says why
            await balancer.apply_config()

    spawn(apply(), name="reload")
