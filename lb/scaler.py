"""One service's machines: its fleet, its controller, and the task that they run in.

Builds them from the configuration, starts them, gives them new settings and an operator's orders,
and ends them. How many machines there should be is the controller's to decide.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from autoscale.controller import Controller, LoopClock
from autoscale.decision import Decision
from autoscale.fleet import VmFleet
from autoscale.host import Hypervisor, ImageUnavailable, NoSuchImage
from autoscale.model import Demand, Happening, Reason, VmState
from autoscale.model import Path as Way
from autoscale.rollout import Rollout
from autoscale.rules import Mode, Override
from autoscale.vm import BootFiles, Role, VmShape
from guest.image import ImageError, NoImageError
from guest.own.image import OwnImage
from guest.own.image import find as find_image
from lb import rollout_words
from lb.admin.control import RefusedError, ScaleOrder
from lb.config import ScaleConfig, ServiceConfig, VmConfig
from lb.decisions import DecisionLog, Decisions
from lb.desired_file import DesiredFile
from lb.forecast_file import ForecastFile
from lb.overrides import Overrides, in_words
from lb.pool import Pool
from lb.probe import Manner, probe
from lb.rollouts import Rollouts
from lb.scale_rules import rules_of
from lb.scaler_rollout import ScalerRollout
from lb.tasks import cancel, spawn

log = logging.getLogger(__name__)

SOON_S: Final = 5.0
"""So long a request may wait where all replicas are lost and a standby or a copy comes instead: it
takes the one some 50 ms and the other 1.5 s, and the machine may be busy."""
STARTING: Final = (VmState.DEFINED, VmState.BOOTING)

SEED_BYTES: Final = 32
"""Of randomness that a copy of a saved guest is given, as much as its kernel's pool holds."""

SPARE_S: Final = 10.0
"""Beyond what the configuration grants a VM to drain and to power off."""


class Scaler:
    """Of a service whose configuration has VMs. `demand` is what its clients ask for, `manner` how
    its backends are spoken to now; `home` is where forecasts are kept, `images_home` where images
    are; `hosts`, `overrides`, `rollouts` and `decisions` are shared by all services. `note` writes
    the journal, `activated` takes the seconds of each start."""

    def __init__(
        self,
        pool: Pool,
        config: ServiceConfig,
        demand: Callable[[], Demand],
        manner: Callable[[], Manner],
        *,
        hosts: Mapping[str, Hypervisor],
        instance: str,
        home: Path,
        images_home: Path,
        overrides: Overrides,
        rollouts: Rollouts,
        decisions: Decisions,
        note: Callable[[Happening], None],
        activated: Callable[[Way, float], None],
    ) -> None:
        self._service = pool.service
        self._config = config
        self._vm = vm = config.vm or VmConfig()
        self._hosts = hosts
        self._manner = manner
        self._overrides = overrides
        self._rollouts = rollouts
        self._forecast_file = ForecastFile(home / "forecasts", pool.service)
        self._desired_file = DesiredFile(home / "desired", pool.service)
        self._note = note
        self._retiring = False
        self._said: Override | None = None
        self.image_names: dict[str, str] = {}
        """Of the images that were loaded, by checksum."""
        self._never_copied: set[str] = set()
        """Images of which it was said."""
        self._task: asyncio.Task[None] | None = None
        self.log = DecisionLog(decisions)
        self.fleet = VmFleet(
            pool.service,
            hosts,
            _shape(vm, config.scale),
            lambda image: self._files(images_home, image),
            instance=instance,
            max_existing=config.scale.max,
            clock=time.monotonic,
            wall_clock=time.time,
            new_id=uuid4,
            spawn=_spawn,
            emit=pool.apply,
            load=pool.load,
            note=note,
            check=self._is_ready,
            new_seed=lambda: secrets.token_bytes(SEED_BYTES),
            activated=activated,
            answers=pool.answers,
            rolled=self._rolled,
        )
        self.fleet.burst = config.scale.burst
        self.fleet.turnover.remember(rollouts.of(pool.service))
        self.controller = Controller(
            self.fleet,
            hosts,
            rules_of(config.scale, config.max_in_flight),
            interval_s=config.scale.sample_interval,
            clock=LoopClock(),
            wall_clock=time.time,
            demand=demand,
            note=note,
            spawn=_spawn,
            decided=self._decided,
        )
        self.fleet.on_news = self.controller.wake
        self.rollout = ScalerRollout(
            self.fleet,
            lambda: self._vm.image,
            lambda image: _boot_files(images_home, image),
            self.controller.wake,
        )
        self._go_by_rules()

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self, opening: asyncio.Task[None]) -> None:
        """Run once the hosts were opened, or could not be: the first request does not wait."""
        self.log.recall(self._service)
        self._task = spawn(self._run(opening), name=f"scaler {self.fleet.service}")

    def _files(self, home: Path, image: str) -> BootFiles:
        """What a replica boots from. Raises ImageUnavailable."""
        try:
            files = _boot_files(home, image)
        except ImageUnavailable as error:
            if image == self._vm.image:
                raise
            why = "" if isinstance(error, NoSuchImage) else str(error)
            words = rollout_words.gone(self._service, image, self._vm.image, why)
            raise type(error)(words) from error
        self.image_names[files.generation] = image
        if files.own_disk and self._vm.snapshot == "auto" and image not in self._never_copied:
            self._never_copied.add(image)
            why = f"replicas of image {image} write to disks of their own, and are never copied"
            self._note(Happening("host.no_copies", self._service, image, Reason.NO_SNAPSHOTS, why))
        return files

    async def _run(self, opening: asyncio.Task[None]) -> None:
        await asyncio.wait([opening])
        if self._config.vm is not None:
            self.fleet.turnover.configured(self._vm.image)  # it may have changed meanwhile
        learned = await self._forecast_file.load(self._config.scale.season)
        if learned is not None:
            self.controller.remember(learned)
        desired = await self._desired_file.load()
        if desired is not None:
            self.fleet.wanted_before(desired)
        saving = spawn(
            self._forecast_file.save_regularly(lambda: self.controller.forecast),
            name=f"saving the forecast of {self._service}",
        )
        try:
            await self.controller.run()
        finally:
            await cancel(saving)
            await self._forecast_file.save(self.controller.forecast)

    def configure(self, config: ServiceConfig) -> None:
        """Rules and timeouts count at once; a shape or an image is for VMs that start from now."""
        self._config = config
        self._vm = config.vm or VmConfig()
        self.fleet.shape = _shape(self._vm, config.scale)
        self.fleet.turnover.configured(self._vm.image)
        self.fleet.max_existing = config.scale.max
        self.fleet.burst = config.scale.burst
        self.controller.interval_s = config.scale.sample_interval
        self._go_by_rules()

    # ── what is asked of a replica that is in no pool ────────────────────────────────────────

    async def _is_ready(self, address: str) -> bool:
        """The prober's own question, to one that will wait instead of serving."""
        ready, _ = await probe(address, self._config.health, self._manner())
        return ready

    # ── an operator's orders ─────────────────────────────────────────────────────────────────

    def order(self, order: ScaleOrder) -> None:
        """Let it hold from now on. Raises RefusedError for a number out of bounds."""
        service, low, high = self._service, self._config.scale.min, self._config.scale.max
        before = self._overrides.of(service)
        if order.mode == "auto":
            if before is None:
                return
            self._overrides.put(service, None)
            self._tell(f"an operator takes back: {in_words(before)}; {self._who_decides()}")
        else:
            if order.to is not None and not low <= order.to <= high:
                raise RefusedError(
                    f"service {service} has {low} to {high} replicas, {order.to} is out of bounds:"
                    f" change service.{service}.scale.{'max' if order.to > high else 'min'} first"
                )
            until = None if order.for_s is None else time.time() + order.for_s
            override = Override(Mode(order.mode), order.to, until)
            self._overrides.put(service, override)
            instead = f", no longer {in_words(before)}" if before is not None else ""
            self._tell(f"an operator orders {in_words(override)}{instead}", override)
        self.log.newest = None  # it was made before, and says something else
        self._go_by_rules()

    def spawn(self) -> None:
        """One more than are wanted now, as an order. Raises RefusedError at the maximum."""
        newest = self.log.newest
        wanted = newest.desired if newest is not None else self.fleet.counts().active
        self.order(ScaleOrder("fixed", max(wanted, self._config.scale.min) + 1))

    def retire_vm(self, name: str) -> None:
        """Let this one drain and end. Raises RefusedError where it does so already, and for one of
        the last that the service must have."""
        vm = self.fleet.get(name)
        if vm is None or not vm.alive:
            raise RefusedError(f"{name} is leaving already")
        if vm.protected:
            raise RefusedError(f"{name} is protected: `lbctl vm protect {name} --off` first")
        low, active = self.controller.rules.min, self.fleet.counts().active
        if vm.serves_or_will and active <= low:
            raise RefusedError(
                f"service {self._service} has {active} of at least {low} replicas: bring one more"
                f" with `lbctl vm spawn {self._service}` first"
            )
        self.fleet.retire(name, Reason.OPERATOR)
        self.controller.wake()

    def protect_vm(self, name: str, *, protected: bool) -> None:
        """Spare this one, or no longer. Raises RefusedError for one that is leaving."""
        vm = self.fleet.get(name)
        if vm is None or not vm.alive:
            raise RefusedError(f"{name} is leaving already")
        if protected and vm.role is not Role.REPLICA:
            raise RefusedError(f"{name} is a {vm.role}: only replicas can be protected")
        self.fleet.protect(name, protected)
        self.controller.wake()

    def _rolled(self, rollout: Rollout | None) -> None:
        self._rollouts.put(self._service, rollout)
        spawn(self._rollouts.save(), name=f"remembering the rollout of {self._service}")

    def _decided(self, decision: Decision) -> None:
        now = time.time()
        self.log.decided(decision, now)
        if self._desired_file.put(decision.desired):
            spawn(self._desired_file.save(), name=f"remembering what {self._service} wants")
        override = self._overrides.of(self._service)
        if override is not None and not override.holds(now):
            self._overrides.put(self._service, None)
            self._tell(f"an operator's order has run out: {in_words(override)};"
                       f" {self._who_decides()}")  # fmt: skip
            spawn(self._overrides.save(), name=f"forgetting the override of {self._service}")
            self._go_by_rules()

    def _go_by_rules(self) -> None:
        """Those of the configuration, and of the override where there is one."""
        told = self._overrides.of(self._service)
        scale = self._config.scale
        self.controller.rules = rules = rules_of(scale, self._config.max_in_flight, told)
        now = rules.override
        if told is not None and now is not None and now != told and now != self._said:
            self._tell(
                f"an operator's order is out of bounds, which are {scale.min} to {scale.max}:"
                f" {told.to} → {now.to}",
                now,
            )
        self._said = now
        self.controller.wake()

    def _who_decides(self) -> str:
        mode = self._config.scale.mode
        if mode == "auto":
            return "the planner decides again"
        return f"mode = {mode} of the configuration counts again"

    def _tell(self, message: str, override: Override | None = None) -> None:
        facts: dict[str, float | int | str | bool | None] = {"mode": self._config.scale.mode}
        if override is not None:
            facts = {"mode": override.mode.value, "to": override.to, "until": override.until}
        service = self._service
        self._note(Happening("scale.override", service, service, Reason.OVERRIDE, message, facts))

    # ── for who waits while there is nobody ──────────────────────────────────────────────────

    def awaited(self) -> float:
        """For how many seconds a request that finds no replica may wait for one. 0 where none comes
        for it: there always should be some and all are lost, the last launches failed and none is
        due, no host answers or one was never seen, or an operator wants none."""
        rules, gate = self.controller.rules, self.fleet.gate
        if self._retiring or not self.running:
            return 0.0
        if gate.is_open and not gate.allows(self.controller.now()):
            return 0.0  # once a launch is due again, a request has to wait, or none would be tried
        down = set(self.controller.unreachable)
        if len(down) >= len(self._hosts) or self.fleet.unseen_hosts & down:
            return 0.0
        if rules.min:
            return SOON_S if self._comes_soon() else 0.0
        override = rules.override
        if override is not None and not override.holds(time.time()):
            override = None
        mode = rules.mode if override is None else override.mode
        newest = self.log.newest
        if mode is Mode.FIXED:
            comes = override is not None and bool(override.to)
        else:
            comes = mode is Mode.AUTO or newest is None or newest.desired > 0
        return self._vm.boot_timeout if comes else 0.0

    def _comes_soon(self) -> bool:
        """Whether whoever is missing is replaced quicker than a machine boots."""
        ways = self.fleet.counts().ways
        return any(way.path is not Way.COLD and way.available != 0 for way in ways) or any(
            vm.state is VmState.STANDBY or (vm.path is Way.SNAPSHOT and vm.state in STARTING)
            for vm in self.fleet.statuses()
        )

    # ── ending ───────────────────────────────────────────────────────────────────────────────

    def retire(self) -> None:
        """The configuration has no VMs here any more: they drain and end, then it stops itself."""
        self._retiring = True
        self.fleet.turnover.forget()
        self.controller.retire(Reason.OPERATOR)

    def keep(self) -> None:
        """It has some again."""
        self._retiring = False
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


def _shape(vm: VmConfig, scale: ScaleConfig) -> VmShape:
    return VmShape(
        vcpus=vm.vcpus,
        memory_mib=vm.memory_mib,
        app_port=vm.port,
        cpu_limit=vm.cpu_limit,
        boot_timeout_s=vm.boot_timeout,
        drain_timeout_s=vm.drain_timeout,
        shutdown_timeout_s=vm.shutdown_timeout,
        standby=scale.standby,
        snapshot=vm.snapshot == "auto",
        image=vm.image,
        max_lifetime_s=vm.max_lifetime,
    )


def _boot_files(home: Path, name: str) -> BootFiles:
    try:
        image = find_image(home, name)
    except NoImageError as error:
        raise NoSuchImage(str(error)) from error
    except ImageError as error:
        raise ImageUnavailable(str(error)) from error
    if isinstance(image, OwnImage):
        return BootFiles(
            generation=image.checksum,
            kernel="",
            initrd="",
            disk=image.disk.path,
            cmdline="",
            own_disk=True,
            disk_format=image.disk.format,
            disk_bytes=image.virtual_bytes,
            below=tuple((layer.path, layer.format) for layer in image.layers[1:]),
            user_data=image.user_data,
        )
    return BootFiles(
        generation=image.checksum,
        kernel=str(image.kernel),
        initrd=str(image.initrd or ""),
        disk=str(image.disk),
        cmdline=image.cmdline,
    )
