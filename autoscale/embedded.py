"""The folder that libvirt's embedded driver lives in, and what its refusals mean.

`qemu:///embed` runs libvirt inside our process, with its state under a root of ours. Owns that
root's layout and its qemu.conf; it must not import libvirt.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from autoscale.host import HostUnreachable

LONGEST_SOCKET_PATH = 107
"""sockaddr_un holds 108 bytes with the closing NUL."""

_LONGEST_SOCKET = "lib/qemu/domain-99999-nnnnnnnnnnnnnnnnnnnn/monitor.sock"
"""libvirt keeps at most 20 characters of a domain's name here."""


_QEMU_CONF = """\
# QEMU runs as whoever runs us, so that the home folder need not be open to anybody else.
user = "+{uid}"
group = "+{gid}"
security_driver = "none"
stdio_handler = "file"
# It can read its files already: nothing is to be chowned, or remembered about owners.
dynamic_ownership = 0
remember_owner = 0
"""


def root_folder(home: Path) -> Path:
    return home / "libvirt"


def excess_path_length(root: Path) -> int:
    """By how many characters a root is too long for libvirt's sockets; 0 where it fits."""
    return max(0, len(os.fsencode(root / _LONGEST_SOCKET)) - LONGEST_SOCKET_PATH)


@dataclass(frozen=True, slots=True)
class EmbeddedRoot:
    """The root that one `qemu:///embed` connection uses."""

    uri: str
    """With its root spelt out."""
    folder: Path
    chosen: bool
    """Whether the operator wrote it into the URI; else it is in our home folder."""

    @staticmethod
    def of(uri: str, home: Path) -> EmbeddedRoot | None:
        """None where the URI is another driver's."""
        if not uri.startswith("qemu:///embed"):
            return None
        roots = parse_qs(urlsplit(uri).query).get("root", [])
        if roots:
            return EmbeddedRoot(uri, Path(roots[-1]), chosen=True)
        folder = root_folder(home)
        joint = "&" if "?" in uri else "?"
        return EmbeddedRoot(f"{uri}{joint}root={quote(str(folder))}", folder, chosen=False)

    @property
    def logs(self) -> Path:
        """Where libvirt keeps a log of each domain."""
        return self.folder / "log" / "qemu"

    @property
    def _setting(self) -> str:
        return "root= in the hypervisor's uri" if self.chosen else "LBCTL_HOME"

    def prepare(self) -> None:
        """Make it and its configuration. Raises HostUnreachable with what to do."""
        excess = excess_path_length(self.folder)
        if excess:
            raise HostUnreachable(
                f"{self.folder} is {excess} characters too long for libvirt's sockets:"
                f" set {self._setting} to a shorter folder"
            )
        conf = self.folder / "etc" / "qemu.conf"
        if self.chosen and conf.exists():
            return  # the operator's own
        try:
            conf.parent.mkdir(parents=True, exist_ok=True)
            conf.write_text(_QEMU_CONF.format(uid=os.getuid(), gid=os.getgid()), encoding="utf-8")
        except OSError as error:
            raise HostUnreachable(
                f"cannot prepare {self.folder}: {error.strerror}:"
                f" set {self._setting} to a folder you can write"
            ) from error

    def sweep(self, there: Collection[str]) -> set[str]:
        """Remove what is left of domains whose start a kill -9 cut short: libvirt knows nothing of
        them any more. `there` names every domain it does know. Returns the names of the others."""
        lib, run = self.folder / "lib" / "qemu", self.folder / "run" / "qemu"
        folders = [*lib.glob("domain-*-*"), *lib.glob("channel/target/domain-*-*")]
        found = {path: path.name.split("-", 2)[2] for path in folders}
        found |= {path: path.name.removesuffix(".xml.new") for path in run.glob("*.xml.new")}
        gone = set()
        for path, name in found.items():
            if any(known.startswith(name) for known in there):
                continue  # libvirt cuts long names
            gone.add(name)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return gone

    @property
    def _owner(self) -> str:
        """Who has it open, as its lock file says; libvirt writes its process id there."""
        try:
            pid = (self.folder / "run/qemu/driver.pid").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            pid = ""
        return f"process {pid}" if pid.isdigit() else "another process"

    def explain(self, message: str) -> str:
        """libvirt's reason for not opening it → what to do about it."""
        text = message.lower()
        if "driver.pid" in text or "pid file" in text:
            return f"{self._owner} is using {self.folder}: stop it, or set {self._setting}"
        if "libvirt-qemu" in text:
            return "the user libvirt-qemu is missing: install the package libvirt-daemon-system"
        if "no connection driver" in text:
            return "libvirt has no driver for it: install the package libvirt-daemon-driver-qemu"
        return message
