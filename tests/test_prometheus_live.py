"""A real Prometheus with the repository's own configuration, beside a whole process whose machines
are scripted: it finds them by the discovery, follows their number, and evaluates every rule."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from autoscale.domain_xml import Identity, VmSpec
from lb.admin.control import ScaleOrder
from lb.installation import Installation
from lb.service import Balancer
from tests.fake_backend import Exchange
from tests.prometheus_server import (
    PROMETHEUS,
    Prometheus,
    configuration,
    free_port,
    running,
)  # fmt: skip
from tests.test_service import Machines, config, get, ready
from tests.test_service import running as serving

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="no Prometheus: ./run test installs it")

PAGE = b"# HELP webapp_waiting_renders Renders.\n# TYPE webapp_waiting_renders gauge\n"


class Measured(Machines):
    """Machines that show a metric, as the guest's application does."""

    async def create(self, spec: VmSpec) -> Identity:
        identity = await super().create(spec)
        answer_name = self.apps[spec.name].script

        async def application(exchange: Exchange) -> None:
            if exchange.path == b"/metrics":
                await exchange.answer(PAGE + b"webapp_waiting_renders 3\n")
            else:
                await answer_name(exchange)

        self.apps[spec.name].script = application
        return identity


async def test_prometheus_follows_the_fleet(tmp_path: Path) -> None:
    with Installation(tmp_path) as installation:
        host = Measured(installation.instance)
    try:
        async with serving(tmp_path, config(), machines=host) as (balancer, _):
            file = configuration(tmp_path, admin(tmp_path), f"127.0.0.1:{free_port()}")
            with running(file, tmp_path / "data") as server:
                await follows(server, balancer, host)
    finally:
        await host.power_cut()


async def follows(server: Prometheus, balancer: Balancer, host: Measured) -> None:
    await until(server, 'up{job="lbctl"} == 1')
    for wanted in (1, 2, 1):
        await balancer.set_scale("web", ScaleOrder("fixed", wanted))
        await until(server, f"autoscaler_ready_replicas == {wanted} == autoscaler_desired_replicas")
        # listed is who is in the pool now, and each is asked
        await until(server, f'count(up{{job="guests"}} == 1) == {wanted}')
        assert ready(balancer) == wanted
        shown = await ask(server, 'webapp_waiting_renders{service="web", host="local"}')
        assert {series["metric"]["vm"] for series in shown} <= set(host.apps)
        assert [series["value"][1] for series in shown] == ["3"] * wanted
    await get(balancer)
    await until(server, 'lb_requests_total{code="200"} >= 1')
    assert await ask(server, 'autoscaler_decisions_total{direction="up",reason="override"} >= 1')
    await until(server, "service:lb_requests:rate5m >= 0")
    groups = (await asyncio.to_thread(server.ask, "rules"))["groups"]
    ill = [rule for group in groups for rule in group["rules"] if rule["health"] == "err"]
    assert ill == []


def admin(home: Path) -> str:
    return (home / "admin.url").read_text(encoding="ascii").strip().removeprefix("http://")


async def ask(server: Prometheus, query: str) -> list[Any]:
    return await asyncio.to_thread(server.at, query, time.time())


async def until(server: Prometheus, query: str) -> None:
    """Wait until it has a result."""
    async with asyncio.timeout(30):
        while not await ask(server, query):  # noqa: ASYNC110 — it is another process's
            await asyncio.sleep(0.1)
