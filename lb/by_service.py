"""One value for each service, kept over a restart in one file of LBCTL_HOME.

Owns the file's outer form: a JSON object by service. What a value is, who makes one and when it is
to be saved is its subclass's and its caller's.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from lb.state_file import StateFile

Value = TypeVar("Value")


class ByService(ABC, Generic[Value]):
    """Reads the file at once; of what cannot be understood it warns once."""

    one: str
    """What a value is called in the log, such as "override"."""

    def __init__(self, path: Path) -> None:
        self._file = StateFile(path, f"{self.one}s")
        self._saving = asyncio.Lock()
        self._held = self._read()

    def of(self, service: str) -> Value | None:
        return self._held.get(service)

    @property
    def everything(self) -> Mapping[str, Value]:
        return self._held

    def put(self, service: str, value: Value | None) -> None:
        """From now on; None forgets it. `save` remembers it."""
        if value is None:
            self._held.pop(service, None)
        else:
            self._held[service] = value

    async def save(self) -> None:
        """Write what holds when it is this call's turn. A failure costs a warning."""
        async with self._saving:
            held = {name: value for name, value in self._held.items() if self.holds(value)}
            written = {name: self.to_json(value) for name, value in held.items()}
            await asyncio.to_thread(self._file.write, written)

    def holds(self, value: Value) -> bool:
        """Whether it is still worth a place in the file."""
        return True

    @abstractmethod
    def to_json(self, value: Value) -> object: ...

    @abstractmethod
    def from_json(self, value: Any) -> Value | None:
        """What `to_json` made, else None."""

    def _read(self) -> dict[str, Value]:
        values = self._file.read()
        if values is None:
            return {}
        if not isinstance(values, dict):
            self._file.complain("is no JSON object and is ignored")
            return {}
        found = {}
        for service, value in values.items():
            understood = self.from_json(value)
            if understood is None:
                self._file.complain(f"{service!r} is no {self.one} and is ignored")
            else:
                found[service] = understood
        return found
