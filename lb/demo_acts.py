"""The demo's second half, played: a spike, the quick ways, a machine that dies, rest.

Knows the order of its acts and what each waits for; how the load is shifted and what is recorded
is `demo`'s. It kills a machine by its process: nothing that libvirt could have been asked for.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

from autoscale.model import Fleet, VmState, VmStatus

SPIKE_S: Final = 0.6
"""At `SPIKE` times what one can serve, some nine more come than it can: they queue up, and are gone
2 s later. That is shorter than an overload must last before anybody boots (`grow_window`, 3 s)."""
SPIKE: Final = 2.5
SETTLE_S: Final = 8.0
MOMENT_S: Final = 2.0
PREPARE_S: Final = 90.0
"""A boot to be saved, and a copy or another boot to be suspended; on a busy machine."""
REPLACE_S: Final = 60.0


class Stage(Protocol):
    """What `demo.Teller` offers."""

    async def shift(self, act: str) -> None:
        """The load goes on as this act's."""
        ...

    async def until(self, happened: Callable[[], object], limit_s: float, otherwise: str) -> None:
        """Raises StoryBroken."""
        ...

    def says(self, what: str, expected_s: float) -> None: ...

    def killed(self, vm: str) -> None:
        """Take it down as a moment of the story."""
        ...

    def counts(self) -> Fleet: ...

    def vms(self) -> tuple[VmStatus, ...]: ...

    def relieved(self) -> bool:
        """What queued up is worked off."""
        ...


async def play(
    stage: Stage, home: Path, hold_s: float, quick: Callable[[], Awaitable[object]]
) -> None:
    """`quick` allows the quick ways; `hold_s`: so long two replicas are shown under high load;
    `home`: of the guests' processes."""
    stage.says("a short spike, for which nobody starts", SPIKE_S + SETTLE_S)
    await stage.shift("spike")
    await asyncio.sleep(SPIKE_S)
    await stage.shift("settle")
    await asyncio.sleep(SETTLE_S)

    await stage.shift("prepare")
    stage.says("now with a reserve: one more is booted and suspended", 25)
    await quick()
    await stage.until(
        lambda: stage.counts().standby >= 1 and stage.counts().ready == 1,
        PREPARE_S,
        "no standby was made",
    )

    await stage.shift("again")
    stage.says("high load again: this time somebody is ready", hold_s + 5)
    await stage.until(lambda: stage.counts().ready == 2, REPLACE_S, "no second replica came")
    await stage.until(
        lambda: stage.counts().standby >= 1 and stage.relieved(), PREPARE_S, "no new reserve came"
    )

    await stage.shift("failure")
    stage.says("one of two machines is killed under high load", hold_s)
    await asyncio.sleep(MOMENT_S)
    await stage.until(lambda: ready(stage), REPLACE_S, "nobody serves who could be killed")
    victim = ready(stage)[0]
    await stage.until(lambda: kill(home, victim), MOMENT_S, f"the process of {victim} is not found")
    stage.killed(victim)
    await stage.until(
        lambda: stage.counts().ready == 2 and victim not in ready(stage),
        REPLACE_S,
        "who was killed was not replaced",
    )
    await asyncio.sleep(hold_s)

    await stage.shift("rest")
    stage.says("low load for the last time", 20)
    await stage.until(lambda: stage.counts().ready == 1, 2 * REPLACE_S, "the fleet never shrank")
    await asyncio.sleep(MOMENT_S)


def ready(stage: Stage) -> list[str]:
    """The names of those that serve."""
    return [vm.name for vm in stage.vms() if vm.state is VmState.READY and vm.role == "replica"]


def kill(home: Path, vm: str) -> bool:
    """SIGKILL to the process that runs this guest; to nobody where there is none, or several.
    Whether it was sent."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        qemu = b"qemu-system" in command.split(b"\0")[0]
        if qemu and os.fsencode(home) in command and vm.encode() in command:
            found.append(int(entry.name))
    if len(found) != 1:
        return False
    os.kill(found[0], signal.SIGKILL)
    return True
