"""Replicas with disks of their own: kept on standby, and never copied."""

from __future__ import annotations

from dataclasses import replace

from autoscale.model import Path
from tests.world import FILES, World, rules, shape

OWN = replace(FILES, kernel="", initrd="", cmdline="", own_disk=True, user_data="#cloud-config\n")


async def test_they_wait_suspended_and_are_never_saved() -> None:
    """A copy would need the overlay as it was: the next quickest way is a standby."""
    world = World(rules(1), vm=shape(snapshot=True, standby=1), boot_files=lambda: OWN)
    await world.until(lambda: world.fleet.counts().standby == 1, at_most_s=120)
    await world.run(60)
    assert world.host.asked("save") == []
    assert [way.path for way in world.fleet.counts().ways] == [Path.STANDBY, Path.COLD]
    world.controller.rules = rules(2, 2)
    await world.until(lambda: world.fleet.counts().ready == 2, at_most_s=5)
    assert world.boots[-1][0] is Path.STANDBY
    await world.until(lambda: world.fleet.counts().standby == 1, at_most_s=120)
    assert {path for path, _ in world.boots} == {Path.COLD, Path.STANDBY}
