"""The rollout of each service, kept over a restart in LBCTL_HOME.

Owns the form of one in the file: the fields of `autoscale.rollout.Rollout`. What a rollout does
next is the fleet's; how far it is, the VMs' own metadata says.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from autoscale.rollout import Phase, Rollout
from lb.by_service import ByService

FILE: Final = "rollouts.json"
"""Its name in LBCTL_HOME."""

_TEXTS = ("configured", "image_from", "image_to", "generation", "why")
_FLAGS = ("approved", "failed", "stranded")


class Rollouts(ByService[Rollout]):
    """The last one of each, whatever became of it."""

    one = "rollout"

    def to_json(self, value: Rollout) -> object:
        return asdict(value)

    def from_json(self, value: Any) -> Rollout | None:
        return _rollout(value)


def _rollout(value: Any) -> Rollout | None:
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
