"""What an operator is told of a new configuration: each change in a sentence, none left out."""

from __future__ import annotations

from typing import Any

import pytest

from lb.config import Config, parse_config
from lb.config_changes import Changes, changes

A, B = "127.0.0.1:1", "127.0.0.1:2"
MORNING = {"start": "0 8 * * *", "end": "0 9 * * *", "replicas": 2}


def told(old: dict[str, Any], new: dict[str, Any], *, hosts_open: bool = True) -> Changes:
    return changes(parse_config(old), parse_config(new), hosts_open=hosts_open)


def web(**table: Any) -> dict[str, Any]:
    return {"service": {"web": table}}


@pytest.mark.parametrize(
    ("old", "new", "made"),
    [
        ({}, {}, []),
        (
            web(backends=[A]),
            web(backends=[{"address": A, "weight": 2}, B]),
            [
                f"service.web: backend {A} weighs 2, not 1",
                f"service.web: backend {B} joins",
            ],
        ),
        (web(backends=[A, B]), web(backends=[B, A]), []),
        (web(queue={"length": 5}), web(), ["service.web.queue.length: 5 → 1024"]),
        (
            web(vm={}),
            web(vm={"vcpus": 2, "boot_timeout": 90}),
            [
                "service.web.vm.vcpus: 1 → 2, for new VMs",
                "service.web.vm.boot_timeout: 120.0 → 90.0",
            ],
        ),
        (web(vm={}, scale={"max": 9}), web(vm={}), ["service.web.scale.max: 9 → 4"]),
        (
            web(vm={}, scale={"grow_limit": {"replicas": 2}, "burst": None, "latency_p99": 0.5}),
            web(vm={}, scale={"grow_limit": {"replicas": 4}, "shrink_limit": {"period": "1m"}}),
            [
                "service.web.scale.grow_limit.replicas: 2 → 4",
                "service.web.scale.shrink_limit.period: 15.0 → 60.0",
                "service.web.scale.latency_p99: 0.5 → none",
            ],
        ),
        (
            web(vm={}, scale={"step": [{"cpu_above": 0.8, "add": 1}]}),
            web(vm={}, scale={"step": [{"cpu_above": 0.9, "add": 1}], "schedule": [MORNING]}),
            [
                "service.web.scale.step.0.cpu_above: 0.8 → 0.9",
                "service.web.scale.schedule: 0 before, 1 now",
            ],
        ),
        (
            web(vm={}, scale={"step": [{"cpu_above": 0.8, "add": 1}]}),
            web(vm={}),
            ["service.web.scale.step: 1 before, 0 now"],
        ),
        (web(), web(vm={}, scale={"max": 2}), ["service.web: it gets VMs"]),
        (
            web(vm={}, scale={"max": 2}),
            web(),
            ["service.web: it has no VMs any more, those there are retire"],
        ),
        (
            {"service": {"a": {}}},
            {"service": {"b": {"vm": {}}}},
            ["service a leaves: its requests finish", "service b is new"],
        ),
        (
            {"service": {"b": {"vm": {}}}},
            {"service": {"a": {}}},
            ["service b leaves: its requests finish and its VMs are retired", "service a is new"],
        ),
        (
            {"proxy": {"trusted_proxies": ["10.0.0.0/8"]}},
            {"proxy": {"trusted_proxies": ["10.0.0.0/8"] * 9}},
            ["proxy.trusted_proxies changed"],
        ),
        (
            web(),
            {**web(), "route": [{"service": "web"}]},
            ["routes: 0 before, 1 now"],
        ),
        (
            web(error_pages={"503": "a"}),
            web(error_pages={"5xx": "b"}),
            ['service.web.error_pages.503: "a" → none', 'service.web.error_pages.5xx: none → "b"'],
        ),
    ],
)  # fmt: skip
def test_each_change_is_a_sentence(
    old: dict[str, Any], new: dict[str, Any], made: list[str]
) -> None:
    assert told(old, new) == Changes(tuple(made), ())


def test_what_waits_for_a_restart() -> None:
    new = {"admin": {"listen": "127.0.0.1:1"}, "hypervisor": [{"uri": "qemu:///system"}]}
    admin = 'admin.listen: "127.0.0.1:9900" → "127.0.0.1:1": needs a restart'
    assert told({}, new).waiting == (admin, "hypervisor changed: needs a restart")
    # whoever has no connection yet uses the new ones
    assert told({}, new, hosts_open=False).waiting == (admin,)


def test_no_key_is_overlooked() -> None:
    """Whatever differs between two configurations leads to a sentence."""
    plain = Config().model_dump()
    for table in ("timeouts", "limits"):
        for key, value in plain["proxy"][table].items():
            (sentence,) = told({}, {"proxy": {table: {key: value + 1}}}).made
            assert sentence.startswith(f"proxy.{table}.{key}: ")
