"""What libvirt's errors mean for us: connection lost, or no such thing here. Pure.

Owns the sets of codes. It must not import libvirt: the numbers are part of its ABI, and a test
compares them with the library's.
"""

from __future__ import annotations

from enum import IntEnum


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

_SHORTAGES = ("cannot allocate memory", "out of memory", "no space left", "too many open files")


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
    text = message.lower()
    return code in _NO_LIMITS or any(words in text for words in _NO_LIMITS_WORDS)


def is_shortage(message: str) -> bool:
    """Whether the host lacked something that it may have again the next moment."""
    text = message.lower()
    return any(words in text for words in _SHORTAGES)
