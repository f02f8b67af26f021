"""What an operator may tell the fleets of all services: how many, which image, who is spared.

Owns what of it outlives the process: overrides and rollouts. Finds the scaler that is meant; what
an order means, and whether it can be, is the scaler's.
"""

from __future__ import annotations

import time
from pathlib import Path

from lb import rows
from lb.admin.control import (
    RefusedError,
    RolloutOrder,
    RolloutRow,
    ScaleOrder,
    ScaleRow,
    UnknownNameError,
)
from lb.decisions import DecisionLog
from lb.overrides import Overrides
from lb.rollouts import FILE, Rollouts
from lb.scaler import Scaler
from lb.served import Served
from lb.tasks import spawn


class FleetOrders:
    """The part of `lb.admin.control.Control` that orders."""

    def __init__(self, home: Path) -> None:
        self._services: dict[str, Served] = {}
        self._overrides = Overrides(home / "overrides.json")
        self._rollouts = Rollouts(home / FILE)

    @property
    def _scalers(self) -> dict[str, Scaler]:
        found = {name: served.scaler for name, served in self._services.items()}
        return {name: scaler for name, scaler in found.items() if scaler is not None}

    def _service(self, name: str) -> Served:
        served = self._services.get(name)
        if served is None:
            raise UnknownNameError(
                f"there is no service {name!r}: {', '.join(self._services)} is served"
            )
        return served

    def _scaler_of(self, service: str) -> Scaler:
        served = self._service(service)
        if served.leaving or served.scaler is None:
            raise RefusedError(
                f"service {service} has no VMs to scale: add [service.{service}.vm] to the"
                " configuration"
            )
        return served.scaler

    def _forget_orders(self, service: str) -> None:
        """It has left: one that takes its name later was told nothing."""
        self._overrides.put(service, None)
        self._rollouts.put(service, None)
        spawn(self._overrides.save(), name=f"forgetting the override of {service}")
        spawn(self._rollouts.save(), name=f"forgetting the rollout of {service}")

    # ── how many ─────────────────────────────────────────────────────────────────────────────

    def scale(self, service: str) -> ScaleRow:
        scaler = self._service(service).scaler
        if scaler is None:
            return rows.scale_row(service, None, DecisionLog())
        return rows.scale_row(service, scaler.controller, scaler.log, time.time())

    async def set_scale(self, service: str, order: ScaleOrder) -> ScaleRow:
        self._scaler_of(service).order(order)
        await self._overrides.save()
        return self.scale(service)

    async def spawn_vm(self, service: str) -> ScaleRow:
        self._scaler_of(service).spawn()
        await self._overrides.save()
        return self.scale(service)

    # ── which one ────────────────────────────────────────────────────────────────────────────

    async def retire_vm(self, name: str) -> None:
        self._owner(name).retire_vm(name)

    async def protect_vm(self, name: str, *, protected: bool) -> None:
        self._owner(name).protect_vm(name, protected=protected)

    def _owner(self, vm: str) -> Scaler:
        owner = next((s for s in self._scalers.values() if s.fleet.get(vm) is not None), None)
        if owner is None:
            raise UnknownNameError(
                f"no service has a VM {vm}; a stray ends by `lbctl up --retire-vms`"
            )
        return owner

    # ── which image ──────────────────────────────────────────────────────────────────────────

    def rollouts(self) -> list[RolloutRow]:
        found = (scaler.rollout.row() for scaler in self._scalers.values())
        return [row for row in found if row is not None]

    def rollout(self, service: str) -> RolloutRow:
        row = self._scaler_of(service).rollout.row()
        if row is None:
            raise UnknownNameError(
                f"service {service} has no rollout: `lbctl rollout {service} --image NEW` begins"
                " one"
            )
        return row

    async def order_rollout(self, service: str, order: RolloutOrder) -> RolloutRow:
        self._scaler_of(service).rollout.order(order)
        await self._rollouts.save()
        return self.rollout(service)
