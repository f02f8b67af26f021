"""A world with a reserve: so many serve, and so many wait.

`want` says how many replicas there should be.
"""

from __future__ import annotations

from typing import Any

from autoscale.model import EventKind, ScaleEvent, VmState
from autoscale.vm import Vm
from tests.fakes import FakeDomain
from tests.world import World, rules, shape


def want(world: World, replicas: int) -> None:
    world.controller.rules = rules(replicas, replicas)


def asleep(world: World) -> list[Vm]:
    """Those in reserve that wait, suspended."""
    return [vm for vm in all_of(world) if vm.in_reserve and vm.state is VmState.STANDBY]


def all_of(world: World) -> list[Vm]:
    return [vm for s in world.fleet.statuses() if (vm := world.fleet.get(s.name)) is not None]


def domain_of(world: World, name: str) -> FakeDomain:
    domain = world.domain(name)
    assert domain is not None
    return domain


async def with_standby(
    replicas: int = 1, standby: int = 1, wanted: Any = None, **settings: Any
) -> World:
    """So many serve, and so many wait."""
    world = World(wanted or rules(replicas), vm=shape(standby=standby, **settings))
    await filled(world, replicas, standby)
    return world


async def filled(world: World, replicas: int, standby: int) -> None:
    await world.until(
        lambda: world.fleet.counts().ready == replicas and len(asleep(world)) == standby,
        at_most_s=150,
    )


def last_join(world: World) -> ScaleEvent:
    return [event for event in world.events if event.kind is EventKind.JOIN][-1]
