"""What the first process tells the other workers of a service's pool: the whole of it, as a value
with a version. Pure.

Whole rather than what changed: whoever applies the newest one knows all there is, however many it
missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lb.backend import NEVER, Backend


@dataclass(frozen=True, slots=True)
class BackendState:
    """One backend as the first process judges it. Times are seconds of the machine's monotonic
    clock, which all its processes share; None: never."""

    id: int
    """Of this stay in the pool: who leaves and comes back, or moves, is another one."""
    name: str
    address: str
    host: str
    vm: str | None
    weight: int
    lifecycle: str
    healthy: bool
    available_since: float | None
    doubted_at: float | None
    """When a request last met a closed door there."""
    refused: bool
    """The last probe was answered by a certain no, or the last connections were refused."""
    well_at: float | None
    """When the last probe that went well was sent: doubts from before are answered by it."""
    slot: int | None
    """Where all workers count what runs on it (`tally`); None: nowhere."""
    dead: bool
    """It is unhealthy because it answers nobody: what runs on it will not end well."""


@dataclass(frozen=True, slots=True)
class PoolState:
    version: int
    service: str
    awaited_s: float
    """For so long a request may wait although nobody is ready; 0: not at all."""
    backends: tuple[BackendState, ...]
    """In order of joining."""
    lost: tuple[int, ...]
    """Ids of those that left of late and answer nobody any more."""

    def as_message(self) -> dict[str, Any]:
        return {
            "kind": "pool",
            "version": self.version,
            "service": self.service,
            "awaited_s": self.awaited_s,
            "backends": [
                [getattr(backend, name) for name in BackendState.__slots__]
                for backend in self.backends
            ],
            "lost": list(self.lost),
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> PoolState:
        return cls(
            message["version"],
            message["service"],
            message["awaited_s"],
            tuple(BackendState(*fields) for fields in message["backends"]),
            tuple(message["lost"]),
        )


def states_of(
    backends: Iterable[Backend],
    id_of: Callable[[Backend], int],
    well_at: Mapping[int, float],
    slot_of: Callable[[Backend], int | None],
    dead: Iterable[int],
) -> tuple[BackendState, ...]:
    """`well_at` by id; `dead`: ids of those that are unhealthy because they answer nobody."""
    silent = frozenset(dead)
    found = []
    for backend in backends:
        number = id_of(backend)
        found.append(
            BackendState(
                number,
                backend.name,
                backend.address,
                backend.host,
                backend.vm,
                backend.weight,
                backend.lifecycle.value,
                backend.healthy,
                known(backend.available_since),
                known(backend.doubted_at),
                bool(backend.refusals or backend.connect_failures),
                well_at.get(number),
                slot_of(backend),
                number in silent and not backend.healthy,
            )
        )
    return tuple(found)


def known(at: float) -> float | None:
    """JSON has no word for a time before all others."""
    return None if at == NEVER else at


def time_of(at: float | None) -> float:
    """The same back."""
    return NEVER if at is None else at
