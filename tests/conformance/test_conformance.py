"""Every case of the tables, over real sockets, through every lane that carries requests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

import pytest

from tests.conformance.case import Case, get, passed
from tests.conformance.drive import play, warm_up
from tests.conformance.judge import faults
from tests.conformance.server import backend_for
from tests.conformance.tables import CASES
from tests.conformance.witness import Witness
from tests.proxy_harness import Proxied, proxied

PATIENCE_S: Final = 10.0
"""How long a case may take; those that pass take milliseconds."""

Lane = Callable[[Case, Witness], AbstractAsyncContextManager[Proxied]]
"""Starts a proxy before the witness."""


@contextlib.asynccontextmanager
async def _started(
    case: Case, witness: Witness, *, fast_lane: bool, warm: bool
) -> AsyncIterator[Proxied]:
    """`warm`: with a kept connection to the backend, which is what the fast lane takes."""
    settings = {**case.settings, "fast_lane": fast_lane}
    async with backend_for(witness) as address, proxied(address, **settings) as proxy:
        if warm:
            await warm_up(proxy.port, witness)
        yield proxy


LANES: Final[Mapping[str, Lane]] = {
    "aiohttp": partial(_started, fast_lane=False, warm=False),
    "fast": partial(_started, fast_lane=True, warm=True),
    "handed over": partial(_started, fast_lane=True, warm=False),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("lane", LANES.values(), ids=LANES)
async def test_case(lane: Lane, case: Case) -> None:
    witness = Witness(case)
    async with witness:
        async with lane(case, witness) as proxy:
            played = await play(case, proxy.port, witness, PATIENCE_S)
        seen = played.transcript()
    assert not (found := faults(case, seen)), "\n".join([f"{case.name} (RFC {case.rfc})", *found])


@pytest.mark.parametrize(("lane", "fast"), [("aiohttp", 0), ("fast", 2), ("handed over", 1)])
async def test_each_lane_is_the_one_it_says(lane: str, fast: int) -> None:
    """A plain request, and the one that asks whether the connection still serves."""
    case = passed("plain", "9110 §9.3.1", get())
    async with Witness(case) as witness, LANES[lane](case, witness) as proxy:
        await play(case, proxy.port, witness, PATIENCE_S)
        assert proxy.counters.fast == fast


def test_the_table_is_whole() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert len(CASES) >= 250
