"""Who acts on one instance's machines at a daemon that many processes can reach. Pure.

One home folder serves one process: a lock sees to that. A copy of the folder, or one shared by two
machines, is the same instance twice, and at a libvirt daemon both would adopt, start and end the
same machines. So the first defines a domain there that is never started, the holder; libvirt
refuses a second of that name. Its metadata says who holds, and a beat that changes as long as he
lives.

Owns the holder's XML, and whether somebody else's still counts. It must not do I/O.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

URI: Final = "urn:lbctl:holder:1"
BEAT_S: Final = 10.0
"""Between two beats."""
STALE_S: Final = 30.0
"""A holder whose beat did not change for so long, on our own clock, is gone. Clocks of two machines
may differ, so its time of the day says nothing; three beats, because one may wait for a slow
daemon."""

ET.register_namespace("lbctl", URI)


@dataclass(frozen=True, slots=True)
class Process:
    """Who acts: one process on one machine."""

    host: str
    pid: int
    started: str = ""
    """When it started, as the kernel counts; tells it from a later one of that number."""
    seat: str = ""
    """Boot and process namespace: where the same seat is, a number means the same process. Empty
    where nobody knows."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a holder says."""

    uuid: str
    process: Process
    since: float
    """Unix seconds."""
    beat: int
    """Another number each time."""


def name_of(instance: str) -> str:
    """What the holder of an instance's machines is called."""
    return f"lbctl-holder-{instance[:8]}"


def holder_xml(instance: str, record: Record, domain_type: str) -> str:
    """A domain that libvirt accepts and nobody starts."""
    domain = ET.Element("domain", type=domain_type)
    ET.SubElement(domain, "name").text = name_of(instance)
    ET.SubElement(domain, "uuid").text = record.uuid
    ET.SubElement(domain, "title").text = "held by lbctl up: not to be started"
    who = record.process
    ET.SubElement(
        ET.SubElement(domain, "metadata"),
        f"{{{URI}}}holder",
        host=who.host,
        pid=str(who.pid),
        started=who.started,
        seat=who.seat,
        since=repr(record.since),
        beat=str(record.beat),
    )
    ET.SubElement(domain, "memory", unit="MiB").text = "16"
    ET.SubElement(domain, "vcpu").text = "1"
    ET.SubElement(ET.SubElement(domain, "os"), "type").text = "hvm"
    return ET.tostring(domain, encoding="unicode")


def parse(xml: str) -> Record | None:
    """What a domain of that name says; None where it is none of ours: it has no such metadata."""
    root = ET.fromstring(xml)  # noqa: S314 - libvirt's own
    told = root.find(f"metadata/{{{URI}}}holder")
    if told is None:
        return None
    said = told.attrib
    pid, beat, since = said.get("pid", ""), said.get("beat", ""), said.get("since", "")
    return Record(
        uuid=root.findtext("uuid", ""),
        process=Process(
            said.get("host", "an unknown machine"),
            int(pid) if pid.isdigit() else 0,
            said.get("started", ""),
            said.get("seat", ""),
        ),
        since=_seconds(since),
        beat=int(beat) if beat.isdigit() else 0,
    )


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


@dataclass(frozen=True, slots=True)
class Watched:
    """Somebody else's holder as it was seen first with this beat."""

    uuid: str
    beat: int
    at: float
    """Monotonic, our own."""


def watched(before: Watched | None, record: Record, now: float) -> Watched:
    """What to remember of it: the instant of its last change."""
    if before is not None and (before.uuid, before.beat) == (record.uuid, record.beat):
        return before
    return Watched(record.uuid, record.beat, now)


def is_gone(record: Record, seen: Watched, now: float, *, us: Process, runs: bool) -> bool:
    """Whether nobody stands behind it any more. `runs`: a process of that number and start exists
    on this machine, which counts where he had the same seat as we have."""
    if us.seat and record.process.seat == us.seat:
        return not runs
    return now - seen.at >= STALE_S


def held_words(host: str, record: Record) -> str:
    """To be said where somebody else holds."""
    who = record.process
    since = datetime.fromtimestamp(record.since, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return (
        f"{host}: lbctl up on {who.host}, pid {who.pid}, acts on this instance's machines since"
        f" {since} UTC, so nothing is done here: stop one of the two, or give it an LBCTL_HOME of"
        f" its own, not a copy"
    )


def foreign_words(host: str, instance: str) -> str:
    """To be said where a domain of that name is none of ours, which is never touched."""
    name = name_of(instance)
    return (
        f"{host}: a domain {name} is there that lbctl did not define, so nobody can say there who"
        f" acts on this instance's machines, and nothing is done: rename or undefine it"
    )


def unwritable_words(host: str, instance: str, error: str) -> str:
    """To be said where libvirt refuses to write the holder."""
    return (
        f"{host}: the domain {name_of(instance)}, which says who acts there, cannot be written, so"
        f" nothing is done there: {error}"
    )
