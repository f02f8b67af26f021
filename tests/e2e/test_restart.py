"""`lbctl up` killed and started again serves from the machine that it finds there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.parts.restart import measure
from tests.e2e.machine import Machine, qemus

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


def test_it_adopts_each_time_and_leaves_nothing(machine: Callable[..., Machine]) -> None:
    home = machine().home
    assert len(measure(home, 2)) == 2
    assert qemus(home) == []
