"""Plays one case against whatever listens on a port, and records what each side saw."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from tests.conformance.case import Answered, Came, Case, Do, End, Reply, Step, Until, head
from tests.conformance.reading import Message, read_answers
from tests.conformance.wire import Ended, Wire
from tests.conformance.witness import AGAIN, Witness

AGAIN_REQUEST = head(b"GET " + AGAIN + b" HTTP/1.1", "Host: a.example", "Connection: close")


@dataclass
class Transcript:
    """What happened."""

    answers: list[Message]
    """What the client got, 1xx included, without the answer to AGAIN."""
    rest: bytes
    """What the client got beyond whole heads and bodies."""
    ended: Ended | None
    """How the other side ended the client's connection, None where it stood to the last."""
    kept: bool | None
    """Did the connection serve once more? None: not asked."""
    requests: list[Message]
    fragments: list[bytes]
    connections: int
    raw_client: bytes
    raw_backend: bytes


async def play(case: Case, port: int, witness: Witness, patience_s: float) -> Played:
    """Do what the client does, up to the answers the case expects, their end, or the patience's.
    The caller lets the proxy settle and then takes `Played.transcript()`."""
    played = Played(case, witness)
    await played.connect(port)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await played.act()
    finally:
        await played.leave()
    return played


async def warm_up(port: int, witness: Witness) -> None:
    """Let the proxy keep a connection to the backend: one request before the case, from a client of
    its own that leaves."""
    _, wire = await asyncio.get_running_loop().create_connection(Wire, "127.0.0.1", port)
    await wire.send(AGAIN_REQUEST)
    await wire.until(lambda: False)
    await wire.drop()
    witness.begin()


async def play_quietly(case: Case, port: int, witness: Witness, quiet_s: float) -> Played:
    """The same against a proxy of which nothing is known: until it has closed the connections of
    both sides, or nothing moved for this long."""
    played = Played(case, witness)
    await played.connect(port)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * quiet_s):
                await played.send()
        await played.quiet(quiet_s)
    finally:
        await played.leave()
    return played


class Played:
    """One client's connection: acting and watching."""

    def __init__(self, case: Case, witness: Witness) -> None:
        self.case = case
        self.witness = witness
        self.wire: Wire
        self._methods = [reply.to for reply in case.client if reply.status >= 200]
        self._ended: Ended | None = None
        self._left = False
        self._kept: bool | None = None

    async def connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        _, self.wire = await loop.create_connection(
            lambda: Wire(lambda _: self.witness.pulse()), "127.0.0.1", port
        )
        self.witness.client = self.wire

    async def act(self) -> None:
        await self.send()
        case, wire = self.case, self.wire
        await wire.until(self.answered)
        if case.end in (End.CLOSED, End.ABORTED):
            await wire.until(lambda: False)
        elif case.end is End.KEPT:
            self._kept = await self._serves_again()

    async def send(self) -> None:
        """The client's steps."""
        for number, step in enumerate(self.case.sends):
            if (
                number
                and isinstance(step, bytes)
                and isinstance(self.case.sends[number - 1], bytes)
            ):
                await self._do(Do.PAUSE)
            await self._do(step)

    async def quiet(self, quiet_s: float) -> None:
        moved = -1
        while moved != (now := len(self.wire.received) + len(self.witness.received)):
            moved = now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(quiet_s):
                    await self.wire.until(lambda: False)
                    if self.witness.idle:
                        return
                    await asyncio.sleep(quiet_s)

    async def _do(self, step: Step) -> None:
        wire = self.wire
        match step:
            case bytes():
                await wire.send(step)
            case Do.PAUSE:
                await asyncio.sleep(0.005)
            case Do.HALF_CLOSE:
                wire.half_close()
            case Do.CLOSE:
                wire.close()
            case Do.RESET:
                wire.reset()
            case Until(seen):
                await wire.until(lambda: seen in wire.received)
            case Came(seen):
                await wire.until(lambda: seen in self.witness.received)
            case Answered(number):
                await wire.until(lambda: self.witness.played >= number)
            case Do.READ_BODY:
                raise ValueError("a client reads all there is anyway")

    def expect(self, methods: list[str]) -> None:
        """What the requests are that answers come to, where the case does not say."""
        self._methods = methods

    def finals(self) -> int:
        """Whole final answers so far."""
        answers, _ = self._read()
        return sum(answer.status >= 200 and answer.complete for answer in answers)

    def answered(self) -> bool:
        """Has everything come that the case expects?"""
        answers, _ = self._read()
        wanted = self.case.client
        return len(answers) >= len(wanted) and all(
            _whole(reply, answer) for reply, answer in zip(wanted, answers, strict=False)
        )

    async def _serves_again(self) -> bool:
        before = len(self._read()[0])
        await self.wire.send(AGAIN_REQUEST)
        self._methods.append("GET")
        await self.wire.until(lambda: len(self._read()[0]) > before)
        answers, _ = self._read()
        return len(answers) == before + 1 and answers[-1].status == 200

    def _read(self) -> tuple[list[Message], bytes]:
        end = self._ended if self._left else self.wire.ended
        return read_answers(bytes(self.wire.received), self._methods, ended=end is Ended.FIN)

    async def leave(self) -> None:
        """The client goes; what it saw until now is what counts."""
        self._ended = self.wire.ended
        self._left = True
        await self.wire.drop()

    def transcript(self) -> Transcript:
        """What both sides saw; call once nothing moves any more."""
        answers, rest = self._read()
        if self._kept:
            answers.pop()
        return Transcript(
            answers,
            rest,
            self._ended,
            self._kept,
            self.witness.requests(),
            self.witness.fragments(),
            self.witness.used(),
            bytes(self.wire.received),
            self.witness.received,
        )


def _whole(reply: Reply, answer: Message) -> bool:
    """Nothing more of this answer is to be waited for."""
    if answer.status == 101:
        return len(answer.body) >= len(reply.body or b"")
    return answer.complete
