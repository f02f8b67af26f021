"""The planner on real VMs, from outside: up to three, held, down to one, overridden, to zero and
back, under an open-loop load of which no request is lost.

One story in one test: each act begins with the machines that the one before left.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.closed import saturate
from tests.e2e.census import Census
from tests.e2e.leftovers import assert_nothing_left
from tests.e2e.load import loading
from tests.e2e.machine import BOOT_S, Machine, qemus, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(480)]

MOST = 3
CORES = "cpu_limit = 0.25"
"""Three of them leave more than one of two cores to the proxy, the client and a boot."""
SERVICE = f"""[service.web]
max_in_flight = 4
[service.web.queue]
length = 5000
max_wait = "2m"
[service.web.scale]
min = 1
max = {MOST}
target_cpu = 0.8
grow_window = "3s"
shrink_window = "8s"
shrink_margin = 0.9
stable_window = "8s"
panic_window = "4s"
idle_after = "8s"
forecast = "off"
[service.web.scale.shrink_limit]
period = "5s"
"""
HIGH, CALM = 3.0, 0.15
"""Of what one can serve. Two cannot carry the high load, not even where the host was busy when one
was measured; three need not, because it ends once they serve."""
OVERLOAD = {"cpu_overload", "queue", "concurrency"}
LITTLE_LOAD = {"cpu_low", "load_low"}
TELLING = {"scale.up", "scale.down", "scale.override", "vm.ready", "vm.gone"}


def test_it_scales_and_obeys_and_loses_nothing(
    machine: Callable[..., Machine], tmp_path: Path
) -> None:
    up = machine(SERVICE, CORES)
    with Census.of(up.home) as census:
        up.start("--retire-vms")
        up.wait_ready(1)
        # booting it takes cores that the first one needs when it is measured
        until(lambda: up.events("snapshot.made"), 2 * BOOT_S, "no guest was saved")
        one_serves = capacity_of_one(up)
        rates = {"high": HIGH * one_serves, "calm": CALM * one_serves}
        with loading(f"{up.proxy}/render?work=1", rates, tmp_path) as load:
            rises(up)
            up.lbctl("scale", "web", "--hold")
            load.shift("calm")
            is_held(up)
            falls(up)
            is_overridden(up)
            result = load.finish()
        goes_to_zero(up)
        comes_back_for_a_request(up)

        tell_times(up, result.started_unix)
        addresses = {up.proxy.removeprefix("http://"), *served_at(up)} | census.addresses
        up.signal(signal.SIGTERM)
        assert up.wait_ended() == 0
    assert result.counts.intended > 100
    assert result.status == {"200": result.counts.intended}, (result.errors, result.dropped)
    # one more: what is saved to be copied boots beside those that serve
    assert MOST <= census.most <= MOST + 1, "the maximum was reached, and never passed"
    assert_nothing_left(up.home, addresses)


# ── acts ─────────────────────────────────────────────────────────────────────────────────────────


def capacity_of_one(up: Machine) -> float:
    """Requests a second. The planner is held meanwhile, and what it saw is over before it is let
    go: the measuring must start nothing."""
    up.lbctl("scale", "web", "--hold")
    found = asyncio.run(saturate(f"{up.proxy}/render?work=1", 4, 4.0, warm_up=1.0))
    assert found.failed == 0
    until(lambda: scale(up)["wanted"] == 1, 30, "it goes on asking for more")
    up.lbctl("scale", "web", "--auto")
    assert grown(up) == [], "held is held"
    return found.per_second


def grown(up: Machine) -> list[dict[str, Any]]:
    """What made it grow, the first replica of a fresh start aside."""
    return [event for event in up.events("scale.up") if event["reason"] != "below_min"]


def rises(up: Machine) -> None:
    up.wait_ready(MOST, 2 * BOOT_S)
    grew = grown(up)
    assert grew[-1]["data"]["to"] == MOST
    assert {event["reason"] for event in grew} <= OVERLOAD
    assert all(" asks for " in e["message"] or " ask for " in e["message"] for e in grew)


def is_held(up: Machine) -> None:
    """The planner would let some go, again and again, and does not."""
    until(lambda: sum(d["count"] for d in held_back(up)) >= 3, 120, "nobody was to be let go")
    assert up.api("decisions?limit=1000&service=web")["decisions"][-1]["mode"] == "hold"
    held = held_back(up)[-1]
    assert held["sentence"].startswith(f"stay at {MOST}: ")
    assert "held by an operator" in held["sentence"]
    assert len(up.ready()) == MOST
    assert up.events("scale.down") == []


def held_back(up: Machine) -> list[dict[str, Any]]:
    return [
        decision
        for decision in up.lbctl("decisions", "--limit", "1000")
        if decision["mode"] == "hold"
        and LITTLE_LOAD & {guard["reason"] for guard in decision["guards"]}
    ]


def falls(up: Machine) -> None:
    row = up.lbctl("scale", "web", "--auto")
    assert (row["mode"], row["ordered"]) == ("auto", False)
    until(lambda: alone(up), 120, "it never fell to one")
    fell = up.events("scale.down")
    assert {event["reason"] for event in fell} <= LITTLE_LOAD
    sizes = [MOST, *(event["data"]["to"] for event in fell)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    assert [e for e in grown(up) if e["id"] > fell[0]["id"]] == [], "it swings"


def is_overridden(up: Machine) -> None:
    row = up.lbctl("scale", "web", "--to", "2", "--for", "30s")
    assert (row["mode"], row["to"], row["ordered"]) == ("fixed", 2, True)
    up.wait_ready(2)
    assert grown(up)[-1]["reason"] == "override"
    until(lambda: not scale(up)["ordered"], 60, "the order never ran out")
    until(lambda: alone(up), 120, "it stays at two")
    assert up.events("scale.down")[-1]["reason"] in LITTLE_LOAD
    ordered, ended = up.events("scale.override")[-2:]
    assert "2 replicas until" in ordered["message"]
    assert "has run out" in ended["message"]


def goes_to_zero(up: Machine) -> None:
    text = up.config.read_text(encoding="utf-8")
    up.config.write_text(text.replace("min = 1", "min = 0"), encoding="utf-8")
    up.lbctl("config", "apply")
    until(lambda: not qemus(up.home), 90, "the last one stays")
    assert up.events("scale.down")[-1]["reason"] == "idle"
    assert scale(up)["desired"] == 0


def comes_back_for_a_request(up: Machine) -> None:
    status, replica = up.get(seconds=BOOT_S)
    launched = up.events("vm.launch")[-1]
    assert (status, replica) == (200, launched["subject"])
    assert launched["reason"] == grown(up)[-1]["reason"] == "from_zero"
    assert alone(up)


# ── what there is ────────────────────────────────────────────────────────────────────────────────


def scale(up: Machine) -> dict[str, Any]:
    row: dict[str, Any] = up.api("scale/web")
    return row


def alone(up: Machine) -> bool:
    return len(qemus(up.home)) == 1 == len(up.ready())


def served_at(up: Machine) -> set[str]:
    messages = [event["message"] for event in up.events("vm.ready")]
    return {message.split(" serves at ")[1].split(",")[0] for message in messages}


def tell_times(up: Machine, load_began: float) -> None:
    """For who reads along: nothing is asserted of them, a busy host takes as long as it takes."""
    print("seconds since the load rose:")
    for event in up.lbctl("events", "--limit", "1000"):
        if event["kind"] in TELLING:
            at, kind = event["at"] - load_began, event["kind"]
            print(f"{at:8.1f} {kind} {event['reason']}: {event['message']}")
