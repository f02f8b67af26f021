"""What we send to libvirt, and what we read back of it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.domain_xml import (
    METADATA_URI,
    QEMU_URI,
    DomainXmlError,
    HostSettings,
    Identity,
    OwnDisk,
    VmSpec,
    domain_xml,
    host_cpu_xml,
    host_offers_kvm,
    host_relabels,
    identity_element,
    identity_xml,
    parse_identity,
)

IDENTITY = Identity(
    instance="a1b2",
    service="web",
    generation="sha256:77",
    app_port=8080,
    cpu_limit=0.4,
    created_at=1.7e9,
    host_port=41000,
)
SPEC = VmSpec(
    name="web-3f9a11",
    uuid="b5a4b7a6-0000-4000-8000-000000000001",
    memory_mib=384,
    vcpus=2,
    kernel="/images/kernel",
    initrd="/images/initrd",
    disk="/images/root.img",
    cmdline="root=/dev/vda ro",
    identity=IDENTITY,
)
USER = HostSettings(domain_type="qemu", network="user", console_log="/log/web-3f9a11.log")


def xml(spec: VmSpec = SPEC, host: HostSettings = USER) -> ET.Element:
    return ET.fromstring(domain_xml(spec, host))  # noqa: S314 - our own


def test_a_replica_of_its_own_boots_from_the_shared_read_only_disk() -> None:
    domain = xml()
    assert domain.get("type") == "qemu"
    assert domain.findtext("name") == "web-3f9a11"
    assert domain.findtext("memory") == "384"
    assert domain.findtext("vcpu") == "2"
    assert domain.findtext("os/kernel") == "/images/kernel"
    assert domain.findtext("os/cmdline") == "root=/dev/vda ro systemd.hostname=web-3f9a11"
    disk = domain.find("devices/disk")
    assert disk is not None
    assert disk.find("readonly") is not None
    assert disk.find("shareable") is not None


def test_no_limit_while_booting_and_nothing_that_outlives_a_power_off() -> None:
    domain = xml()
    assert domain.find("cputune") is None
    assert domain.findtext("on_poweroff") == "destroy"
    assert domain.findtext("on_crash") == "destroy"


def test_the_forwarded_port_is_on_loopback_only_and_the_guest_is_locked_in() -> None:
    arguments = [a.get("value", "") for a in xml().iter(f"{{{QEMU_URI}}}arg")]
    netdev = arguments[arguments.index("-netdev") + 1]
    assert netdev == "user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:41000-:8080"


@pytest.mark.parametrize(
    ("network", "kind", "source"),
    [("network:default", "network", "default"), ("bridge:br0", "bridge", "br0")],
)
def test_a_network_of_libvirt_needs_no_forwarding(network: str, kind: str, source: str) -> None:
    domain = xml(host=replace(USER, network=network))
    interface = domain.find("devices/interface")
    assert interface is not None
    assert interface.get("type") == kind
    assert interface.find("source").attrib == {kind: source}  # type: ignore[union-attr]
    assert not list(domain.iter(f"{{{QEMU_URI}}}arg"))
    agent = domain.find("devices/channel/target")
    assert agent is not None, "a bridge has no leases: the guest must be able to tell its address"
    assert agent.get("name") == "org.qemu.guest_agent.0"


def test_beside_a_forwarded_port_the_agent_has_a_socket_of_ours() -> None:
    """It tells a copy who it is; where no socket fits, a guest does without."""
    channel = xml(host=replace(USER, agent_socket="/home/agent/web")).find("devices/channel")
    assert channel is not None
    assert channel.find("source").attrib == {"mode": "bind", "path": "/home/agent/web"}  # type: ignore[union-attr]
    assert channel.find("target").get("name") == "org.qemu.guest_agent.0"  # type: ignore[union-attr]
    assert xml().find("devices/channel") is None


def test_what_kvm_and_emulation_get_as_a_cpu() -> None:
    """KVM hands the host's through; emulation has the plainest, with randomness from the start."""
    kvm = xml(host=replace(USER, domain_type="kvm")).find("cpu")
    assert kvm is not None
    assert kvm.get("mode") == "host-passthrough"
    emulated = xml().find("cpu")
    assert emulated is not None
    assert emulated.findtext("model") == "qemu64"
    assert [f.get("name") for f in emulated.findall("feature")] == ["rdrand"]


def test_without_an_initrd_it_is_left_out() -> None:
    assert xml(replace(SPEC, initrd="")).find("os/initrd") is None


def test_a_guest_always_has_a_console() -> None:
    """Without one its units fail to open /dev/console, and the application never starts."""
    kept = xml().find("devices/serial")
    assert kept is not None
    assert kept.get("type") == "file"
    elsewhere = xml(host=replace(USER, console_log="")).find("devices/serial")
    assert elsewhere is not None
    assert elsewhere.get("type") == "pty"


def test_the_shared_disk_keeps_its_owner() -> None:
    """libvirtd would give it to the user that runs QEMU, and not back: another VM may use it."""
    label = xml(host=replace(USER, relabels=True)).find("devices/disk/source/seclabel")
    assert label is not None
    assert label.attrib == {"model": "dac", "relabel": "no"}
    assert xml().find("devices/disk/source/seclabel") is None, "refused where there is no dac"


def test_nothing_of_qemu_goes_to_the_test_driver() -> None:
    domain = xml(host=HostSettings("test", "network:default", ""))
    for element in ("disk", "serial", "channel"):
        assert domain.find(f"devices/{element}") is None


# --- identity

words = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=20)
identities = st.builds(
    Identity,
    instance=words,
    service=words,
    generation=words,
    app_port=st.integers(1, 65535),
    cpu_limit=st.floats(0.01, 256),
    created_at=st.floats(0, 4e9),
    host_port=st.integers(0, 65535),
    phase=st.sampled_from(["serving", "draining"]),
    path=st.sampled_from(["cold", "snapshot", "standby"]),
)


@given(identities)
def test_an_identity_survives_both_ways_into_libvirt(identity: Identity) -> None:
    """In the creation XML, and as the text that rewrites it in a running domain."""
    spec = replace(SPEC, identity=identity)
    assert parse_identity(domain_xml(spec, USER)) == identity
    assert parse_identity(identity_xml(identity)) == identity
    assert parse_identity(ET.tostring(identity_element(identity), encoding="unicode")) == identity


def test_what_an_earlier_version_did_not_say_of_how_it_came_is_taken_for_a_boot() -> None:
    element = identity_element(IDENTITY.with_path("snapshot"))
    assert parse_identity(ET.tostring(element, encoding="unicode")).path == "snapshot"
    del element.attrib["path"]
    assert parse_identity(ET.tostring(element, encoding="unicode")).path == "cold"


@given(words, words)
def test_names_cannot_break_out_of_the_xml(name: str, cmdline: str) -> None:
    domain = xml(replace(SPEC, name=name, cmdline=cmdline))
    assert domain.findtext("name") == name
    assert len(domain.findall("devices/disk")) == 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("<domain><name>theirs</name></domain>", id="no metadata"),
        pytest.param("<domain><metadata/></domain>", id="empty metadata"),
        pytest.param(
            '<domain><metadata><replica instance="a1b2"/></metadata></domain>',
            id="our word, not our namespace",
        ),
        pytest.param(
            f'<domain><metadata><r:replica xmlns:r="{METADATA_URI}" instance="a1b2"/>'
            "</metadata></domain>",
            id="ours, and half of it missing",
        ),
        pytest.param(identity_xml(IDENTITY).replace("8080", "http"), id="a port that is none"),
        pytest.param("<domain", id="not XML"),
    ],
)
def test_what_is_not_surely_ours_is_not_ours(text: str) -> None:
    with pytest.raises(DomainXmlError):
        parse_identity(text)


# --- may KVM be trusted here?

OFFERED = """<capabilities><host><cpu><arch>x86_64</arch><model>EPYC</model></cpu></host>
<guest><arch name="x86_64"><domain type="qemu"/><domain type="kvm"/></arch></guest>
</capabilities>"""


def test_kvm_needs_the_cpu_to_show_that_it_can() -> None:
    """A device node and an offer are not enough: under paravirtual KVM a guest hangs in boot."""
    assert host_offers_kvm(OFFERED, '<cpu><feature name="vmx"/></cpu>')
    assert host_offers_kvm(OFFERED, '<cpu><feature name="svm"/></cpu>')
    assert not host_offers_kvm(OFFERED, '<cpu><feature name="avx2"/></cpu>')
    assert not host_offers_kvm(OFFERED, "")
    assert not host_offers_kvm(
        OFFERED.replace('<domain type="kvm"/>', ""), '<cpu><feature name="vmx"/></cpu>'
    )


def test_whether_a_host_changes_the_owner_of_files() -> None:
    def capable(*models: str) -> str:
        inner = "".join(f"<secmodel><model>{m}</model><doi>0</doi></secmodel>" for m in models)
        return f"<capabilities><host>{inner}</host></capabilities>"

    assert host_relabels(capable("none", "dac"))
    assert not host_relabels(capable("none"))
    assert not host_relabels(capable())


def test_the_hosts_cpu_out_of_its_capabilities() -> None:
    assert "<model>EPYC</model>" in host_cpu_xml(OFFERED)
    assert host_cpu_xml("<capabilities><host/></capabilities>") == ""


# --- a disk of its own

OWN = replace(SPEC, kernel="", initrd="", cmdline="", own_disk=True, disk="/user/cloud.qcow2")


def own_disks(own: OwnDisk, **settings: object) -> tuple[ET.Element, ET.Element, ET.Element]:
    """Its domain, the disk that it writes to, and the seed."""
    domain = xml(OWN, replace(USER, own_disk=own, **settings))  # type: ignore[arg-type]
    disk, seed = domain.findall("devices/disk")
    return domain, disk, seed


def test_an_own_disk_is_booted_by_the_firmware_and_written_to() -> None:
    domain, disk, _ = own_disks(OwnDisk("/disks/web", "raw", "/disks/web.iso", transient=True))
    assert domain.find("os/kernel") is None
    assert domain.find("os/cmdline") is None
    assert domain.find("os/boot").attrib == {"dev": "hd"}  # type: ignore[union-attr]
    assert disk.find("source").attrib == {"file": "/disks/web"}  # type: ignore[union-attr]
    assert disk.find("driver").get("type") == "raw"  # type: ignore[union-attr]
    assert disk.find("transient").attrib == {"shareBacking": "yes"}  # type: ignore[union-attr]
    for word in ("readonly", "shareable"):
        assert disk.find(word) is None


def test_the_seed_is_a_read_only_virtio_disk() -> None:
    """Whoever boots from a virtio disk reads it; no other driver is needed."""
    _, disk, seed = own_disks(OwnDisk("/disks/web", "raw", "/disks/web.iso"))
    assert seed.get("device") == "disk"
    assert seed.find("source").get("file") == "/disks/web.iso"  # type: ignore[union-attr]
    assert seed.find("target").attrib == {"dev": "vdb", "bus": "virtio"}  # type: ignore[union-attr]
    assert seed.find("readonly") is not None
    assert disk.find("transient") is None, "a volume of a daemon's is an overlay already"


def test_the_whole_chain_is_told_and_no_file_of_the_users_is_chowned() -> None:
    below = (("/user/cloud.qcow2", "qcow2"), ("/user/base.img", "raw"))
    own = OwnDisk("/user/overlay.qcow2", "qcow2", "/user/seed.iso", below)
    _, disk, _ = own_disks(own, relabels=True)
    assert disk.find("source/seclabel") is None, "libvirt made this one, and owns it"
    first = disk.find("backingStore")
    assert first is not None
    second = first.find("backingStore")
    assert second is not None
    for store, (path, format_) in ((first, below[0]), (second, below[1])):
        assert store.find("source").get("file") == path  # type: ignore[union-attr]
        assert store.find("format").get("type") == format_  # type: ignore[union-attr]
        assert store.find("source/seclabel").get("relabel") == "no"  # type: ignore[union-attr]
    end = second.find("backingStore")
    assert end is not None
    assert len(end) == 0, "libvirt looks for nothing further"
