"""What is asked of the hypervisors for one VM: start, wake, rest, save, limit, mark. One call at a
time for each, beside everything else.

Owns the awaiting. It must not decide when anything is asked (`fleet` does): what came of a call it
tells through `Told`, between two awaits.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol
from uuid import UUID

from autoscale.host import (
    DomainRefused,
    Hypervisor,
    HypervisorError,
    LimitUnsupported,
    NoSuchDomain,
    SnapshotUnusable,
)
from autoscale.reserve import LOW_WEIGHT
from autoscale.vm import SERVING, BootFiles, Role, Vm, VmShape, spec_of

log = logging.getLogger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None], str], object]
Check = Callable[[str], Awaitable[bool]]
"""Is the application at this address ready?"""


REHEARSALS = 16
"""So many questions before a standby is suspended. The first ones that an emulated guest answers
cost it 70 to 100 ms of CPU, for its emulator translates what it has never run; later ones take 10
to 20. Woken without them, six first answers took 34 to 113 ms; with them 21 to 40."""


class Told(Protocol):
    """What the fleet is told of a call that is over."""

    def created(self, vm: Vm) -> None: ...

    def not_created(self, vm: Vm, error: Exception, *, exists: bool) -> None: ...

    def no_copy(self, vm: Vm, error: SnapshotUnusable) -> None:
        """It cannot be started as a copy; there is no domain."""

    def has_address(self, vm: Vm, address: str) -> None: ...

    def woken(self, vm: Vm) -> None: ...

    def rests(self, vm: Vm) -> None: ...

    def saved(self, vm: Vm, key: str) -> None: ...

    def not_saved(self, vm: Vm, key: str, error: HypervisorError) -> None: ...

    def no_limits(self, vm: Vm, error: LimitUnsupported) -> None: ...


class Acts:
    """Every coroutine here is to be run by `do`."""

    def __init__(
        self,
        hosts: Mapping[str, Hypervisor],
        told: Told,
        spawn: Spawn,
        check: Check,
        new_seed: Callable[[], bytes],
    ) -> None:
        self._hosts = hosts
        self._told = told
        self._spawn = spawn
        self._check = check
        self._new_seed = new_seed

    def do(self, vm: Vm, work: Coroutine[Any, Any, None], what: str) -> None:
        """One call for one VM, beside us. After a failure the next tick tries again."""
        vm.busy = True
        self._spawn(self._done(vm, work, what), f"{what} {vm.name}")

    async def _done(self, vm: Vm, work: Coroutine[Any, Any, None], what: str) -> None:
        try:
            await work
        except NoSuchDomain:
            pass  # the next listing shows it gone
        except (HypervisorError, OSError) as error:
            log.warning("%s %s: %s", what, vm.name, error)
        finally:
            vm.busy = False

    def host(self, vm: Vm) -> Hypervisor:
        return self._hosts[vm.host]

    # ── starting ─────────────────────────────────────────────────────────────────────────────

    async def create(
        self, vm: Vm, uuid: UUID, shape: VmShape, files: Callable[[], BootFiles], key: str | None
    ) -> None:
        """Start it: as a copy of what is saved under `key`, or by booting."""
        try:
            spec = spec_of(vm, uuid, shape, files())
            if key is None:
                vm.identity = await self.host(vm).create(spec)
            else:
                vm.identity = await self.host(vm).restore(spec, key)
        except SnapshotUnusable as error:
            self._told.no_copy(vm, error)
            return
        except Exception as error:
            # whatever it is, a VM whose creation is over must not stay "being created" for ever
            if not isinstance(error, HypervisorError):
                log.exception("creating %s", vm.name)
            # refused: it does not exist. Anything else (a call that timed out): it may
            self._told.not_created(vm, error, exists=not isinstance(error, DomainRefused))
            return
        self._told.created(vm)
        if vm.role is not Role.REPLICA:
            await self.weigh(vm, LOW_WEIGHT)
        await self.prepare(vm)

    async def prepare(self, vm: Vm) -> None:
        """Find its address; tell a copy who it is; ask one that is for later whether it is ready.
        As far as that goes now; the next tick goes on."""
        address = vm.address or await self.host(vm).address(vm.name, vm.identity)
        if address is None:
            return
        if not vm.introduced:
            await self.host(vm).introduce(vm.name, vm.name, self._new_seed())
            vm.introduced = True
            vm.checked = True  # it was ready when it was saved, and it answers
        if vm.role is not Role.REPLICA and not vm.checked:
            vm.checked = await self._check(address)
        self._told.has_address(vm, address)

    # ── waiting, waking, saving ──────────────────────────────────────────────────────────────

    async def wake(self, vm: Vm) -> None:
        await self.host(vm).resume(vm.name)
        if vm.address is None:  # adopted while it slept
            vm.address = await self.host(vm).address(vm.name, vm.identity)
        if vm.address is None:
            return
        await self._set_time(vm)  # its clock stood still
        self._told.woken(vm)

    async def rest(self, vm: Vm) -> None:
        """Stop it where it stands; its metadata says first what it is, for a successor."""
        await self.mark(vm)
        await self._rehearse(vm)
        if not vm.wakes:
            await self.host(vm).suspend(vm.name)
            self._told.rests(vm)
        if vm.wakes:  # called for meanwhile
            await self.wake(vm)

    async def _rehearse(self, vm: Vm) -> None:
        """Do with it now what its waking will do, until that is no slower than it has to be."""
        await self._set_time(vm)
        for _ in range(REHEARSALS):
            if vm.wakes or vm.address is None or not await self._check(vm.address):
                return
        await self._set_time(vm)

    async def _set_time(self, vm: Vm) -> None:
        try:
            await self.host(vm).set_time(vm.name)
        except HypervisorError as error:
            log.info("%s", error)  # an image without an agent serves all the same

    async def save(self, vm: Vm, key: str) -> None:
        try:
            await self.host(vm).save(vm.name, key)
        except HypervisorError as error:
            self._told.not_saved(vm, key, error)
            return
        self._told.saved(vm, key)

    # ── settings ─────────────────────────────────────────────────────────────────────────────

    async def mark(self, vm: Vm) -> None:
        """Its metadata says what it is there for."""
        identity = vm.identity.with_role(vm.role.value).with_phase(SERVING)
        identity = identity.with_protection(vm.protected).with_path(vm.path.value)
        if identity != vm.identity:
            await self.host(vm).set_identity(vm.name, identity)
            vm.identity = identity

    async def mark_draining(self, vm: Vm) -> None:
        identity = vm.identity.with_role(vm.role.value).with_phase("draining")
        await self.host(vm).set_identity(vm.name, identity)
        vm.identity = identity

    async def limit(self, vm: Vm, cores: float | None) -> None:
        vm.limit_cores = None  # a call that times out may have set it, or not
        try:
            await self.host(vm).set_cpu_limit(vm.name, cores)
            vm.limit_cores = cores
        except LimitUnsupported as error:
            self._told.no_limits(vm, error)

    async def weigh(self, vm: Vm, weight: int) -> None:
        before, vm.weight = vm.weight, weight
        try:
            await self.host(vm).set_cpu_weight(vm.name, weight)
        except LimitUnsupported as error:
            log.info("%s: %s", vm.name, error)  # so it has the usual one: nothing depends on it
        except HypervisorError:
            # a first one may have been set: taken for so, and taken back in time
            vm.weight = weight if before is None else before
            raise
