"""The rollout of each service, kept over a restart in LBCTL_HOME.

Owns the file's form: a JSON object by service, with the fields of `autoscale.rollout.Rollout`. What
a rollout does next is the fleet's; how far it is, the VMs' own metadata says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from autoscale.rollout import Phase, Rollout
from lb.state_file import StateFile

FILE: Final = "rollouts.json"
"""Its name in LBCTL_HOME."""

_TEXTS = ("configured", "image_from", "image_to", "generation", "why")
_FLAGS = ("approved", "failed", "stranded")


class Rollouts:
    """By service. Reads the file at once; of what cannot be understood it warns once."""

    def __init__(self, path: Path) -> None:
        self._file = StateFile(path, "rollouts")
        self._saving = asyncio.Lock()
        self._held = self._read()

    def of(self, service: str) -> Rollout | None:
        """The last one, whatever became of it."""
        return self._held.get(service)

    @property
    def everything(self) -> Mapping[str, Rollout]:
        """All of them, by service."""
        return self._held

    def put(self, service: str, rollout: Rollout | None) -> None:
        """From now on; None forgets it. `save` remembers it."""
        if rollout is None:
            self._held.pop(service, None)
        else:
            self._held[service] = rollout

    async def save(self) -> None:
        """Write what holds when it is this call's turn. A failure costs a warning."""
        async with self._saving:
            values = {name: asdict(rollout) for name, rollout in self._held.items()}
            await asyncio.to_thread(self._file.write, values)

    def _read(self) -> dict[str, Rollout]:
        values = self._file.read()
        if values is None:
            return {}
        if not isinstance(values, dict):
            self._file.complain("is no JSON object and is ignored")
            return {}
        found = {}
        for service, value in values.items():
            rollout = _rollout(value)
            if rollout is None:
                self._file.complain(f"{service!r} is no rollout and is ignored")
            else:
                found[service] = rollout
        return found


def _rollout(value: Any) -> Rollout | None:
    """What `save` wrote, else None."""
    if not isinstance(value, dict) or set(value) != set(Rollout.__slots__):
        return None
    pause_at = value["pause_at"]
    fits = (
        all(isinstance(value[key], str) for key in _TEXTS)
        and all(isinstance(value[key], bool) for key in _FLAGS)
        and type(value["max_surge"]) is int
        and value["max_surge"] > 0
        and type(value["started_at"]) in (int, float)
        and (pause_at is None or (type(pause_at) in (int, float) and 0 < pause_at <= 1))
        and value["phase"] in set(Phase)
    )
    return Rollout(**{**value, "phase": Phase(value["phase"])}) if fits else None
