"""The backend of a case: answers by the case's steps and keeps every byte that arrives."""

from __future__ import annotations

import asyncio
from typing import Self

from tests.conformance.case import OK, Answered, Came, Case, Do, Step, Until
from tests.conformance.reading import Message, read_requests
from tests.conformance.wire import Ended, Wire

AGAIN = b"/.again"
"""The target by which a client asks whether its connection still serves; never a case's own."""


class Witness:
    """One case's backend. Connections come from `wire`, a protocol factory for any server."""

    def __init__(self, case: Case) -> None:
        self.client: Wire | None = None
        """The other end, once it stands: what `Until` looks at, and who waits for what comes."""
        self.played = 0
        """Requests for which every step is done."""
        self._case = case
        self._wires: list[Wire] = []
        self._before: dict[Wire, int] = {}
        """Bytes on a connection that came before the case."""
        self._begun: list[tuple[int, int]] = []
        """(connection, request on it), in the order in which they began."""
        self._tasks: set[asyncio.Task[None]] = set()

    def wire(self) -> Wire:
        wire = Wire(self._on_change)
        number = len(self._wires)
        self._wires.append(wire)
        task = asyncio.get_running_loop().create_task(self._serve(wire, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return wire

    def _on_change(self, _: Wire) -> None:
        if self.client is not None:
            self.client.pulse()

    def pulse(self) -> None:
        for wire in self._wires:
            wire.pulse()

    @property
    def received(self) -> bytes:
        return b"".join(bytes(wire.received[self._before.get(wire, 0) :]) for wire in self._wires)

    def begin(self) -> None:
        """What came until now was for AGAIN, and is not the case's."""
        self._before = {wire: len(wire.received) for wire in self._wires}
        self.played = 0

    @property
    def idle(self) -> bool:
        """Every connection has ended."""
        return not self._tasks

    def used(self) -> int:
        """Connections that carried requests, other than for AGAIN alone."""
        return len({message.connection for message in self.requests()})

    def requests(self) -> list[Message]:
        """In the order in which they began, without those for AGAIN."""
        read = [self._read(wire) for wire in self._wires]
        found = []
        for connection, index in self._begun:
            message = read[connection][index]
            message.connection = connection
            if message.target != AGAIN:
                found.append(message)
        return found

    def fragments(self) -> list[bytes]:
        """What arrived and is no whole head."""
        rests = (read_requests(bytes(wire.received), ended=True)[1] for wire in self._wires)
        return [rest for rest in rests if rest]

    def _read(self, wire: Wire) -> list[Message]:
        return read_requests(bytes(wire.received), ended=wire.ended is not None)[0]

    async def _serve(self, wire: Wire, number: int) -> None:
        served = 0
        while await self._begins(wire, served):
            self._begun.append((number, served))
            own = len([m for m in self.requests() if m.target != AGAIN])
            again = self._read(wire)[served].target == AGAIN
            scripts = self._case.answers
            steps = OK if again or own > len(scripts) else scripts[own - 1]
            for step in steps:
                await self._do(step, wire, served)
            served += 1
            self.played += 1
            self._on_change(wire)
        if wire.ended is not Ended.RESET:
            wire.close()

    async def _begins(self, wire: Wire, served: int) -> bool:
        """Wait for one more request than those served; False where none comes any more."""
        await wire.until(lambda: len(self._read(wire)) > served)
        return len(self._read(wire)) > served

    async def _do(self, step: Step, wire: Wire, index: int) -> None:
        match step:
            case bytes():
                await wire.send(step)
            case Do.READ_BODY:
                await wire.until(lambda: self._read(wire)[index].complete)
            case Do.PAUSE:
                await asyncio.sleep(0.01)
            case Do.HALF_CLOSE:
                wire.half_close()
            case Do.CLOSE:
                wire.close()
            case Do.RESET:
                wire.reset()
            case Until(seen):
                await wire.until(lambda: self.client is None or seen in self.client.received)
            case Came(seen):
                await wire.until(lambda: seen in wire.received)
            case Answered(number):
                await wire.until(lambda: self.played >= number)

    async def stop(self) -> None:
        """End what is still open."""
        for wire in self._wires:
            await wire.drop()
        for task in tuple(self._tasks):
            task.cancel()
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
