"""The embedded driver's folder: which it is, what stands in it, and what to do about refusals."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoscale.embedded import EmbeddedRoot, excess_path_length
from autoscale.host import HostUnreachable

HOME = Path("/srv/lbctl")


@pytest.fixture
def short() -> Iterator[Path]:
    """pytest's own folders are too long for libvirt's sockets."""
    with tempfile.TemporaryDirectory(prefix="e", dir="/tmp") as folder:
        yield Path(folder)


def of(uri: str, home: Path = HOME) -> EmbeddedRoot:
    root = EmbeddedRoot.of(uri, home)
    assert root is not None
    return root


def test_without_a_root_it_is_in_our_home() -> None:
    root = of("qemu:///embed")
    assert root.uri == "qemu:///embed?root=/srv/lbctl/libvirt"
    assert (root.folder, root.chosen) == (HOME / "libvirt", False)
    assert of("qemu:///embed?x=1").uri == "qemu:///embed?x=1&root=/srv/lbctl/libvirt"


def test_a_root_in_the_uri_is_the_one_that_is_prepared(short: Path) -> None:
    root = of(f"qemu:///embed?root={short}/chosen", short / "home")
    root.prepare()
    assert "dynamic_ownership = 0" in (short / "chosen/etc/qemu.conf").read_text()
    assert not (short / "home").exists()
    (short / "chosen/etc/qemu.conf").write_text("mine")
    root.prepare()
    assert (short / "chosen/etc/qemu.conf").read_text() == "mine", "an operator's own stays"


def test_other_drivers_have_none() -> None:
    assert EmbeddedRoot.of("qemu:///system", HOME) is None
    assert EmbeddedRoot.of("test:///default", HOME) is None


def test_what_is_too_long_says_which_setting_to_shorten(short: Path) -> None:
    assert excess_path_length(HOME / "libvirt") == 0
    long = "/x" * 60
    with pytest.raises(HostUnreachable, match="set root= in the hypervisor's uri to a shorter"):
        of(f"qemu:///embed?root={long}").prepare()
    with pytest.raises(HostUnreachable, match="set LBCTL_HOME to a shorter"):
        of("qemu:///embed", Path(long)).prepare()
    (short / "file").write_text("")
    with pytest.raises(HostUnreachable, match="to a folder you can write"):
        of(f"qemu:///embed?root={short}/file/x").prepare()


def test_who_has_it_open_is_named_by_its_number_where_that_is_known(tmp_path: Path) -> None:
    root = of(f"qemu:///embed?root={tmp_path}")
    refused = (
        "Failed to acquire pid file '/r/run/qemu/driver.pid': Resource temporarily unavailable"
    )
    lock = tmp_path / "run/qemu/driver.pid"
    lock.parent.mkdir(parents=True)
    lock.write_text("28823")
    assert root.explain(refused).startswith(f"process 28823 is using {tmp_path}: stop it")
    lock.write_bytes(b"\xff?")
    assert root.explain(refused).startswith(f"another process is using {tmp_path}: stop it")


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("Failed to acquire pid file '/r/run/driver.pid'", "another process is using /srv/lbctl"),
        ("user 'libvirt-qemu' not found", "libvirt-daemon-system"),
        ("no connection driver available", "libvirt-daemon-driver-qemu"),
        ("something else", "something else"),
    ],
)
def test_a_refusal_says_what_to_do(message: str, advice: str) -> None:
    assert advice in of("qemu:///embed").explain(message)


def test_what_is_left_of_starts_that_were_cut_short_is_swept_and_nothing_of_those_there(
    tmp_path: Path,
) -> None:
    root = EmbeddedRoot.of("qemu:///embed", tmp_path)
    assert root is not None
    assert root.sweep({"web-1"}) == set(), "before libvirt ever ran"
    lib, run = root.folder / "lib/qemu", root.folder / "run/qemu"
    kept = [
        lib / "domain-1-web-1",
        lib / "domain-2-a-name-that-libvirt-c",
        lib / "channel/target/domain-1-web-1",
        lib / "save",
        run / "web-1.xml.new",
        run / "web-1.xml",
    ]
    left = [lib / "domain-5-web-2", lib / "channel/target/domain-5-web-2", run / "web-3.xml.new"]
    run.mkdir(parents=True)
    for path in (*kept, *left):
        if ".xml" in path.name:
            path.write_text("x")
        else:
            path.mkdir(parents=True)
            (path / "monitor.sock").write_text("x")
    assert root.sweep({"web-1", "a-name-that-libvirt-cuts"}) == {"web-2", "web-3"}
    assert [path for path in kept if not path.exists()] == []
    assert [path for path in left if path.exists()] == []
