"""Debian's part of an image: which packages, from which mirror, by which tools of the host.

The only file that starts the build's tools. It does not know what a replica needs of the tree.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

SUITE = "bookworm"
PACKAGES = (
    "systemd",
    "busybox-static",
    "python3-aiohttp",
    "python3-prometheus-client",
    "linux-image-cloud-amd64",
)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEFAULT_SOURCES = (
    f"deb http://deb.debian.org/debian {SUITE} main",
    f"deb http://deb.debian.org/debian {SUITE}-updates main",
    f"deb http://deb.debian.org/debian-security {SUITE}-security main",
)
ARCHITECTURE = "amd64"

# Tools and the apt packages that bring them.
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "lz4": "lz4",
    "qemu-system-x86_64": "qemu-system-x86",
}
TOOLS_WITHOUT_ROOT = {"fakeroot": "fakeroot", "newuidmap": "uidmap"}


class ToolFailedError(Exception):
    """A tool ended with an error; `tail` holds the last lines it said."""

    def __init__(self, tool: str, tail: str) -> None:
        super().__init__(f"{tool} failed")
        self.tool = tool
        self.tail = tail


def sources(os_release: Mapping[str, str], targets: str) -> tuple[str, ...]:
    """apt lines for the image: the host's own mirrors where the host is this Debian release.

    `targets` is what `apt-get indextargets` prints with TARGETS_FORMAT.
    """
    if os_release.get("ID") != "debian" or os_release.get("VERSION_CODENAME") != SUITE:
        return DEFAULT_SOURCES
    found: dict[str, None] = {}
    for line in targets.splitlines():
        uri, suite, component, origin = (line.split("|") + [""] * 4)[:4]
        known = suite in (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
        if known and component == "main" and origin == "Debian":
            found[f"deb {uri} {suite} main"] = None
    if not any(f" {SUITE} " in line for line in found):
        return DEFAULT_SOURCES
    return tuple(found)


TARGETS_FORMAT = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"


def host_sources() -> tuple[str, ...]:
    """`sources` of this host."""
    release: dict[str, str] = {}
    try:
        for line in Path("/etc/os-release").read_text().splitlines():
            key, _, value = line.partition("=")
            release[key] = value.strip('"')
        targets = subprocess.run(  # noqa: S603
            ["apt-get", "indextargets", "--format", TARGETS_FORMAT, "Identifier: Packages"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        ).stdout
    except OSError:
        return DEFAULT_SOURCES
    return sources(release, targets)


def missing_tools(which: Callable[[str], str | None], *, root: bool) -> dict[str, str]:
    """The tools that are not there, and the apt packages that bring them."""
    needed = TOOLS if root else {**TOOLS, **TOOLS_WITHOUT_ROOT}
    return {tool: package for tool, package in needed.items() if which(tool) is None}


def which(tool: str) -> str | None:
    """Find a tool, in the system folders too, which an ordinary user's PATH may lack."""
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def debootstrap_command(tar: Path, apt_lines: Sequence[str], hooks: Iterable[str]) -> list[str]:
    """How mmdebstrap is called. Its mode is its own choice: root, else a user namespace."""
    return [
        "mmdebstrap",
        "--mode=auto",
        "--variant=minbase",
        f"--architectures={ARCHITECTURE}",
        f"--keyring={KEYRING}",
        f"--include={','.join(PACKAGES)}",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        '--aptopt=Apt::Install-Recommends "false"',
        *(f"--customize-hook={hook}" for hook in hooks),
        SUITE,
        str(tar),
        *apt_lines,
    ]


def run(command: Sequence[str], said: Callable[[str], None] = lambda line: None) -> None:
    """Run a tool, passing on each line it says; an interrupt ends it. Raises ToolFailedError."""
    program = which(command[0])
    if program is None:
        raise ToolFailedError(command[0], "not installed")
    environment = {**os.environ, "LC_ALL": "C", "INITRD": "No"}
    environment["PATH"] = f"{environment.get('PATH', '')}:/usr/sbin:/sbin"
    tail: deque[str] = deque(maxlen=40)
    process = subprocess.Popen(  # noqa: S603
        [program, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    )
    assert process.stdout is not None  # noqa: S101
    try:
        with process.stdout as lines:
            for line in lines:
                tail.append(line.rstrip())
                said(line.rstrip())
        code = process.wait()
    except BaseException:
        # mmdebstrap removes its own folder on SIGINT; it owns files an ordinary user could not
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    if code != 0:
        raise ToolFailedError(command[0], "\n".join(tail))


def bootstrap(tar: Path, hooks: Iterable[str], progress: Callable[[float], None]) -> None:
    """Install PACKAGES into a new tree and pack it into `tar`. Raises ToolFailedError.

    `hooks` are shell commands with the tree as `$1`, run by mmdebstrap at the end. `progress`
    hears 0 to 1, guessed from what apt says.
    """
    steps = {
        "I: downloading": 0.1,
        "I: extracting": 0.35,
        "I: installing essential": 0.45,
        "I: installing remaining": 0.6,
        "I: running --customize": 0.85,
        "I: creating": 0.95,
    }

    def said(line: str) -> None:
        for sign, done in steps.items():
            if line.startswith(sign):
                progress(done)

    run(debootstrap_command(tar, host_sources(), hooks), said)
