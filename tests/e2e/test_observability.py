"""A real Prometheus beside a real `lbctl up` and a load test: it finds a replica that joins by
itself, and every query of every dashboard and every rule finds data of the run."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.load import loading
from tests.e2e.machine import BOOT_S, Machine, until
from tests.grafana_boards import marks, queries
from tests.prometheus_server import (
    PROMETHEUS,
    PROMTOOL,
    VARIABLES,
    Prometheus,
    complaints,
    configuration,
    filled,
    free_port,
    have_figures,
    running,
)

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        PROMETHEUS is None or PROMTOOL is None, reason="no Prometheus: ./run test installs it"
    ),
]

SERVICE = """[service.web]
max_in_flight = 4
[service.web.queue]
length = 2000
max_wait = "2m"
[service.web.scale]
min = 1
max = 2
target_cpu = 0.6
grow_window = "3s"
"""
CORES = "cpu_limit = 0.25"
RATES = {"low": 2.0, "high": 12.0}
"""Of requests that cost one replica 60 ms at the least: one can do four a second, two eight."""
QUIET = {
    "autoscaler_forecast_replicas",
    "autoscaler_rollout_replicas",
    "autoscaler_host_launch_breaker_open",
    "lb_concurrency_limit",
}
"""What a healthy run has nothing to say of: no season was learned, no image is new, no launch
failed, `adaptive` is off."""
ANSWERED = 'sum(increase(lb_requests_total{code="200"}'
RUN = {
    **VARIABLES,
    "window": "20",
    "settle": "5",
    "__interval": "1s",
    "__rate_interval": "10s",
    "__range": "120s",
}


def test_prometheus_sees_a_run_as_the_dashboards_ask_for_it(
    machine: Callable[..., Machine], tmp_path: Path
) -> None:
    up = machine(SERVICE, CORES)
    up.start("--retire-vms")
    tester = f"127.0.0.1:{free_port()}"
    with running(configuration(tmp_path, admin(up), tester), tmp_path / "data") as server:
        up.wait_ready(1)
        until(lambda: guests(server) == serving(up), 30, "it is not scraped")
        url = f"{up.proxy}/render?work=1"
        with loading(url, RATES, tmp_path, ("--metrics-listen", tester)) as load:
            up_now = 'up{job="loadtest"} == 1'
            until(lambda: found(server, up_now), 20, "the load test is not scraped")
            # something to compare with, before it is too much
            until(lambda: found(server, f"{ANSWERED}[1m])) > 20"), 60, "no requests are seen")
            load.shift("high")
            up.wait_ready(2, 2 * BOOT_S)
            # the discovery is asked every second, and so are the guests
            until(lambda: guests(server) == serving(up), 20, "the new one is not scraped")
            until(lambda: settled(server), 90, "there is no time after the scale event")
            for page in (f"http://{admin(up)}/metrics", f"http://{tester}/metrics"):
                assert complaints(scraped(page)) == ""
            end = time.time()
            no_answer = sorted({str(asked) for asked in unanswered(server, end)})
            assert no_answer == []
        every_rule_is_evaluated(server)


def admin(up: Machine) -> str:
    return (up.home / "admin.url").read_text(encoding="ascii").strip().removeprefix("http://")


def scraped(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def serving(up: Machine) -> set[str]:
    return {backend["vm"] for backend in up.ready()}


def guests(server: Prometheus) -> set[str]:
    """The VMs whose own metrics Prometheus reads now."""
    up_now = server.at('up{job="guests"} == 1', time.time())
    return {series["metric"]["vm"] for series in up_now}


def found(server: Prometheus, query: str) -> bool:
    return server.at(query, time.time()) != []


def settled(server: Prometheus) -> bool:
    """The windows before and after the last scale event are both over."""
    event = "max(autoscaler_last_scale_timestamp_seconds)"
    return found(server, f"time() - {event} > {RUN['settle']} + {RUN['window']}")


def unanswered(server: Prometheus, end: float) -> list[object]:
    """Queries without data, but for those about what did not happen."""
    empty: list[object] = []
    for asked in (*queries(), *marks()):
        query = filled(asked.expr, RUN)
        found = server.at(query, end) if asked.instant else server.over(query, end - 120, end, 1.0)
        if not have_figures(found) and not any(name in query for name in QUIET):
            empty.append(asked)
    return empty


def every_rule_is_evaluated(server: Prometheus) -> None:
    for group in server.ask("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule.get("lastError")
            if rule["type"] == "recording":
                assert server.at(rule["name"], time.time()), rule["name"]
