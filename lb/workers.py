"""The other workers as the first process has them: started, given their sockets, replaced, stopped.

Owns the processes and the listening sockets that they are given; what is told and summed up is
`lead`'s. Each of those sockets is kept here too: where its worker dies, the connections that wait
in it are taken over by the first process, which minds it until the next worker serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from autoscale.model import Happening, Reason
from lb import sockets, worker_process
from lb.config import Config
from lb.errors import ListenError
from lb.lead import Lead, Peer
from lb.listener import ProxyServer
from lb.tally import Tally
from lb.tasks import spawn
from lb.worker_link import Link, LinkClosedError, Message, pack

log = logging.getLogger(__name__)

BEAT_S: Final = 0.25
"""Time between two reports of a worker, and two looks at what it should know."""
START_S: Final = 60.0
"""The longest until a new worker listens: about a second is usual, of which Python's imports are
most."""
SILENT_S: Final = 30.0
"""A worker that has told nothing for so long, where four reports a second are due, hangs: it is
killed and replaced."""
STEADY_S: Final = 10.0
"""One that lived so long did not die of its start."""
LONGEST_PAUSE_S: Final = 30.0
LEAVE_S: Final = 5.0
"""Beyond the grace: for what a worker does after its last request, and for its end."""
APPLY_S: Final = 5.0
"""How long a new configuration waits until it is in force on every worker."""


def pause_s(failures: int) -> float:
    """Until the next is started, after so many that died soon, one after the other: none after the
    first, then 0.5 s, 1 s, 2 s … LONGEST_PAUSE_S."""
    if failures <= 1:
        return 0.0
    return float(min(0.5 * 2.0 ** min(failures - 2, 16), LONGEST_PAUSE_S))


@dataclass(slots=True, eq=False)
class _Place:
    """Of one worker, whichever process holds it."""

    number: int
    sockets: dict[str, list[socket.socket]] = field(default_factory=dict)
    """By the entry of `listen` that they stand for."""
    unmind: Callable[[], None] = lambda: None
    link: Link | None = None
    given: set[str] = field(default_factory=set)
    """Whose sockets the process has."""
    listening: bool = False
    pid: int = 0

    @property
    def name(self) -> str:
        return f"worker {self.number + 1}"


class Workers:
    """All but the first: `number` counts it too. `secret` is what sessions are signed with, `tally`
    has what all count together; `note` writes the journal."""

    def __init__(
        self,
        number: int,
        home: Path,
        secret: bytes,
        server: ProxyServer,
        lead: Lead,
        tally: Tally | None,
        note: Callable[[Happening], None],
    ) -> None:
        self.replaced = 0
        self._of = number
        self._home = home
        self._secret = secret
        self._server = server
        self._lead = lead
        self._tally = tally
        self._note = note
        self._config = Config()
        self._places = [_Place(n) for n in range(1, number)]
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = asyncio.Event()

    @property
    def serving(self) -> int:
        """How many serve clients now, the first included."""
        return 1 + sum(place.listening for place in self._places)

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that serve beside the first."""
        return tuple(place.pid for place in self._places if place.listening)

    def counts(self) -> tuple[int, int]:
        return self.serving, self.replaced

    # ── running ──────────────────────────────────────────────────────────────────────────────

    async def start(self, config: Config) -> None:
        """Start them all, and wait for none. Raises ListenError."""
        self._config = config
        if not self._places:
            return
        for place in self._places:
            self._give(place)
            await self._mind(place)
        for place in self._places:
            self._tasks.append(spawn(self._tend(place), name=place.name))
        self._tasks.append(spawn(self._beat(), name="telling the workers"))

    async def configure(self, config: Config) -> None:
        """Let them go by this from now on; returns once they do, or APPLY_S later."""
        self._config = config
        if not self._tasks:
            return
        for place in self._places:
            try:
                self._give(place)
            except ListenError as error:
                log.warning("%s does not listen there: %s", place.name, error)
            if place.link is not None:
                self._send_settings(place, place.link)
            if not place.listening:
                await self._mind(place)
        if not await self._lead.applied(self._lead.version, APPLY_S):
            log.warning("not every worker goes by the new configuration yet")

    def hurry(self) -> None:
        """While they stop: the grace is over."""
        self._tell({"kind": "hurry"})

    async def stop(self, grace_s: float) -> None:
        """Let them accept nothing more, finish what runs for `grace_s` seconds, and end."""
        self._ending.set()
        for place in self._places:
            for held in place.sockets.values():
                sockets.close(held)
            place.sockets.clear()
        self._tell({"kind": "stop", "grace_s": grace_s})
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s + LEAVE_S)
            for task in late:
                task.cancel()  # which kills its process
            if late:
                await asyncio.wait(late)
        self._tasks.clear()

    def _tell(self, message: Message) -> None:
        packed = pack(message)
        for place in self._places:
            if place.link is not None:
                place.link.send(packed)

    async def _beat(self) -> None:
        while not await self._ends_within(BEAT_S):
            self._lead.beat()

    async def _ends_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        return self._ending.is_set()

    # ── one worker ───────────────────────────────────────────────────────────────────────────

    async def _tend(self, place: _Place) -> None:
        """Keep one process in this place."""
        clock, failures = time.monotonic, 0
        while not self._ending.is_set():
            began = clock()
            why = await self._run(place)
            if self._ending.is_set():
                return
            failures = 1 if clock() - began >= STEADY_S else failures + 1
            self.replaced += 1
            words = f"{place.name} died: {why}; the others serve, another one is started"
            log.warning("%s", words)
            self._note(Happening("worker.died", "", f"worker-{place.number + 1}",
                                 Reason.CRASHED, words))  # fmt: skip
            await self._ends_within(pause_s(failures))

    async def _run(self, place: _Place) -> str:
        """From a process's start to its end; says why it ended."""
        ours, theirs = socket.socketpair()
        link = Link(ours)
        try:
            process = await worker_process.start(theirs, self._home, place.number, self._tally)
        except OSError as error:
            link.close()
            return f"it cannot be started: {error.strerror}"
        finally:
            theirs.close()
        place.link, place.pid = link, process.pid
        peer = Peer(place.number, link.send)
        why = ""
        try:
            # no await from here to `join`: what changes later is told to this peer too
            self._send_settings(place, link)
            self._lead.join(peer)
            if self._ending.is_set():
                link.send(pack({"kind": "stop", "grace_s": 0.0}))
            why = await self._listen(place, peer, link)
        except Exception:
            log.exception("%s told what nobody understands", place.name)
            why = "it told what nobody understands, and was killed"
        except asyncio.CancelledError:
            why = "its time was over"
        place.link, place.listening = None, False
        place.given.clear()
        self._lead.part(peer)
        link.close()
        if not self._ending.is_set():
            await self._mind(place)
        code = await _ended(process, kill=bool(why))
        return why or worker_process.end_in_words(code)

    async def _listen(self, place: _Place, peer: Peer, link: Link) -> str:
        """Take what it tells, until it tells no more. Says what is wrong where the process is to be
        killed for it."""
        while True:
            patience_s = SILENT_S if place.listening else START_S
            try:
                async with asyncio.timeout(patience_s):
                    message, _ = await link.receive()
            except LinkClosedError:
                return ""
            except TimeoutError:
                return f"it told nothing for {patience_s:g} s and was killed"
            match message["kind"]:
                case "report":
                    self._lead.report(peer, message)
                case "doubt":
                    self._lead.doubt(message)
                case "listening":
                    place.listening = True
                    place.unmind()
                    log.info("%s serves, process %d", place.name, place.pid)

    def _send_settings(self, place: _Place, link: Link) -> None:
        fresh = {
            address: held for address, held in place.sockets.items() if address not in place.given
        }
        place.given = set(place.sockets)
        message = self._lead.settings(
            {
                "config": self._config.model_dump_json(),
                "of": self._of,
                "secret": self._secret.hex(),
                "log_level": logging.getLogger().getEffectiveLevel(),
                "sockets": {address: len(held) for address, held in fresh.items()},
            }
        )
        link.send(pack(message), [one for held in fresh.values() for one in held])

    # ── sockets ──────────────────────────────────────────────────────────────────────────────

    def _give(self, place: _Place) -> None:
        """Let it have a socket beside each of the first process's. Raises ListenError."""
        bound = self._server.bound
        for address in [address for address in place.sockets if address not in bound]:
            sockets.close(place.sockets.pop(address))
        for address, ours in bound.items():
            if address not in place.sockets:
                place.sockets[address] = sockets.beside(ours, address)

    async def _mind(self, place: _Place) -> None:
        place.unmind()
        place.unmind = await self._server.mind(place.sockets)
        if place.listening:  # since a moment ago
            place.unmind()


async def _ended(process: asyncio.subprocess.Process, *, kill: bool) -> int:
    """Its status. One that does not end by itself is killed, or where `kill` says so."""
    if not kill:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                return await process.wait()
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    return await process.wait()
