"""What lies beside the user's image: never in his folder, and never longer than its VM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoscale.domain_xml import Identity, VmSpec
from autoscale.overlays import Overlays
from tests.test_iso9660 import entries

IDENTITY = Identity("ours", "web", "g", 8080, 0.4, 1.7e9)
SPEC = VmSpec(
    name="web-000001",
    uuid="b5a4b7a6-0000-4000-8000-000000000001",
    memory_mib=64,
    vcpus=1,
    kernel="",
    initrd="",
    disk="",
    cmdline="",
    identity=IDENTITY,
    own_disk=True,
    disk_format="qcow2",
    disk_bytes=1 << 20,
    below=(("/base", "raw"),),
    user_data="#cloud-config\n",
)


@pytest.fixture
def spec(tmp_path: Path) -> VmSpec:
    image = tmp_path / "user" / "cloud.qcow2"
    image.parent.mkdir()
    image.write_bytes(b"as it is")
    return replace(SPEC, disk=str(image))


def test_a_vm_has_a_link_and_a_seed_and_its_overlay_goes_too(tmp_path: Path, spec: VmSpec) -> None:
    overlays = Overlays(tmp_path / "disks")
    own = overlays.prepare(spec)
    assert (own.format, own.below, own.transient) == ("qcow2", (("/base", "raw"),), True)
    assert Path(own.path).resolve() == Path(spec.disk)
    assert Path(own.path).parent == tmp_path / "disks" == Path(own.seed).parent
    assert entries(Path(own.seed).read_bytes())["USER-DATA.;1"] == b"#cloud-config\n"
    Path(f"{own.path}.TRANSIENT-{spec.name}").write_bytes(b"libvirt's")
    overlays.remove(spec.name)
    overlays.remove(spec.name)
    assert list((tmp_path / "disks").iterdir()) == []
    assert Path(spec.disk).read_bytes() == b"as it is"
    assert list(Path(spec.disk).parent.iterdir()) == [Path(spec.disk)]


def test_what_a_crash_left_does_not_keep_a_vm_from_starting(tmp_path: Path, spec: VmSpec) -> None:
    own = Overlays(tmp_path / "disks").prepare(spec)
    left = Path(f"{own.path}.TRANSIENT-{spec.name}")
    left.write_bytes(b"of one before")
    Overlays(tmp_path / "disks").prepare(spec)
    assert not left.exists()


def test_a_sweep_leaves_those_that_are_there_or_being_started(tmp_path: Path, spec: VmSpec) -> None:
    before = Overlays(tmp_path / "disks")
    for name in ("web-00000a", "web-00000b"):
        before.prepare(replace(spec, name=name))
    (tmp_path / "disks" / "web-00000b.TRANSIENT-web-00000b").touch()
    overlays = Overlays(tmp_path / "disks")
    overlays.prepare(replace(spec, name="web-00000c"))
    overlays.sweep({"web-00000a", "database"})
    left = {path.name for path in (tmp_path / "disks").iterdir()}
    assert left == {"web-00000a", "web-00000a.iso", "web-00000c", "web-00000c.iso"}
    Overlays(tmp_path / "nothing").sweep(())


def test_a_sweep_touches_nothing_that_has_not_the_form_of_ours(
    tmp_path: Path, spec: VmSpec
) -> None:
    folder = tmp_path / "disks"
    Overlays(folder).prepare(replace(spec, name="web-00000b"))
    theirs = ("backup", "backup.iso", "web-00000d", "web-00000b.qcow2", "debian-12.iso")
    for name in (*theirs, "web-00000b.TRANSIENT-web-00000d"):
        (folder / name).write_bytes(b"somebody's")
    (folder / "web-00000e.iso").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(folder)
    before = set(folder.iterdir())
    Overlays(elsewhere).sweep(())
    assert set(folder.iterdir()) == before
    Overlays(folder).sweep(())
    assert before - set(folder.iterdir()) == {folder / "web-00000b", folder / "web-00000b.iso"}
