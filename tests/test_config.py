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
    load_config,
    parse_config,
    parse_duration,
)
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
        ({"service": {}}, "exactly one [service.NAME]"),
        ({"service": {"a": {}, "b": {}}}, "exactly one [service.NAME]"),
        ({"service": {"Web!": {}}}, "service.Web!"),
        (web(policy="fastest"), "service.web.policy: "),
        (web(backends=["127.0.0.1"]), "service.web.backends.0: "),
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
        (web(scale={"min": 0}), "service.web.scale.min: "),
        (web(scale={"min": 5, "max": 2}), "min = 5 is more than max = 2"),
        (web(scale={"target_cpu": 1.5}), "service.web.scale.target_cpu: "),
        (web(scale={"grow_window": "1s"}), "grow_window = 1 s holds fewer than two samples"),
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
    assert parse_config({"proxy": {"listen": "[::]:0"}}).proxy.listen == ("[::]:0",)


def test_several_addresses_and_ipv6() -> None:
    config = parse_config({"proxy": {"listen": ["127.0.0.1:80", "[::1]:80"]}})
    assert [split_address(a) for a in config.proxy.listen] == [("127.0.0.1", 80), ("::1", 80)]


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
