"""The head of a save file: what is read, what is refused, and who the copy is."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale import domain_xml, saved_guest
from autoscale.domain_xml import HostSettings, Identity, VmSpec
from autoscale.saved_guest import (
    FIXED_BYTES,
    NewGuest,
    SavedGuest,
    UnknownSaveFormat,
    head,
    head_bytes,
    parse,
    renamed,
)

COOKIE = b"<cookie><slirpHelper/></cookie>"
IDENTITY = Identity("one", "web", "g1", 8080, 1.0, 1000.0, host_port=40001)
NEW = NewGuest(
    "web-b",
    "b9a3a1c6-7d2a-4a45-8ab9-3f4b0a0c2f3e",
    "2d1f8d3b-8e0c-4f10-9b53-0a9c6c1d7e21",
    replace(IDENTITY, created_at=2000.0, host_port=40002),
    "/logs/web-b.log",
    "/agents/b",
)


def tree(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314


def machine(network: str = "user") -> str:
    """The XML of a guest as libvirt would have saved it."""
    uuid = "11111111-2222-4333-8444-555555555555"
    spec = VmSpec("web-a", uuid, 384, 1, "/k", "/i", "/disk", "quiet", IDENTITY)
    text = domain_xml.domain_xml(
        spec, HostSettings("qemu", network, "/logs/web-a.log", "/agents/a")
    )
    root = tree(text)
    devices = root.find("devices")
    assert devices is not None
    console = ET.SubElement(devices, "console", {"type": "file"})
    ET.SubElement(console, "source", {"path": "/logs/web-a.log"})
    return ET.tostring(root, encoding="unicode")


def written(
    xml: bytes,
    cookie: bytes = COOKIE,
    *,
    magic: bytes = b"LibvirtQemudSave",
    version: int = 2,
    compression: int = 0,
    padding: int = 65536,
    spare: bytes = bytes(56),
) -> bytes:
    """A save file's head as libvirt's virQEMUSaveDataWrite lays it out."""
    data = xml + b"\0" + (cookie + b"\0" if cookie else b"") + bytes(padding)
    words = (version, len(data), 1, compression, len(xml) + 1 if cookie else 0)
    return magic + struct.pack("<5I", *words) + spare + data


def test_a_head_is_read_as_libvirt_wrote_it() -> None:
    file = written(machine().encode()) + b"QEVM"
    found = parse(file)
    assert found.xml == machine()
    assert found.cookie == COOKIE
    assert found.was_running
    assert file[found.stream_at :] == b"QEVM"
    assert head_bytes(file[:FIXED_BYTES]) == found.stream_at


def test_without_a_cookie_the_padding_is_not_xml() -> None:
    found = parse(written(machine().encode(), cookie=b""))
    assert (found.xml, found.cookie) == (machine(), b"")
    assert head(found) == written(machine().encode(), cookie=b"")


def test_writing_what_was_read_gives_the_same_bytes() -> None:
    file = written(machine().encode())
    assert head(parse(file)) == file


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (b"", "ends after 0 bytes"),
        (b"QEVM" * 50, "does not begin"),
        (written(b"<a/>", magic=b"LibvirtQemudPart"), "not finished"),
        (written(b"<a/>", version=3), "version 3"),
        (written(b"<a/>", version=1), "version 1"),
        (written(b"<a/>", compression=1), "compression 1"),
        (written(b"<a/>", spare=bytes(55) + b"\1"), "no meaning"),
        (written(b"<a/>")[:-1], "ends after"),
        (written(b"<a>"), "cannot be read"),
        (written(b"\xff"), "cannot be read"),
        (written(b"<a/>").replace(struct.pack("<I", 5), struct.pack("<I", 1 << 20)), "impossible"),
        (struct.pack("<16s5I56s", b"LibvirtQemudSave", 2, 0, 1, 0, 0, b""), "impossible"),
        (struct.pack("<16s5I56s", b"LibvirtQemudSave", 2, 4, 1, 0, 0, b"") + b"<a/>", "no end"),
        (
            struct.pack("<16s5I56s", b"LibvirtQemudSave", 2, 8, 1, 0, 5, b"") + b"<a/>\0<b/",
            "cookie",
        ),
        (struct.pack("<16s5I56s", b"LibvirtQemudSave", 2, 1 << 31, 1, 0, 0, b""), "impossible"),
    ],
)
def test_what_it_does_not_know_it_refuses(file: bytes, says: str) -> None:
    with pytest.raises(UnknownSaveFormat, match=says):
        parse(file)


@settings(max_examples=200)
@given(st.binary(max_size=300), st.integers(0, FIXED_BYTES + 40))
def test_damage_is_refused_or_harmless(noise: bytes, at: int) -> None:
    file = bytearray(written(b"<domain/>", padding=32))
    file[at : at + len(noise)] = noise
    try:
        found = parse(bytes(file))
    except UnknownSaveFormat:
        return
    assert parse(head(found)) == found


def test_a_copy_is_another_guest_in_everything_that_names_it() -> None:
    saved = parse(written(machine().encode()))
    made = renamed(saved, NEW)
    root = tree(made.xml)
    assert root.findtext("name") == NEW.name
    assert root.findtext("uuid") == NEW.uuid
    assert root.findtext("genid") == NEW.genid
    assert domain_xml.parse_identity(made.xml) == NEW.identity
    paths = [source.get("path") for source in root.iterfind("devices/*[@type='file']/source")]
    assert [path for path in paths if path] == ["/logs/web-b.log"] * 2
    assert "hostfwd=tcp:127.0.0.1:40002-:8080" in made.xml
    assert "systemd.hostname=web-b" in made.xml
    for old in ("web-a", "40001", "11111111", "/agents/a"):
        assert old not in made.xml


def test_a_copy_keeps_the_machine() -> None:
    saved = parse(written(machine().encode()))
    before, after = tree(saved.xml), tree(renamed(saved, NEW).xml)
    for path in ("memory", "vcpu", "cpu", "os/type", "os/kernel", "devices/disk", "features"):
        kept, new = before.find(path), after.find(path)
        assert kept is not None
        assert new is not None
        assert ET.tostring(kept) == ET.tostring(new)


def test_the_stream_stays_where_it_is_whatever_the_names_length() -> None:
    saved = parse(written(machine().encode()))
    for name in ("w", "w" * 200):
        made = head(renamed(saved, replace(NEW, name=name)))
        assert len(made) == saved.stream_at
        assert parse(made).cookie == COOKIE


def test_a_copy_of_a_copy_is_its_own_guest() -> None:
    once = parse(head(renamed(parse(written(machine().encode())), NEW)))
    twice = renamed(once, replace(NEW, name="web-c", identity=replace(IDENTITY, host_port=40003)))
    assert "web-b" not in twice.xml.replace(NEW.console_log, "")
    assert domain_xml.parse_identity(twice.xml).host_port == 40003


def test_an_xml_that_outgrew_the_head_is_refused() -> None:
    saved = parse(written(machine().encode(), padding=10))
    with pytest.raises(ValueError, match="in a head of"):
        head(renamed(saved, replace(NEW, name="w" * 200)))


def test_an_address_inside_the_guest_cannot_be_copied() -> None:
    saved = parse(written(machine("network:default").encode()))
    with pytest.raises(UnknownSaveFormat, match="no forwarded port"):
        renamed(saved, NEW)


@pytest.mark.parametrize("lost", ["uuid", "genid", "metadata"])
def test_a_part_that_must_change_and_is_missing_is_told(lost: str) -> None:
    root = tree(machine())
    element = root.find(lost)
    assert element is not None
    root.remove(element)
    saved = SavedGuest(ET.tostring(root, encoding="unicode"), COOKIE, True, 70_000)
    with pytest.raises(UnknownSaveFormat, match=lost):
        renamed(saved, NEW)


def test_the_fixed_part_is_as_long_as_libvirts() -> None:
    assert FIXED_BYTES == 16 + 5 * 4 + 14 * 4
    assert saved_guest.head_bytes(written(b"<a/>", cookie=b"", padding=0)) == FIXED_BYTES + 5
