"""A replica's specification → libvirt domain XML, and its identity ↔ `<metadata>`. Pure.

Owns every element we ever send to libvirt. It must not know connections or domains as objects.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, fields, replace

METADATA_URI = "urn:lbctl:replica:1"
METADATA_PREFIX = "lbctl"
QEMU_URI = "http://libvirt.org/schemas/domain/qemu/1.0"

CPU_PERIOD_US = 100_000
"""libvirt's default period: short enough that a throttled guest still answers within 0.1 s."""

USER_NET_SLOT = "0x10"
"""PCI slot of the user-network card, above those libvirt hands out on a machine this small."""

AGENT = "org.qemu.guest_agent.0"
"""The channel where libvirt looks for a guest's agent."""

ET.register_namespace(METADATA_PREFIX, METADATA_URI)
ET.register_namespace("qemu", QEMU_URI)


class DomainXmlError(ValueError):
    """The XML is not that of a domain of ours."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a domain recognisable as ours after any crash: it stands in its `<metadata>`."""

    instance: str
    """Which installation of the product made it; another one's domains are not ours."""
    service: str
    generation: str
    """Checksum of the image and shape it was made from."""
    app_port: int
    cpu_limit: float
    created_at: float
    """Unix seconds."""
    host_port: int = 0
    """The forwarded loopback port; 0 where the guest has an address of its own."""
    phase: str = "serving"
    """serving, or draining once it was told to leave: a successor must not bring it back."""
    role: str = "replica"
    """replica; standby: booted to wait suspended; template: booted to be saved, serves nobody."""
    cut: str = ""
    """vCPUs, memory and port it was made with; empty where an earlier version made it."""
    protected: bool = False
    """An operator's word: spared by scale-ins, rollouts and lifetimes."""
    path: str = "cold"
    """How it came: cold, snapshot, or standby once it was woken to serve."""

    def with_phase(self, phase: str) -> Identity:
        return replace(self, phase=phase)

    def with_role(self, role: str) -> Identity:
        return replace(self, role=role)

    def with_protection(self, protected: bool) -> Identity:
        return replace(self, protected=protected)

    def with_path(self, path: str) -> Identity:
        return replace(self, path=path)


Layer = tuple[str, str]
"""A file that a disk is based on, and its format."""


@dataclass(frozen=True, slots=True)
class VmSpec:
    """One replica to be started."""

    name: str
    uuid: str
    memory_mib: int
    vcpus: int
    kernel: str
    """Empty where its firmware finds it on its own disk."""
    initrd: str
    disk: str
    cmdline: str
    identity: Identity
    genid: str = ""
    """What tells the guest's kernel that it is another copy; empty: its UUID."""
    own_disk: bool = False
    """Whether it writes, to an overlay of its own; else the disk is shared and read-only."""
    disk_format: str = "raw"
    disk_bytes: int = 0
    """As the guest sees it; only for one with a disk of its own."""
    below: tuple[Layer, ...] = ()
    """What `disk` is itself based on, the nearest first."""
    user_data: str = ""
    """For cloud-init, with a disk of its own; empty: nothing."""


@dataclass(frozen=True, slots=True)
class OwnDisk:
    """What a host prepared for one VM to write to."""

    path: str
    format: str
    seed: str
    """The disk that cloud-init reads."""
    below: tuple[Layer, ...] = ()
    """What `path` is based on, the nearest first."""
    transient: bool = False
    """Whether libvirt shall make an overlay beside `path`, and remove it with the VM; else `path`
    is one."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What of the XML the host decides."""

    domain_type: str
    """kvm, qemu (emulation), or test for libvirt's own test driver."""
    network: str
    """user, network:NAME or bridge:NAME."""
    console_log: str
    """File for the guest's console; empty for a pty of the host's, where an operator may attach."""
    agent_socket: str = ""
    """Where libvirt listens for the guest's agent, for a forwarded port. Empty: none there; on
    other networks always libvirt's own choice."""
    relabels: bool = False
    """Whether its libvirt gives files to the user that runs QEMU (`host_relabels`)."""
    arch: str = "x86_64"
    own_disk: OwnDisk | None = None
    """For a VM that writes; None: it boots from the disk that all share."""


def _sub(parent: ET.Element, tag: str, text: str = "", **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, {k.rstrip("_"): v for k, v in attributes.items()})
    element.text = text or None
    return element


def domain_xml(spec: VmSpec, host: HostSettings) -> str:
    """The whole creation XML. No CPU limit stands in it: a replica boots at full speed, and the
    limit is set by API once it serves."""
    domain = ET.Element("domain", {"type": host.domain_type})
    _sub(domain, "name", spec.name)
    _sub(domain, "uuid", spec.uuid)
    metadata = _sub(domain, "metadata")
    metadata.append(identity_element(spec.identity))
    _sub(domain, "memory", str(spec.memory_mib), unit="MiB")
    _sub(domain, "vcpu", str(spec.vcpus), placement="static")
    os_ = _sub(domain, "os")
    _sub(os_, "type", "hvm", arch=host.arch)
    if host.domain_type != "test":
        os_[0].set("machine", "pc")
        if spec.kernel:
            _sub(os_, "kernel", spec.kernel)
            if spec.initrd:
                _sub(os_, "initrd", spec.initrd)
            _sub(os_, "cmdline", f"{spec.cmdline} systemd.hostname={spec.name}")
        else:
            _sub(os_, "boot", dev="hd")
    features = _sub(domain, "features")
    _sub(features, "acpi")  # the power button
    _sub(features, "apic")
    if host.domain_type != "test":
        # a copy restored from a saved guest gets another one, and its kernel reseeds randomness
        _sub(domain, "genid", spec.genid or spec.uuid)
    if host.domain_type == "kvm":
        _sub(domain, "cpu", mode="host-passthrough", migratable="on")
    elif host.domain_type == "qemu":
        # The plainest model; more features make emulation no faster. With rdrand the guest has
        # randomness at once, and Python's start does not wait for it.
        cpu = _sub(domain, "cpu", mode="custom", match="exact", check="none")
        _sub(cpu, "model", "qemu64", fallback="forbid")
        _sub(cpu, "feature", policy="require", name="rdrand")
    _sub(domain, "clock", offset="utc")
    _sub(domain, "on_poweroff", "destroy")
    _sub(domain, "on_reboot", "restart")
    _sub(domain, "on_crash", "destroy")
    devices = _sub(domain, "devices")
    if host.domain_type == "test":
        pass  # it has no use for one
    elif host.own_disk is not None:
        _add_own_disk(devices, host.own_disk, host)
    else:
        _add_shared_disk(devices, spec.disk, host)
    _sub(devices, "controller", type="usb", model="none")
    _add_console(devices, host)
    _sub(devices, "memballoon", model="none")
    _add_network(domain, devices, spec, host)
    return ET.tostring(domain, encoding="unicode")


def _add_shared_disk(devices: ET.Element, path: str, host: HostSettings) -> None:
    disk = _sub(devices, "disk", type="file", device="disk")
    _sub(disk, "driver", name="qemu", type="raw", cache="writeback")
    _add_untouched(disk, path, host)
    _sub(disk, "target", dev="vda", bus="virtio")
    _sub(disk, "readonly")
    _sub(disk, "shareable")


def _add_untouched(parent: ET.Element, path: str, host: HostSettings) -> None:
    source = _sub(parent, "source", file=path)
    if host.relabels:
        # else libvirtd chowns the image that all share to QEMU's user, and never gives it back
        _sub(source, "seclabel", model="dac", relabel="no")


def _add_own_disk(devices: ET.Element, own: OwnDisk, host: HostSettings) -> None:
    disk = _sub(devices, "disk", type="file", device="disk")
    # Nothing on it outlives the VM, so nothing needs to be on the platter when a guest flushes.
    _sub(disk, "driver", name="qemu", type=own.format, cache="unsafe")
    _sub(disk, "source", file=own.path)
    # The whole chain: libvirt need not look for it, nor chown what the user keeps.
    above = disk
    for path, format_ in own.below:
        above = _sub(above, "backingStore", type="file")
        _sub(above, "format", type=format_)
        _add_untouched(above, path, host)
    _sub(above, "backingStore")
    _sub(disk, "target", dev="vda", bus="virtio")
    if own.transient:
        _sub(disk, "transient", shareBacking="yes")
    # A virtio disk and no CD-ROM: whoever boots from vda can read vdb, while the kernels of some
    # cloud images have no driver for an IDE or SATA drive. cloud-init goes by the label.
    seed = _sub(devices, "disk", type="file", device="disk")
    _sub(seed, "driver", name="qemu", type="raw")
    _sub(seed, "source", file=own.seed)
    _sub(seed, "target", dev="vdb", bus="virtio")
    _sub(seed, "readonly")


def _add_console(devices: ET.Element, host: HostSettings) -> None:
    if host.domain_type == "test":
        return
    # A guest whose units write to /dev/console fails to start them where there is none.
    serial = _sub(devices, "serial", type="file" if host.console_log else "pty")
    if host.console_log:
        _sub(serial, "source", path=host.console_log, append="off")
    _sub(serial, "target", port="0")


def _add_network(domain: ET.Element, devices: ET.Element, spec: VmSpec, host: HostSettings) -> None:
    kind, _, name = host.network.partition(":")
    if kind == "user":
        # restrict=on: the guest reaches neither the host's loopback services nor the world; only
        # the forwarded port leads in. libvirt's own user networking cannot forward a port here.
        forward = f"hostfwd=tcp:127.0.0.1:{spec.identity.host_port}-:{spec.identity.app_port}"
        line = _sub(domain, f"{{{QEMU_URI}}}commandline")
        for argument in (
            "-netdev",
            f"user,id=n0,restrict=on,{forward}",
            "-device",
            f"virtio-net-pci,netdev=n0,addr={USER_NET_SLOT},romfile=",
        ):
            ET.SubElement(line, f"{{{QEMU_URI}}}arg", {"value": argument})
        if host.agent_socket:
            # a path of ours: libvirt's own is 80 characters below its root, too long for most homes
            _add_agent(devices, host.agent_socket)
        return
    interface = _sub(devices, "interface", type=kind)
    _sub(interface, "source", **{kind: name})
    _sub(interface, "model", type="virtio")
    if host.domain_type != "test":
        # On a bridge libvirt has no leases to read, and 9.0 cannot read the neighbour table of
        # a Linux 6.18 ("wrong nlmsg len"): there the guest's agent alone tells the address.
        _add_agent(devices)


def _add_agent(devices: ET.Element, path: str = "") -> None:
    channel = _sub(devices, "channel", type="unix")
    if path:
        _sub(channel, "source", mode="bind", path=path)
    _sub(channel, "target", type="virtio", name=AGENT)


def identity_element(identity: Identity) -> ET.Element:
    """`<lbctl:replica …/>`, as it stands in `<metadata>`."""
    values = {f.name: str(getattr(identity, f.name)) for f in fields(Identity)}
    return ET.Element(f"{{{METADATA_URI}}}replica", values)


def identity_xml(identity: Identity) -> str:
    """The same as text without prefix, as `virDomainSetMetadata` wants it."""
    element = ET.Element("replica", dict(identity_element(identity).attrib))
    return ET.tostring(element, encoding="unicode")


def parse_identity(text: str) -> Identity:
    """The identity in a `<replica>` element, or in a whole domain's XML.

    Raises DomainXmlError where there is none or it is not ours to read.
    """
    try:
        root = ET.fromstring(text)  # noqa: S314 - written by libvirt, on a trusted connection
    except ET.ParseError as error:
        raise DomainXmlError(f"unreadable metadata: {error}") from error
    found = (
        root if root.tag.endswith("replica") else root.find(f"metadata/{{{METADATA_URI}}}replica")
    )
    if found is None:
        raise DomainXmlError("no metadata of ours")
    try:
        return Identity(
            instance=found.attrib["instance"],
            service=found.attrib["service"],
            generation=found.attrib["generation"],
            app_port=int(found.attrib["app_port"]),
            cpu_limit=float(found.attrib["cpu_limit"]),
            created_at=float(found.attrib["created_at"]),
            host_port=int(found.attrib["host_port"]),
            phase=found.attrib["phase"],
            role=found.attrib.get("role", "replica"),
            cut=found.attrib.get("cut", ""),
            protected=found.attrib.get("protected") == "True",
            path=found.attrib.get("path", "cold"),
        )
    except (KeyError, ValueError) as error:
        raise DomainXmlError(f"metadata of ours that cannot be read: {error}") from error


def host_offers_kvm(capabilities: str, expanded_cpu: str) -> bool:
    """Whether KVM *really* runs guests there.

    A device node is not enough: where the host's CPU shows neither vmx nor svm, KVM is a
    paravirtual one under which an ordinary guest hangs in early boot. `expanded_cpu` is the host
    CPU with its model's features spelt out.
    """
    offered = any(
        node.get("type") == "kvm"
        for node in ET.fromstring(capabilities).iterfind("guest/arch/domain")  # noqa: S314
    )
    if not offered or not expanded_cpu:
        return False
    cpu = ET.fromstring(expanded_cpu)  # noqa: S314
    names = {feature.get("name") for feature in cpu.iter("feature")}
    return bool(names & {"vmx", "svm"})


def host_relabels(capabilities: str) -> bool:
    """Whether files can be exempted from changing their owner: where the `dac` model is missing
    (libvirt without root), nothing is chowned, and naming it is refused."""
    models = ET.fromstring(capabilities).iterfind("host/secmodel/model")  # noqa: S314
    return any(model.text == "dac" for model in models)


def host_cpu_xml(capabilities: str) -> str:
    """The `<cpu>` of the host out of its capabilities, empty where none is told."""
    cpu = ET.fromstring(capabilities).find("host/cpu")  # noqa: S314
    return "" if cpu is None else ET.tostring(cpu, encoding="unicode")
