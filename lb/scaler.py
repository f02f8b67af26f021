"""One service's machines: its fleet, its controller, and the task that they run in.

Builds them from the configuration, starts them, gives them new settings, and ends them. How many
machines there should be is the controller's to decide.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from autoscale.controller import Controller, LoopClock
from autoscale.fleet import VmFleet
from autoscale.host import Hypervisor, ImageUnavailable
from autoscale.model import Decision, Happening, Reason
from autoscale.policy import Rules
from autoscale.vm import BootFiles, VmShape
from guest import image as guest_image
from lb.config import ScaleConfig, VmConfig
from lb.pool import Pool
from lb.rows import DecisionLog
from lb.tasks import spawn

log = logging.getLogger(__name__)

FRESH_INTERVALS: Final = 2.5
"""A signal older than so many sampling intervals is missing: one lost sample is forgiven."""

SPARE_S: Final = 10.0
"""Beyond what the configuration grants a VM to drain and to power off."""


class Scaler:
    """`images_home` is where images are kept; `hosts` are shared by all services. `note` writes the
    journal, `activated` takes the seconds of each start."""

    def __init__(
        self,
        pool: Pool,
        vm: VmConfig,
        scale: ScaleConfig,
        *,
        hosts: Mapping[str, Hypervisor],
        instance: str,
        images_home: Path,
        note: Callable[[Happening], None],
        activated: Callable[[float], None],
    ) -> None:
        self._vm = vm
        self._task: asyncio.Task[None] | None = None
        self.log = log_ = DecisionLog()

        def decided(decision: Decision) -> None:
            log_.decided(decision, time.time())

        self.fleet = VmFleet(
            pool.service,
            hosts,
            _shape(vm),
            lambda: _boot_files(images_home, self._vm.image),
            instance=instance,
            max_existing=scale.max,
            clock=time.monotonic,
            wall_clock=time.time,
            new_id=uuid4,
            spawn=_spawn,
            emit=pool.apply,
            load=pool.load,
            note=note,
            activated=activated,
        )
        self.controller = Controller(
            self.fleet,
            hosts,
            _rules(scale),
            interval_s=scale.sample_interval,
            clock=LoopClock(),
            note=note,
            decided=decided,
        )

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self, opening: asyncio.Task[None]) -> None:
        """Run once the hosts were opened, or could not be: the first request does not wait."""
        self._task = spawn(self._run(opening), name=f"scaler {self.fleet.service}")

    async def _run(self, opening: asyncio.Task[None]) -> None:
        await asyncio.wait([opening])
        await self.controller.run()

    def configure(self, vm: VmConfig, scale: ScaleConfig) -> None:
        """Rules and timeouts count at once; a shape or an image is for VMs that start from now."""
        self._vm = vm
        self.fleet.shape = _shape(vm)
        self.fleet.max_existing = scale.max
        self.controller.rules = _rules(scale)
        self.controller.interval_s = scale.sample_interval
        self.controller.wake()

    def retire(self) -> None:
        """The configuration has no VMs here any more: they drain and end, then it stops itself."""
        self.controller.retire(Reason.OPERATOR)

    def keep(self) -> None:
        """It has some again."""
        self.controller.keep()

    async def over(self) -> None:
        """Wait for the end: of a retirement, which takes as long as it takes, or of `stop`."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def stop(self, *, retire_vms: bool = False) -> None:
        """Let go of the VMs, or end them all first, as far as that is possible in time."""
        if self._task is None:
            return
        if retire_vms:
            self.controller.retire()
            vm = self._vm
            longest_s = vm.drain_timeout + vm.shutdown_timeout + SPARE_S
            await asyncio.wait([self._task], timeout=longest_s)
        self.controller.stop()
        await asyncio.wait([self._task])
        left = self.fleet.counts().existing
        if retire_vms and left:
            log.warning("service %s: %d VMs could not be ended in time", self.fleet.service, left)


def _spawn(work: Coroutine[Any, Any, None], name: str) -> object:
    return spawn(work, name=name)


def _shape(vm: VmConfig) -> VmShape:
    return VmShape(
        vcpus=vm.vcpus,
        memory_mib=vm.memory_mib,
        app_port=vm.port,
        cpu_limit=vm.cpu_limit,
        boot_timeout_s=vm.boot_timeout,
        drain_timeout_s=vm.drain_timeout,
        shutdown_timeout_s=vm.shutdown_timeout,
    )


def _rules(scale: ScaleConfig) -> Rules:
    return Rules(
        min=scale.min,
        max=scale.max,
        target_cpu=scale.target_cpu,
        grow_window_s=scale.grow_window,
        shrink_window_s=scale.shrink_window,
        shrink_margin=scale.shrink_margin,
        fresh_s=FRESH_INTERVALS * scale.sample_interval,
    )


def _boot_files(home: Path, name: str) -> BootFiles:
    try:
        image = guest_image.load(home, name)
    except guest_image.ImageError as error:
        raise ImageUnavailable(str(error)) from error
    return BootFiles(
        generation=image.checksum,
        kernel=str(image.kernel),
        initrd=str(image.initrd or ""),
        disk=str(image.disk),
        cmdline=image.cmdline,
    )
