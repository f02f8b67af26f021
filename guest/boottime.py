"""Boots an image once, by itself, to see that it serves and where its boot spends the time.

A self-check of the image build only: serving goes through libvirt and never through here.
"""

from __future__ import annotations

import re
import selectors
import socket
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# The console lines that end each part, in order. The initrd and the application print them; what
# lies between the two is systemd's and the application's, which says how much was its own.
MARKS = {
    "kernel": re.compile("initrd: loading drivers"),
    "initrd": re.compile("initrd: starting systemd"),
    "app": re.compile(r"webapp ready .* (?P<own>[\d.]+) s after its own"),
}
TOTAL = "total"  # from launch to an answer through the forwarded port
LIMIT_S = 120.0  # an emulated boot takes 5 to 6 s on a free core, 10 and more on a busy one
MEMORY_MIB = 384


class BootError(Exception):
    """The image did not serve in time; `console` holds the last lines the guest said."""

    def __init__(self, reason: str, console: str) -> None:
        super().__init__(reason)
        self.console = console


@dataclass
class Timeline:
    """When the guest's console said what, in seconds since launch."""

    seen: dict[str, float] = field(default_factory=dict)
    app_s: float = 0.0  # of the time until the application was ready, its own
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=40))
    _rest: str = ""

    def hear(self, text: str, at: float) -> None:
        """Take what the console said by `at`; lines may arrive in pieces."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self.lines.append(line.rstrip())
            for part, mark in MARKS.items():
                if said := mark.search(line):
                    self.seen.setdefault(part, at)
                    self.app_s = float(said.groupdict().get("own", self.app_s))

    def parts(self, answered: float) -> dict[str, float]:
        """Seconds of kernel (firmware included), initrd, systemd and app, and until `answered`."""
        kernel, initrd, ready = (self.seen.get(part, answered) for part in MARKS)
        spent = {
            "kernel": kernel,
            "initrd": initrd - kernel,
            "systemd": ready - initrd - self.app_s,
            "app": self.app_s,
            TOTAL: answered,
        }
        return {part: round(seconds, 2) for part, seconds in spent.items()}


def command(
    qemu: str, disk: Path, kernel: Path, initrd: Path, cmdline: str, port: int
) -> Sequence[str]:
    """A machine like the one that libvirt starts for a replica."""
    return [
        qemu,
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", "pc,usb=off", "-accel", "tcg", "-cpu", "qemu64,rdrand=on", "-smp", "1"),
        *("-m", str(MEMORY_MIB), "-serial", "stdio"),
        *("-kernel", str(kernel), "-initrd", str(initrd), "-append", cmdline),
        *("-drive", f"file={disk},format=raw,if=none,id=root,readonly=on"),
        *("-device", "virtio-blk-pci,drive=root"),
        *("-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:8080"),
        *("-device", "virtio-net-pci,netdev=n0,addr=0x10,romfile="),
    ]


def measure(
    qemu: str, disk: Path, kernel: Path, initrd: Path, cmdline: str, limit: float = LIMIT_S
) -> Mapping[str, float]:
    """Boot once; the seconds of each part. Raises BootError, OSError if QEMU cannot be started."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    line = f"{cmdline} systemd.hostname=selfcheck"
    started = time.monotonic()
    timeline = Timeline()
    with subprocess.Popen(  # noqa: S603
        command(qemu, disk, kernel, initrd, line, port),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            return timeline.parts(_wait(process, timeline, port, started, limit))
        finally:
            process.kill()


def _wait(
    process: subprocess.Popen[bytes], timeline: Timeline, port: int, started: float, limit: float
) -> float:
    """Listen to the console, then ask until it answers; the second at which it did."""
    assert process.stdout is not None  # noqa: S101
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (now := time.monotonic() - started) < limit:
            if selector.select(timeout=0.02):
                text = process.stdout.read1(65536).decode(errors="replace")  # type: ignore[attr-defined]
                if not text:
                    reason = f"QEMU ended with {process.wait()}"
                    raise BootError(reason, "\n".join(timeline.lines))
                timeline.hear(text, time.monotonic() - started)
            elif "app" in timeline.seen and _ready(port, limit - now):
                return time.monotonic() - started
    raise BootError(f"not ready after {limit:.0f} s", "\n".join(timeline.lines))


def _ready(port: int, patience: float) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=min(patience, 2.0)) as asked:
            asked.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            return b" 200 " in asked.recv(64)
    except OSError:
        return False
