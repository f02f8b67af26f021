"""The folder that libvirt's embedded driver lives in, and what its refusals mean.

`qemu:///embed` runs libvirt inside our process, with its state under a root of ours. Owns that
root's layout and its qemu.conf; it must not import libvirt.
"""

from __future__ import annotations

import os
from pathlib import Path

from autoscale.host import HostUnreachable

LONGEST_SOCKET_PATH = 107
"""sockaddr_un holds 108 bytes with the closing NUL."""

_LONGEST_SOCKET = "lib/qemu/domain-99999-nnnnnnnnnnnnnnnnnnnn/monitor.sock"
"""libvirt keeps at most 20 characters of a domain's name here."""


def root_folder(home: Path) -> Path:
    return home / "libvirt"


def excess_path_length(home: Path) -> int:
    """By how many characters LBCTL_HOME is too long for libvirt's sockets; 0 where it fits."""
    return max(0, len(os.fsencode(root_folder(home) / _LONGEST_SOCKET)) - LONGEST_SOCKET_PATH)


def prepare_root(home: Path) -> None:
    """Make the root and its configuration. Raises HostUnreachable with what to do."""
    root = root_folder(home)
    excess = excess_path_length(home)
    if excess:
        raise HostUnreachable(
            f"{root} is {excess} characters too long for libvirt's sockets:"
            " set LBCTL_HOME to a shorter folder"
        )
    try:
        (root / "etc").mkdir(parents=True, exist_ok=True)
        # QEMU runs as whoever runs us, so that the home folder need not be open to anybody else.
        (root / "etc" / "qemu.conf").write_text(
            f'user = "+{os.getuid()}"\ngroup = "+{os.getgid()}"\n'
            'security_driver = "none"\nstdio_handler = "file"\n'
            # It can read its files already: nothing is to be chowned, or remembered about owners.
            "dynamic_ownership = 0\nremember_owner = 0\n",
            encoding="utf-8",
        )
    except OSError as error:
        raise HostUnreachable(
            f"cannot prepare {root}: {error.strerror}: set LBCTL_HOME to a folder you can write"
        ) from error


def explain_open(uri: str, home: Path, message: str) -> str:
    """libvirt's reason for not opening a connection → what to do about it."""
    text = message.lower()
    if "driver.pid" in text or "pid file" in text:
        return f"another process is using {root_folder(home)}: stop it, or set LBCTL_HOME"
    if "libvirt-qemu" in text:
        return "the user libvirt-qemu is missing: install the package libvirt-daemon-system"
    if "no connection driver" in text:
        return f"libvirt has no driver for {uri}: install the package libvirt-daemon-driver-qemu"
    return f"cannot open {uri}: {message}"
