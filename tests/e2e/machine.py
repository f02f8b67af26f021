"""A real `lbctl up` in a home of its own, and the proof that it left nothing behind.

Owns the process, its home folder and whatever VMs it started: all of it is gone after `close`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
BOOT_S = 90.0
"""A boot takes 5 to 10 s alone; other tests may be using the cores."""


def until(happened: Callable[[], Any], seconds: float, otherwise: str, look_s: float = 0.1) -> Any:
    """Wait for a truthy value and return it; fail with `otherwise`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = happened()
        if found:
            return found
        time.sleep(look_s)
    raise AssertionError(f"{otherwise} within {seconds:g} s")


def free_address() -> str:
    """Of a port on loopback that nobody has now: for one that must be the same after a restart."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def qemus(home: Path) -> list[int]:
    """The processes that run guests of this home."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"qemu-system" in command.split(b"\0")[0] and os.fsencode(home) in command:
                found.append(int(entry.name))
    return found


class Machine:
    """`lbctl up` with a configuration, started and stopped at will."""

    def __init__(
        self, images: Path, service: str = "", vm: str = "", listen: str = "127.0.0.1:0"
    ) -> None:
        # short: libvirt's sockets live below it
        self.home = Path(tempfile.mkdtemp(prefix="lbe2e-", dir="/tmp"))
        (self.home / "images").symlink_to(images)
        self.config = self.home / "lb.toml"
        self._listen = listen
        self.health = ""
        """More keys of the service's health checks, for the next configuration."""
        self._write_config(service, vm)
        self._log = (self.home / "up.log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None
        self.proxy = ""

    def _write_config(self, service: str, vm: str) -> None:
        self.config.write_text(
            f"""
[proxy]
listen = "{self._listen}"
shutdown_grace = 5
[admin]
listen = "127.0.0.1:0"
[service.web.health]
interval_down = 0.1
{self.health}
[service.web.vm]
shutdown_timeout = 10
{vm}
{service}
""",
            encoding="utf-8",
        )

    def configure(self, service: str, vm: str = "") -> None:
        """Another configuration, taken over at once where it runs."""
        self._write_config(service, vm)
        if self.process is not None:
            self.lbctl("config", "apply")

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LBCTL_HOME": str(self.home)}

    def start(self, *arguments: str) -> None:
        """Start it and wait until it listens."""
        seen = len(self.log())
        self.process = subprocess.Popen(
            [BIN / "lbctl", "up", "-c", self.config, *arguments],
            env=self.environment,
            stdout=self._log,
            stderr=self._log,
            cwd="/",
        )
        until(
            lambda: "serving at" in self.log()[seen:] or (self.process and self.process.poll()),
            30,
            "it did not start",
        )
        assert self.process.poll() is None, self.log()[seen:]
        line = next(part for part in self.log()[seen:].splitlines() if "serving at" in part)
        self.proxy = line.split()[-1]

    def log(self) -> str:
        return (self.home / "up.log").read_text(encoding="utf-8", errors="replace")

    def lbctl(self, *arguments: str) -> Any:
        """A command's JSON."""
        done = subprocess.run(
            [BIN / "lbctl", *arguments, "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def get(self, path: str = "/render?work=1", seconds: float = 30.0) -> tuple[int, str]:
        """Status and the replica that answered."""
        try:
            with urllib.request.urlopen(self.proxy + path, timeout=seconds) as answer:
                return answer.status, answer.headers.get("X-Replica", "")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""

    def api(self, path: str) -> Any:
        """What the admin API answers, asked without lbctl."""
        url = (self.home / "admin.url").read_text(encoding="ascii").strip()
        with urllib.request.urlopen(f"{url}/api/v1/{path}", timeout=30) as answer:
            return json.load(answer)

    def ready(self) -> list[dict[str, Any]]:
        return [b for b in self.lbctl("pool") if b["lifecycle"] == "ready" and b["healthy"]]

    def wait_ready(self, count: int, seconds: float = BOOT_S) -> list[dict[str, Any]]:
        def enough() -> list[dict[str, Any]]:
            found = self.ready()
            return found if len(found) == count else []

        found: list[dict[str, Any]] = until(enough, seconds, f"not {count} ready replicas")
        return found

    def events(self, kind: str, since: int | None = None) -> list[dict[str, Any]]:
        """Those of a kind, the oldest first; with `since`, only those after that id."""
        return [event for event in self.journal(since) if event["kind"] == kind]

    def journal(self, since: int | None = None) -> list[dict[str, Any]]:
        after = "" if since is None else f"&since={since}"
        found: list[dict[str, Any]] = self.api(f"events?limit=1000{after}")["events"]
        return found

    def last_event(self) -> int:
        """The id of the newest."""
        return int(self.api("events?limit=1")["last_id"])

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait_ended(self, seconds: float = 60.0) -> int:
        assert self.process is not None
        code = self.process.wait(seconds)
        self.process = None
        return code

    def kill(self) -> None:
        """kill -9, as a crash would."""
        self.signal(signal.SIGKILL)
        self.wait_ended()

    def close(self) -> None:
        """End the process and every VM, and prove that nothing is left."""
        print(self.log()[-8000:])  # pytest shows it where the test failed
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
        self._log.close()
        try:
            for guest in qemus(self.home):
                os.kill(guest, signal.SIGKILL)
            until(lambda: not qemus(self.home), 10, "QEMU processes do not end")
        finally:
            shutil.rmtree(self.home, ignore_errors=True)


@contextmanager
def machine_of(
    images: Path, service: str = "", vm: str = "", listen: str = "127.0.0.1:0"
) -> Iterator[Machine]:
    """A Machine that is gone with all its VMs afterwards."""
    made = Machine(images, service, vm, listen)
    try:
        yield made
    finally:
        made.close()
