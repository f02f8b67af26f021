"""The head of a libvirt save file, and the same guest's head under another name. Pure.

libvirt refuses to restore a saved guest under another UUID, yet all that binds the file to one
guest is the XML in its head: with another head before the same QEMU stream it is a second guest.
Owns that format (libvirt's src/qemu/qemu_saveimage.h) and what is changed in the XML. It must not
open files: `saved_stream` does.

    16 bytes   LibvirtQemudSave (LibvirtQemudPart while libvirt still writes it)
    5 words    version, data length, was running, compression, cookie offset: 32 bits, little-endian
    14 words   spare, zero
    data       the XML and a NUL, the cookie and a NUL, zeros: 64 KiB more than was needed
    stream     QEMU's own
"""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace

from autoscale.domain_xml import METADATA_URI, QEMU_URI, Identity, identity_element

FIXED_BYTES = 92
"""Magic and words: what must be read to know how long the head is."""

_MAGIC, _UNFINISHED = b"LibvirtQemudSave", b"LibvirtQemudPart"
_WORDS = struct.Struct("<16s5I56s")
_VERSION = 2
_LONGEST_DATA = 16 * 1024 * 1024
"""Ours is 69 KB. A length beyond this is no length."""

_FORWARD = re.compile(r"(?<=hostfwd=tcp:127\.0\.0\.1:)\d+(?=-:)")
_HOSTNAME = re.compile(r"(?<=systemd\.hostname=)\S+")


class UnknownSaveFormat(ValueError):
    """Not a save file as this file knows it; the message says in what, for the operator."""


@dataclass(frozen=True, slots=True)
class SavedGuest:
    """All that libvirt wrote before QEMU's stream."""

    xml: str
    cookie: bytes
    """libvirt's notes on QEMU's features, without its NUL; empty where it wrote none."""
    was_running: bool
    """Whether a restore lets it run at once."""
    data_bytes: int
    """Length of the data, padding included."""

    @property
    def stream_at(self) -> int:
        """Where QEMU's stream begins in the file, bytes."""
        return FIXED_BYTES + self.data_bytes


def head_bytes(fixed: bytes) -> int:
    """How long the head is, by its first FIXED_BYTES. Raises UnknownSaveFormat."""
    return FIXED_BYTES + _words(fixed)[0]


def parse(head: bytes) -> SavedGuest:
    """The head of a file, `head_bytes` long (more does no harm). Raises UnknownSaveFormat."""
    length, running, cookie_at = _words(head)
    data = head[FIXED_BYTES : FIXED_BYTES + length]
    if len(data) < length:
        raise UnknownSaveFormat(f"it ends after {len(data)} of {length} bytes of data")
    text, end, _ = data[: cookie_at or length].partition(b"\0")
    if not end:
        raise UnknownSaveFormat("its XML has no end")
    cookie, end, _ = data[cookie_at:].partition(b"\0") if cookie_at else (b"", b"\0", b"")
    if not end:
        raise UnknownSaveFormat("its cookie has no end")
    try:
        xml = text.decode()
        ET.fromstring(xml)  # noqa: S314 - written by libvirt
    except (UnicodeDecodeError, ET.ParseError) as error:
        raise UnknownSaveFormat(f"its XML cannot be read: {error}") from error
    return SavedGuest(xml, cookie, bool(running), length)


def _words(fixed: bytes) -> tuple[int, int, int]:
    """Data length, was running, cookie offset."""
    if len(fixed) < FIXED_BYTES:
        raise UnknownSaveFormat(f"it ends after {len(fixed)} bytes")
    magic, version, length, running, compression, cookie_at, spare = _WORDS.unpack_from(fixed)
    if magic == _UNFINISHED:
        raise UnknownSaveFormat("libvirt had not finished writing it")
    if magic != _MAGIC:
        raise UnknownSaveFormat("it does not begin as a libvirt save file does")
    if version != _VERSION:
        raise UnknownSaveFormat(f"version {version} of the format, where {_VERSION} is known")
    if compression != 0:
        # the stream would do, but which compressors there are differs from libvirt to libvirt
        raise UnknownSaveFormat(
            f"compression {compression}: set save_image_format = raw in qemu.conf"
        )
    if running not in (0, 1) or any(spare):
        raise UnknownSaveFormat("words are set that had no meaning")
    if not 0 < length <= _LONGEST_DATA or cookie_at > length:
        raise UnknownSaveFormat(f"impossible lengths: data {length}, cookie at {cookie_at}")
    return length, running, cookie_at


def head(guest: SavedGuest) -> bytes:
    """A head for `guest`, exactly `stream_at` long, so that the stream may stay where it is.

    Raises ValueError where the XML has outgrown the 64 KiB that libvirt leaves for that.
    """
    text = guest.xml.encode() + b"\0"
    data = text + (guest.cookie + b"\0" if guest.cookie else b"")
    if len(data) > guest.data_bytes:
        raise ValueError(f"{len(data)} bytes of XML and cookie in a head of {guest.data_bytes}")
    cookie_at = len(text) if guest.cookie else 0
    words = (_VERSION, guest.data_bytes, int(guest.was_running), 0, cookie_at)
    return _WORDS.pack(_MAGIC, *words, bytes(56)) + data.ljust(guest.data_bytes, b"\0")


@dataclass(frozen=True, slots=True)
class NewGuest:
    """Who the copy shall be."""

    name: str
    uuid: str
    genid: str
    """A fresh UUID: by it a kernel that knows VMGENID sees that it is a copy."""
    identity: Identity
    """With the forwarded port that is free for it."""
    console_log: str
    """File for its console; empty where the saved one has a pty."""
    agent_socket: str = ""
    """Where libvirt shall reach its agent; as for the saved one, empty is libvirt's own choice."""


def renamed(saved: SavedGuest, new: NewGuest) -> SavedGuest:
    """The same machine under another identity: nothing that its kernel saw of it is changed.

    Raises UnknownSaveFormat where the XML lacks what must be changed: two guests would else
    share a port, or one of them pass for the other.
    """
    root = ET.fromstring(saved.xml)  # noqa: S314 - written by libvirt
    _the(root, "name").text = new.name
    _the(root, "uuid").text = new.uuid
    _the(root, "genid").text = new.genid
    metadata = _the(root, "metadata")
    metadata.remove(_the(root, f"metadata/{{{METADATA_URI}}}replica"))
    metadata.append(identity_element(new.identity))
    for line in root.iterfind("os/cmdline"):
        # read again only if it reboots; what it was started with stays in its memory
        line.text = _HOSTNAME.sub(new.name, line.text or "")
    for source in (
        *root.iterfind("devices/serial[@type='file']/source"),
        *root.iterfind("devices/console[@type='file']/source"),
    ):
        source.set("path", new.console_log)
    for source in root.iterfind("devices/channel[@type='unix']/source[@path]"):
        source.set("path", new.agent_socket)
    _forward(root, new.identity.host_port)
    return replace(saved, xml=ET.tostring(root, encoding="unicode"))


def _forward(root: ET.Element, port: int) -> None:
    arguments = [
        argument
        for argument in root.iterfind(f"{{{QEMU_URI}}}commandline/{{{QEMU_URI}}}arg")
        if _FORWARD.search(argument.get("value", ""))
    ]
    if len(arguments) != 1:
        # its address lies inside the guest, and the copy would answer at the same one
        raise UnknownSaveFormat("no forwarded port in its XML")
    arguments[0].set("value", _FORWARD.sub(str(port), arguments[0].get("value", "")))


def _the(root: ET.Element, path: str) -> ET.Element:
    found = root.find(path)
    if found is None:
        raise UnknownSaveFormat(f"no <{path.rpartition('}')[2]}> in its XML")
    return found
