"""libvirt's figures of a domain in ours: the same numbers, or none."""

from __future__ import annotations

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.counters import (
    SLOW_CALL_S,
    StateCode,
    limit_of,
    power_from_stats,
    quota_of,
    read_at,
    sample_from_stats,
)
from autoscale.domain_xml import CPU_PERIOD_US
from autoscale.host import PowerState

NOW = 500.0
ROW = {
    "cpu.time": 1_500_000_000,
    "vcpu.current": 2,
    "vcpu.0.time": 900_000_000,
    "vcpu.1.time": 500_000_000,
    "vcpu.0.delay": 30_000_000,
    "vcpu.1.delay": 10_000_000,
    "balloon.rss": 2048,
    "balloon.maximum": 4096,
}


def test_a_row_of_libvirts_stats_as_a_sample() -> None:
    """1.5 s in all, 1.4 s of it by the two vCPUs: 0.1 s is QEMU's own overhead."""
    sample = sample_from_stats("web-1", 0.8, ROW, NOW, "a/3")
    assert sample is not None
    assert sample.cpu_s == pytest.approx(1.5)
    assert sample.vcpu_s == pytest.approx(1.4)
    assert sample.vcpu_delay_s == pytest.approx(0.04)
    assert (sample.vcpus, sample.limit_cores, sample.memory_bytes) == (2, 0.8, 2 << 20)
    assert sample.most_memory_bytes == 4 << 20
    assert (sample.at, sample.run) == (NOW, "a/3")
    unlimited = sample_from_stats("web-1", None, ROW, NOW, "a/3")
    assert unlimited is not None
    assert unlimited.limit_cores == 2, "without a limit: all its vCPUs"


@pytest.mark.parametrize("missing", ["cpu.time", "vcpu.current", "vcpu.1.time"])
def test_a_row_without_its_counters_is_no_sample(missing: str) -> None:
    row = {key: value for key, value in ROW.items() if key != missing}
    assert sample_from_stats("web-1", None, row, NOW, "") is None


def test_a_row_that_was_read_nobody_knows_when_is_no_sample() -> None:
    assert sample_from_stats("web-1", None, ROW, None, "") is None


def test_a_row_without_delays_is_still_a_sample() -> None:
    row = {key: value for key, value in ROW.items() if key != "vcpu.0.delay"}
    sample = sample_from_stats("web-1", None, row, NOW, "")
    assert sample is not None
    assert sample.vcpu_delay_s is None


def test_a_row_without_memory_is_a_sample_without_memory() -> None:
    row = {key: value for key, value in ROW.items() if key != "balloon.rss"}
    sample = sample_from_stats("web-1", None, row, NOW, "")
    assert sample is not None
    assert sample.memory_bytes is None, "no VM runs in 0 bytes"


def test_a_slow_listing_does_not_say_when_it_was_read() -> None:
    assert read_at(NOW, NOW + SLOW_CALL_S / 2) == NOW + SLOW_CALL_S / 2
    assert read_at(NOW, NOW + SLOW_CALL_S * 2) is None


def test_the_states_are_libvirts() -> None:
    theirs = {name: getattr(libvirt, f"VIR_DOMAIN_{name}") for name in StateCode.__members__}
    assert {state.name: state.value for state in StateCode} == theirs


@pytest.mark.parametrize(
    ("state", "power"),
    [
        (libvirt.VIR_DOMAIN_RUNNING, PowerState.RUNNING),
        (libvirt.VIR_DOMAIN_BLOCKED, PowerState.RUNNING),
        (libvirt.VIR_DOMAIN_PAUSED, PowerState.PAUSED),
        (libvirt.VIR_DOMAIN_PMSUSPENDED, PowerState.PAUSED),
        (libvirt.VIR_DOMAIN_SHUTDOWN, PowerState.STOPPING),
        (libvirt.VIR_DOMAIN_SHUTOFF, PowerState.OFF),
        (libvirt.VIR_DOMAIN_CRASHED, PowerState.CRASHED),
        (libvirt.VIR_DOMAIN_NOSTATE, PowerState.RUNNING),
    ],
)
def test_a_state_as_the_fleet_knows_it(state: int, power: PowerState) -> None:
    assert power_from_stats({"state.state": state}) is power


def test_a_row_without_a_state_is_taken_to_run() -> None:
    assert power_from_stats({}) is PowerState.RUNNING


def test_a_limit_is_shared_by_the_vcpus() -> None:
    """0.4 cores on one vCPU: 40 ms in 100 ms; on two, 20 ms each."""
    assert quota_of(0.4, 1)["vcpu_quota"] == 0.4 * CPU_PERIOD_US
    assert quota_of(0.4, 2)["vcpu_quota"] == 0.2 * CPU_PERIOD_US
    assert quota_of(None, 1)["vcpu_quota"] == -1
    assert quota_of(0.00001, 8)["vcpu_quota"] == 1000, "the kernel takes no less"


@given(st.floats(0.1, 8), st.integers(1, 8))
def test_a_limit_read_back_is_the_one_that_was_set(cores: float, vcpus: int) -> None:
    assert limit_of(quota_of(cores, vcpus), vcpus) == pytest.approx(cores, rel=0.01)


@pytest.mark.parametrize(
    "parameters", [{}, {"vcpu_quota": -1, "vcpu_period": 100_000}, {"vcpu_quota": 5}]
)
def test_no_quota_is_no_limit(parameters: dict[str, int]) -> None:
    assert limit_of(parameters, 2) is None
