"""Whether the process may be sent traffic: what `/readyz` says of its services."""

from __future__ import annotations

from pathlib import Path

import pytest

from lb.installation import Installation
from lb.service import Balancer
from tests.proxy_harness import until
from tests.test_service import config, get, running


@pytest.mark.parametrize(("low", "awaited", "ready"), [(0, 9.0, True), (0, 0.0, False),
                                                        (1, 9.0, False)])  # fmt: skip
async def test_a_service_at_zero_on_purpose_is_ready(
    tmp_path: Path, low: int, awaited: float, ready: bool
) -> None:
    with Installation(tmp_path) as installation:
        balancer = Balancer(config(scale={"min": low}), installation, {})
        balancer._services["web"].site.line.awaited = lambda: awaited
        found, why = balancer.is_ready()
    assert found is ready
    assert "web" in why


async def test_the_first_request_to_a_service_at_zero_gets_a_replica_and_its_answer(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, config(scale={"min": 0})) as (balancer, host):
        await until(lambda: balancer.scale("web").sentence is not None)
        assert (balancer.is_ready()[0], len(host.apps)) == (True, 0)
        status, name, _ = await get(balancer)
        assert (status, [name]) == (200, list(host.apps))
        assert balancer.is_ready() == (True, "every service has a backend that serves")
