"""Defaults, bounds, and what a wrong file is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.address import split_address
from lb.config import (
    Config,
    ConfigError,
    ListenConfig,
    load_config,
    parse_config,
    parse_duration,
)
from lb.config_fleet import GrowLimitConfig, ShrinkLimitConfig
from lb.config_service import BackendConfig, StickyConfig
from lb.home import home_folder

CONTRACT = """
[proxy]
listen = "127.0.0.1:8080"
[admin]
listen = "127.0.0.1:9900"
[[hypervisor]]
name = "local"
uri = "qemu:///embed"
[service.web]
backends = []
policy = "least_requests"
[service.web.vm]
image = "webapp"
vcpus = 1
memory_mib = 384
port = 8080
cpu_limit = 1.0
[service.web.scale]
min = 1
max = 4
target_cpu = 0.6
"""


def test_with_no_file_at_all_it_is_the_contracts_example(tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    path.write_text(CONTRACT)
    assert load_config(path) == load_config(None) == Config()


def web(**tables: Any) -> dict[str, Any]:
    return {"service": {"web": tables}}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"prox": {}}, "prox: no such key"),
        ({"proxy": {"lisen": "a:1"}}, "proxy.lisen: no such key"),
        ({"proxy": {"listen": "8080"}}, "'8080' is not an address: write host:port"),
        ({"proxy": {"listen": "localhost:99999"}}, "is not an address"),
        ({"proxy": {"listen": []}}, "proxy.listen: "),
        ({"proxy": {"timeouts": {"connect": "2 minutes"}}}, "write 500ms, 10s, 2m or 1h30m"),
        ({"proxy": {"timeouts": {"connect": -1}}}, "proxy.timeouts.connect: "),
        ({"proxy": {"timeouts": {"connect": float("nan")}}}, "proxy.timeouts.connect: "),
        ({"proxy": {"upstream_connections": "many"}}, "proxy.upstream_connections: "),
        (
            {"hypervisor": [{"network": "wifi"}]},
            "network is auto, user, network:NAME or bridge:NAME",
        ),
        ({"hypervisor": [{"domain_type": "xen"}]}, "'auto', 'kvm' or 'qemu'"),
        ({"hypervisor": [{}, {}]}, "two [[hypervisor]] entries share a name"),
        ({"service": {}}, "there is no service: add a [service.NAME]"),
        ({"service": {"a": {}, "b": {}}}, "no [[route]] leads to service a, b"),
        ({"service": {"Web!": {}}}, "service.Web!"),
        (web(policy="fastest"), "service.web.policy: "),
        (web(backends=["127.0.0.1"]), "service.web.backends.0.address: "),
        (web(backends="a:1"), "service.web.backends: "),
        (web(backends=[{"address": "a:1", "weight": 0}]), "service.web.backends.0.weight: "),
        (web(backends=[{"address": "a:1", "weight": 257}]), "service.web.backends.0.weight: "),
        (web(backends=["a:1", {"address": "a:1"}]), "a:1 is there twice: give it a weight"),
        (web(hash={"by": "header"}), "name goes with by = header or by = cookie"),
        (web(hash={"name": "x"}), "name goes with by = header or by = cookie"),
        (web(hash={"load": 1.0}), "service.web.hash.load: "),
        (web(sticky={"cookie": "a b"}), "service.web.sticky.cookie: "),
        (web(sticky={"same_site": "no"}), "service.web.sticky.same_site: "),
        (web(slow_start=-1), "service.web.slow_start: "),
        (web(none_available="try"), "service.web.none_available: "),
        (web(outlier={"max_share": 1.1}), "service.web.outlier.max_share: "),
        (web(outlier={"ejection": "10m"}), "ejection = 600 is more than max_ejection = 300"),
        (web(health={"status": "2xx"}), "service.web.health.status: "),
        (web(health={"status": "299-200"}), "299-200 runs downwards"),
        (web(health={"jitter": 0.6}), "service.web.health.jitter: "),
        (web(backends=["::1:8081"]), "write host:port, IPv6 in brackets"),
        (web(backends=["a:0"]), "the port from 1 to 65535"),
        ({"admin": {"hosts": ["[bad"]}}, "admin.hosts.0: '[bad' is not a host"),
        ({"hypervisor": []}, "a service of VMs needs a host: add a [[hypervisor]]"),
        ({"hypervisor": [{"call_timeout": 0}]}, "hypervisor.0.call_timeout: "),
        ({"hypervisor": [{"call_timeout": "6m"}]}, "hypervisor.0.call_timeout: "),
        (web(vm={"boot_timeout": 0}), "service.web.vm.boot_timeout: "),
        (web(vm={"vcpus": 0}), "service.web.vm.vcpus: "),
        (web(vm={"memory_mib": 64}), "service.web.vm.memory_mib: "),
        (web(vm={"cpu_limit": 2.0}), "cpu_limit = 2 is more than vcpus = 1 can use"),
        (web(vm={"image": "../../etc"}), "service.web.vm.image: "),
        (web(scale={"min": -1}), "service.web.scale.min: "),
        (web(vm={"snapshot": "on"}), "service.web.vm.snapshot: input should be 'auto' or 'off'"),
        (web(scale={"max": 0}), "service.web.scale.max: "),
        (web(scale={"min": 5, "max": 2}), "service.web.scale: min = 5 is more than max = 2"),
        (web(scale={"target_cpu": 1.5}), "service.web.scale.target_cpu: "),
        (web(scale={"shrink_window": "0s"}), "shrink_window = 0 s holds fewer than two samples"),
        (web(health={"path": "readyz"}), "service.web.health.path: "),
        (web(health={"rise": 0}), "service.web.health.rise: "),
        # a wrong type is not bent until it fits
        (web(scale={"min": True}), "service.web.scale.min: "),
        (web(scale={"min": "2"}), "service.web.scale.min: "),
        (web(scale={"grow_window": True}), "service.web.scale.grow_window: "),
        (web(vm={"image": 7}), "service.web.vm.image: "),
    ],
)
def test_what_cannot_be_used_names_the_key_and_what_is_allowed(
    data: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(data)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Value error" not in str(caught.value)


def step(**step: Any) -> dict[str, Any]:
    return {"step": [step]}


def schedule(**entry: Any) -> dict[str, Any]:
    good = {"start": "0 8 * * mon-fri", "end": "0 18 * * mon-fri", "replicas": 2}
    return {"schedule": [{**good, **entry}]}


@pytest.mark.parametrize(
    ("scale", "complaint"),
    [
        ({"mode": "off"}, ".mode: input should be 'auto', 'observe' or 'hold'"),
        ({"standby": -1}, ".standby: "),
        ({"standby": 101}, ".standby: "),
        ({"standby": 1.5}, ".standby: "),
        ({"tolerance": 1}, ".tolerance: "),
        (
            {"target_cpu": 0.9, "tolerance": 0.2},
            ": target_cpu = 0.9 with tolerance = 0.2 is 1.08: a replica that uses all of its CPU"
            " would not be above it",
        ),
        ({"burst": 1}, "burst = 1 is no relief"),
        (
            {"standby_window": "3s", "snapshot_window": "2s", "grow_window": "5s"},
            ": standby_window = 3 s, snapshot_window = 2 s and grow_window = 5 s: what costs more",
        ),
        (
            {"snapshot_window": "6s", "grow_window": "5s"},
            "snapshot_window = 6 s and grow_window = 5 s",
        ),
        ({"grow_window": "1s"}, "grow_window = 1 s holds fewer than two samples"),
        (
            {"sample_interval": "4s", "grow_window": "5s"},
            "grow_window = 5 s holds fewer than two samples",
        ),
        ({"panic_window": "1s"}, "panic_window = 1 s holds fewer than two samples"),
        (
            {"panic_window": "60s"},
            ": panic_window = 60 s is not shorter than stable_window = 60 s",
        ),
        ({"stable_window": "5s"}, ".stable_window: "),
        ({"panic_at": 1}, ".panic_at: "),
        ({"queue_drain": 0}, ".queue_drain: "),
        ({"latency_p99": 0}, ".latency_p99"),
        ({"idle_after": 0}, ".idle_after: "),
        ({"season": "5m"}, ".season: "),
        ({"forecast": "on"}, ".forecast: input should be 'off', 'observe' or 'act'"),
        ({"host_contention": "no"}, ".host_contention: "),
        (
            {"min_change": 4},
            ": min_change = 4 is more than lies between min = 1 and max = 4",
        ),
        (
            {"max": 9, "min_change": 5},
            ": min_change = 5 is more than shrink_limit ever allows, 4 with max = 9 replicas",
        ),
        ({"grow_limit": {"replicas": 0}}, ".grow_limit.replicas: "),
        ({"grow_limit": {"percent": -1}}, ".grow_limit.percent: "),
        ({"shrink_limit": {"period": "0s"}}, ".shrink_limit.period: "),
        ({"shrink_limit": {"per": "9s"}}, ".shrink_limit.per: no such key"),
        ({"target_concurrency": 0}, ".target_concurrency"),
        (step(), ".step.0: a step is cpu_above with add, or cpu_below with remove"),
        (step(cpu_above=0.8), ".step.0: a step is cpu_above with add"),
        (step(cpu_above=0.8, remove=1), ".step.0: a step is cpu_above with add"),
        (step(cpu_above=0.8, cpu_below=0.2, add=1), ".step.0: a step is cpu_above with add"),
        (step(cpu_above=0.8, add=1, remove=1), ".step.0: a step is cpu_above with add"),
        (step(cpu_above=0, add=1), ".step.0.cpu_above"),
        (
            {"step": [{"cpu_above": 0.5, "add": 1}, {"cpu_below": 0.5, "remove": 1}]},
            ": step: cpu_below = 0.5 is not below cpu_above = 0.5: the fleet would swing",
        ),
        (
            {"step": [{"cpu_above": 0.5, "add": 1}, {"cpu_above": 0.5, "add": 2}]},
            ": step: cpu_above = 0.5 is there twice",
        ),
        (
            {"step": [{"cpu_above": 0.9, "add": 1}, {"cpu_above": 0.5, "add": 2}]},
            ": step: add = 1 above 0.9 is less than add = 2 above 0.5: more load must not",
        ),
        (
            {"step": [{"cpu_below": 0.1, "remove": 1}, {"cpu_below": 0.3, "remove": 2}]},
            ": step: remove = 1 below 0.1 is less than remove = 2 below 0.3: less load must not",
        ),
        (
            {"step": [{"cpu_below": 0.1, "remove": 1}, {"cpu_below": 0.1, "remove": 1}]},
            ": step: cpu_below = 0.1 is there twice",
        ),
        (schedule(replicas=5), ": schedule: replicas = 5 is more than max = 4"),
        (schedule(replicas=0), ".schedule.0.replicas: "),
        (schedule(start="often"), ".schedule.0: start = 'often' is no cron expression that ever"),
        (schedule(end="0 0 30 2 *"), ".schedule.0: end = '0 0 30 2 *' is no cron expression"),
        (schedule(start="0 0 8 * * mon"), "write minute hour day month weekday, such as '0 8 "),
        (schedule(start="0 18 *  * mon-fri"), ".schedule.0: start and end are the same time"),
        (schedule(timezone="Mars/Olympus"), "'Mars/Olympus' is not a time zone: write Europe/B"),
        (schedule(timezone="Europe"), "timezone = 'Europe' is not a time zone"),
        (schedule(timezone="../../etc/passwd"), "is not a time zone"),
        ({"schedule": [{"start": "0 8 * * *"}]}, ".schedule.0.replicas: field required"),
    ],
)
def test_rules_that_contradict_each_other_are_refused_with_the_reason(
    scale: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(web(vm={}, scale=scale))
    assert str(caught.value).startswith("service.web.scale")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ({"scale": {"min": 0}, "queue": {"length": 0}}, "scale.min = 0 needs a queue"),
        (
            {"scale": {"target_concurrency": 9}, "max_in_flight": 8},
            "scale.target_concurrency = 9 is more than a replica ever gets, max_in_flight = 8",
        ),
        (
            {"scale": {"burst": 2}, "vm": {"cpu_limit": 0.6}},
            "scale.burst = 2 times vm.cpu_limit = 0.6 is more than vcpus = 1 can use",
        ),
    ],
)
def test_a_services_tables_must_agree(tables: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(web(**{"vm": {}, **tables}))
    assert str(caught.value).startswith(f"service.web: {complaint}")


@pytest.mark.parametrize(
    ("given", "windows"),
    [
        ({"grow_window": "10s"}, (0.5, 0.5, 10)),
        ({"grow_window": "600ms", "sample_interval": 0.3}, (0.5, 0.5, 0.6)),
        ({"grow_window": 0.4, "sample_interval": 0.2}, (0.4, 0.4, 0.4)),
        ({"grow_window": "10s", "snapshot_window": "300ms"}, (0.3, 0.3, 10)),
        ({"grow_window": "10s", "standby_window": 0}, (0, 0.5, 10)),
        ({"grow_window": "10s", "snapshot_window": "3s"}, (0.5, 3, 10)),
    ],
)
def test_cheaper_ways_are_never_slower_than_the_window_that_was_shortened(
    given: dict[str, Any], windows: tuple[float, float, float]
) -> None:
    scale = parse_config(web(vm={}, scale=given)).service["web"].scale
    assert (scale.standby_window, scale.snapshot_window, scale.grow_window) == windows


def test_a_limit_keeps_what_is_left_out_of_it() -> None:
    given = {"grow_limit": {"percent": 50}, "shrink_limit": {"period": "1m"}}
    scale = parse_config(web(vm={}, scale=given)).service["web"].scale
    grow, shrink = GrowLimitConfig(), ShrinkLimitConfig()
    assert scale.grow_limit == grow.model_copy(update={"percent": 50})
    assert scale.shrink_limit == shrink.model_copy(update={"period": 60})
    assert shrink.replicas < grow.replicas, "one too many costs less than one too few"


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"prox": {}, "service": {"web": {"vm": {"vcpus": 0}}}})
    assert "prox: no such key" in str(caught.value)
    assert "service.web.vm.vcpus" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"[proxy", "is not valid TOML"), (b"\xff\xfe", "cannot read"), (b"x = 1", "x: no such key")],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "lb.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert complaint in str(caught.value)


def test_a_file_that_is_not_there_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == (
        f"cannot read {path}: no such file or directory: say with -c where it is"
    )


def test_without_vms_no_hypervisor_is_needed() -> None:
    config = parse_config({"hypervisor": [], **web(backends=["a:1"])})
    assert config.hypervisor == ()


def test_a_port_of_0_is_for_listening() -> None:
    (listen,) = parse_config({"proxy": {"listen": "[::]:0"}}).proxy.listen
    assert listen == ListenConfig(address="[::]:0")


def test_several_addresses_and_ipv6() -> None:
    config = parse_config({"proxy": {"listen": ["127.0.0.1:80", "[::1]:80"]}})
    assert [split_address(one.address) for one in config.proxy.listen] == [
        ("127.0.0.1", 80),
        ("::1", 80),
    ]


@pytest.mark.parametrize(
    "given",
    [
        "a:1",
        ["a:1"],
        {"address": "a:1"},
        [{"address": "a:1"}],
    ],
)
def test_an_address_to_listen_on_in_short_and_in_full(given: object) -> None:
    config = parse_config({"proxy": {"listen": given}})
    assert config.proxy.listen == (ListenConfig(address="a:1"),)


def test_addresses_in_short_and_in_full_beside_each_other() -> None:
    config = parse_config({"proxy": {"listen": ["a:1", {"address": "b:1", "tls": "off"}]}})
    assert [(one.address, one.tls) for one in config.proxy.listen] == [
        ("a:1", "auto"),
        ("b:1", "off"),
    ]
    data = web(backends=["a:1", {"address": "b:1", "weight": 3}, {"address": "c:1"}])
    assert parse_config(data).service["web"].backends == (
        BackendConfig(address="a:1"),
        BackendConfig(address="b:1", weight=3),
        BackendConfig(address="c:1"),
    )


def test_one_backend_as_a_table_is_a_list_of_one() -> None:
    config = parse_config(web(backends={"address": "a:1", "weight": 2}))
    assert config.service["web"].backends == (BackendConfig(address="a:1", weight=2),)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("self-signed", {"self_signed": True}),
        ({"cert": "c.pem", "key": "k.pem"}, {"certificates": [{"cert": "c.pem", "key": "k.pem"}]}),
        (
            [{"cert": "c.pem", "key": "k.pem"}, {"cert": "d.pem", "key": "l.pem"}],
            {
                "certificates": [
                    {"cert": "c.pem", "key": "k.pem"},
                    {"cert": "d.pem", "key": "l.pem"},
                ]
            },
        ),
        (
            {"cert": "c.pem", "key": "k.pem", "min_version": "1.3"},
            {"certificates": [{"cert": "c.pem", "key": "k.pem"}], "min_version": "1.3"},
        ),
    ],
)
def test_tls_in_short(given: object, meant: dict[str, Any]) -> None:
    config = parse_config({"proxy": {"tls": given}})
    assert config == parse_config({"proxy": {"tls": meant}})
    assert config.proxy.tls.offered


def test_sizes_are_bytes() -> None:
    limits = {"head_bytes": "64KiB", "body_bytes": "10 MiB", "target_bytes": 2048}
    config = parse_config({"proxy": {"limits": limits}})
    assert config.proxy.limits.body_bytes == 10 * 1024**2
    for wrong in ("64kb", "1.5MiB", "-1B", "64 Kib", ""):
        with pytest.raises(ConfigError, match="is not a size: write 512B, 64KiB"):
            parse_config({"proxy": {"limits": {"body_bytes": wrong}}})


def test_an_empty_table_switches_sticky_sessions_on() -> None:
    assert parse_config(web()).service["web"].sticky is None
    assert parse_config(web(sticky={})).service["web"].sticky == StickyConfig()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("10s", 10), ("2m", 120), ("1h30m", 5400), ("1.5s", 1.5), (7, 7), (0.5, 0.5)],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "10", "10 s", "-1s", "1d", "1s1", "١s x"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**6) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
keys = st.sampled_from(
    ["proxy", "admin", "hypervisor", "service", "web", "vm", "scale", "listen", "min", "uri", "x"]
)


@given(st.dictionaries(keys, st.dictionaries(keys, json_like, max_size=3) | json_like, max_size=3))
def test_no_input_whatever_ends_in_anything_but_a_config_or_a_config_error(
    data: dict[str, Any],
) -> None:
    try:
        config = parse_config(data)
    except ConfigError as error:
        complaint = str(error)
    else:
        complaint = "" if config.service else "no service"
    assert complaint != "no service"


def test_the_home_folder_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LBCTL_HOME", "/somewhere")
    assert home_folder() == Path("/somewhere")
    monkeypatch.delenv("LBCTL_HOME")
    assert home_folder() == Path.home() / ".local/share/lbctl"
