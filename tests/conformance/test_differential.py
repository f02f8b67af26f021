"""The same bytes through HAProxy and nginx: where they do otherwise than we, the table says why.

Fails where nobody has explained a difference, and where an explanation is not needed any more.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import pytest
import uvloop

from tests.conformance.case import Case
from tests.conformance.compare import Verdict, verdict
from tests.conformance.drive import Transcript, play_quietly
from tests.conformance.peers import HAPROXY, NGINX, Peer, Slot
from tests.conformance.tables import CASES
from tests.conformance.witness import Witness

SIDE_BY_SIDE: Final = 16
QUIET_S: Final = 0.15
"""So long nothing moves: then that was all."""
SURE_QUIET_S: Final = 1.0
"""The same for a second look at whatever was not as explained: the box may have been busy."""

COMPARED: Final = [case for case in CASES if not case.alone]
PEERS: Final = (HAPROXY, NGINX)

Results = dict[str, Transcript]


def explanation(peer: Peer, case: Case) -> str:
    return case.haproxy if peer is HAPROXY else case.nginx


def words(text: str) -> list[str]:
    """What the peer may be found to do: several where that is a matter of timing."""
    return re.split(", | or ", text.partition(": ")[0]) if text else [Verdict.SAME]


async def ask(peer: Peer, folder: Path, cases: Sequence[Case]) -> Results:
    """These cases through the peer."""
    slots = [Slot() for _ in range(SIDE_BY_SIDE)]
    for slot in slots:
        await slot.start()
    results: Results = {}
    try:
        async with peer.running(slots, folder):
            await _share(slots, cases, results, QUIET_S)
            doubtful = [
                case
                for case in cases
                if verdict(case, results[case.name])[0] not in words(explanation(peer, case))
            ]
            await _share(slots, doubtful, results, SURE_QUIET_S)
    finally:
        for slot in slots:
            slot.stop()
    return results


async def _share(
    slots: Sequence[Slot], cases: Sequence[Case], results: Results, quiet_s: float
) -> None:
    """The cases, each slot taking the next one when it is done with its last."""
    ahead = iter(cases)

    async def work(slot: Slot) -> None:
        for case in ahead:
            results[case.name] = await _one(slot, case, quiet_s)

    await asyncio.gather(*(work(slot) for slot in slots))


async def _one(slot: Slot, case: Case, quiet_s: float) -> Transcript:
    async with Witness(case) as witness:
        slot.witness = witness
        played = await play_quietly(case, slot.port, witness, quiet_s)
        slot.witness = None
        return played.transcript()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module", params=PEERS, ids=lambda peer: peer.name)
def peer(request: pytest.FixtureRequest) -> Peer:
    found: Peer = request.param
    assert found.program is not None, f"{found.name} is missing: ./run test installs it"
    version = uvloop.run(found.found_version())
    if version != found.version:
        pytest.skip(f"the explanations are for {found.name} {found.version}, this is {version}")
    return found


@pytest.fixture(scope="module")
def results(peer: Peer, folder: Path, request: pytest.FixtureRequest) -> Results:
    """Of the cases that were chosen (`-k`): all at once, because each waits for silence."""
    name = test_every_difference_is_explained.__name__
    chosen = {
        cast(Case, item.callspec.params["case"]).name
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == name
    }
    return uvloop.run(ask(peer, folder, [case for case in COMPARED if case.name in chosen]))


@pytest.mark.parametrize("case", COMPARED, ids=lambda case: case.name)
def test_every_difference_is_explained(case: Case, peer: Peer, results: Results) -> None:
    found, why = verdict(case, results[case.name])
    text = explanation(peer, case)
    assert found in words(text), (
        f"{peer.name} {found} ({'; '.join(why)}), and the table says {text!r}: {case.name}"
    )


def test_explanations_say_why() -> None:
    for case in CASES:
        for text in filter(None, (case.haproxy, case.nginx)):
            assert set(words(text)) <= set(Verdict), text
            assert words(text) != [Verdict.SAME], text
            assert len(text.partition(": ")[2].split()) >= 2, text
            assert not case.alone, f"{case} is compared with nobody"
