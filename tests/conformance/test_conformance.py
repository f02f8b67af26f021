"""Every case of the tables, over real sockets, through every lane that carries requests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

import pytest

from tests.conformance.case import Case
from tests.conformance.drive import play
from tests.conformance.judge import faults
from tests.conformance.server import backend_for
from tests.conformance.tables import CASES
from tests.conformance.witness import Witness
from tests.proxy_harness import proxied

PATIENCE_S: Final = 10.0
"""How long a case may take; those that pass take milliseconds."""

Lane = Callable[[Case, Witness], AbstractAsyncContextManager[int]]
"""Starts a proxy before the witness and says its port."""


@contextlib.asynccontextmanager
async def _proxy(case: Case, witness: Witness) -> AsyncIterator[int]:
    async with backend_for(witness) as address, proxied(address, **case.settings) as proxy:
        yield proxy.port


LANES: Final[Mapping[str, Lane]] = {"proxy": _proxy}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("lane", LANES.values(), ids=LANES)
async def test_case(lane: Lane, case: Case) -> None:
    witness = Witness(case)
    async with witness:
        async with lane(case, witness) as port:
            played = await play(case, port, witness, PATIENCE_S)
        seen = played.transcript()
    assert not (found := faults(case, seen)), "\n".join([f"{case.name} (RFC {case.rfc})", *found])


def test_the_table_is_whole() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert len(CASES) >= 250
