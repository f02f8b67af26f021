"""What libvirt's errors mean for us: connection lost, no such thing here, what a host lacks. Pure.

Owns the sets of codes and words. It must not import libvirt: the numbers are part of its ABI, and a
test compares them with the library's. The words are QEMU's and the C library's, which libvirt hands
on as they are, and some of libvirt's own.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Collection
from enum import IntEnum

from autoscale.host import DiskFull, DomainRefused, ImageLost, NoMemory, NoPort


class Code(IntEnum):
    """`virErrorNumber`, those that we tell apart."""

    NO_SUPPORT = 3
    NO_CONNECT = 5
    INVALID_CONN = 6
    SYSTEM_ERROR = 38
    RPC = 39
    AUTH_FAILED = 45
    CONFIG_UNSUPPORTED = 67
    ARGUMENT_UNSUPPORTED = 74
    OPERATION_UNSUPPORTED = 84
    AGENT_UNRESPONSIVE = 86


class Origin(IntEnum):
    """`virErrorDomain`: which part of libvirt says so."""

    RPC = 7
    REMOTE = 13


_LOST = {Code.NO_CONNECT, Code.INVALID_CONN, Code.RPC, Code.AUTH_FAILED}
_NO_LIMITS = {
    Code.NO_SUPPORT,
    Code.CONFIG_UNSUPPORTED,
    Code.ARGUMENT_UNSUPPORTED,
    Code.OPERATION_UNSUPPORTED,
}
_NO_LIMITS_WORDS = (
    "controller is not mounted",
    "not available in session mode",
    "unsupported flags",
)

_NO_MEMORY = (
    "cannot allocate memory",
    "out of memory",
    "cannot set up guest memory",
    "not enough memory",
)
_DISK_FULL = (
    "no space left",
    "disk quota exceeded",
    "file too large",
    "failed to write master key file",  # libvirt's, 32 bytes into a file that it has just made
)
_NO_PORT = ("host forwarding rule", "address already in use", "cannot assign requested address")
_SHORTAGES = (*_NO_MEMORY, *_DISK_FULL, *_NO_PORT, "too many open files", "resource temporarily")
_UNREADABLE = (
    "no such file",
    "permission denied",
    "could not load",
    "could not open",
    "could not read",
    "input/output error",
    "stale file handle",
)
_SAYS_LITTLE = ("internal error", "failed to write", "unable to write")
LEAST_FREE_BYTES = 1 << 20
"""A domain's own files (its XML, keys, sockets, log) are some 100 KiB. With less than this nothing
starts, and what libvirt says then depends on which of them came first."""
_LONGEST = 400
_CHILD = re.compile(r"Child process \((?P<command>.*)\) unexpected ", re.DOTALL)
"""The command begins with its environment: 450 characters, and after them the cause."""

_LACKS: dict[type[DomainRefused], tuple[str, ...]] = {
    DiskFull: _DISK_FULL,
    NoPort: _NO_PORT,
    NoMemory: _NO_MEMORY,
}
_ERRNO = {
    errno.ENOMEM: NoMemory,
    errno.ENOSPC: DiskFull,
    errno.EDQUOT: DiskFull,
    errno.EFBIG: DiskFull,
    errno.EADDRINUSE: NoPort,
    errno.EADDRNOTAVAIL: NoPort,
}


def is_lost(code: int) -> bool:
    """Whether a call failed for want of its connection. In doubt it did: nothing is known then."""
    return code in _LOST or code == Code.SYSTEM_ERROR


def is_creation_lost(code: int, origin: int, alive: bool) -> bool:
    """The same of a creation: lost, the domain may exist, and else it was refused.

    A system error is a lost connection where our own side says so ("Cannot recv data: Connection
    reset by peer"); the host's own (no memory, no such file) is its refusal.
    """
    if code == Code.SYSTEM_ERROR:
        return origin in (Origin.RPC, Origin.REMOTE) or not alive
    return code in _LOST


def cannot_limit(code: int, message: str) -> bool:
    """Whether the host never can limit CPU, or only could not this time."""
    return code in _NO_LIMITS or _any_of(_NO_LIMITS_WORDS, message.lower())


def is_shortage(refused: DomainRefused) -> bool:
    """Whether the host lacked something that it may have again the next moment."""
    return type(refused) in _LACKS or _any_of(_SHORTAGES, str(refused).lower())


def in_one_line(message: str) -> str:
    """A host's words in one line with the cause in it: of a command that failed the name alone,
    without its environment and arguments."""
    return " ".join(_CHILD.sub(_program, message, count=1).split())[:_LONGEST]


def _program(found: re.Match[str]) -> str:
    words = [word for word in found["command"].split() if "=" not in word.partition("/")[0]]
    name = words[0].rpartition("/")[2] if words else "child process"
    return f"{name} ended with "


def refusal(
    message: str, files: Collection[str] = (), free_bytes: Callable[[], int | None] | None = None
) -> DomainRefused:
    """Which kind of refusal a host's words mean, and what to do about it. `files`: those that the
    domain boots from, as the host was told of them; libvirt also misses files of its own.
    `free_bytes`: room on the host's disk, None where that cannot be seen; asked where the words
    name no cause."""
    lacks = shortage(message)
    if lacks is not None:
        return lacks
    text = message.lower()
    unreadable = _any_of(_UNREADABLE, text)
    if unreadable and any(file and file in message for file in files):
        return told(ImageLost, message)
    if free_bytes is not None and not unreadable and _any_of(_SAYS_LITTLE, text):
        free = free_bytes()
        if free is not None and free < LEAST_FREE_BYTES:
            return told(DiskFull, f"{message}; its disk has {free // 1024} KiB free")
    return DomainRefused(message)


def shortage(message: str) -> DomainRefused | None:
    """What a host lacks by its own words; None where they are of something else."""
    text = message.lower()
    for kind, words in _LACKS.items():
        if _any_of(words, text):
            return told(kind, message)
    return None


def own_refusal(error: Exception, message: str) -> DomainRefused | None:
    """The same where it was our own side that lacked something; None for any other error."""
    kind = _ERRNO.get(error.errno or 0) if isinstance(error, OSError) else None
    return told(kind, message) if kind is not None else None


def told(kind: type[DomainRefused], message: str) -> DomainRefused:
    """This refusal, with what to do about it."""
    return kind(f"{message}; {kind.fix}" if kind.fix else message)


def _any_of(words: Collection[str], text: str) -> bool:
    return any(word in text for word in words)
