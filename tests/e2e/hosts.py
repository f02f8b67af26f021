"""One physical host for a test: a libvirtd of its own in network, mount and host names of its own.

Owns the namespaces, the daemon and whatever runs in them: all of it is gone after `close`, also
when `start` failed halfway. It must not touch a process, a mount or a bridge outside of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import libvirt

from autoscale.threads import DaemonThreads
from tests.e2e.machine import until

T = TypeVar("T")

TOOLS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "libvirtd": "libvirt-daemon",
    "dnsmasq": "dnsmasq-base",
    "iptables": "iptables",
}
"""What a host is made of, and the package it comes from."""

FOLDERS = ("run/libvirt", "var/lib/libvirt", "etc/libvirt", "var/log/libvirt", "var/cache/libvirt")
CLONE_NEWNET = 0x40000000

# /sys shows the network namespace of whoever mounted it: without a new one, libvirt would read and
# write the machine's own bridges there. The cgroups below it are kept, or there are no CPU limits.
# A /run of its own hides systemd, D-Bus and firewalld, which would act on the machine itself.
DAEMON = """
set -e
printf %s "$2" >/proc/sys/kernel/hostname
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir /run/libvirt
root=$1
shift 2
for folder; do mount --bind "$root/$folder" "/$folder"; done
exec libvirtd --config /etc/libvirt/libvirtd.conf
"""

LIBVIRTD_CONF = """
host_uuid = "{host_uuid}"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
log_outputs = "2:stderr"
"""
QEMU_CONF = """
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
"""


class PhysicalHost:
    """A libvirtd that is alone in its network namespace. Root only."""

    def __init__(self, qemu_conf: str = QEMU_CONF) -> None:
        # short: libvirt's sockets live below it
        self.root = Path(tempfile.mkdtemp(prefix="lbhost-", dir="/tmp"))
        self.name = self.root.name
        self._qemu_conf = qemu_conf
        self._netns = Path("/run/netns") / self.name
        self._log = (self.root / "libvirtd.log").open("ab")
        self._daemon: subprocess.Popen[bytes] | None = None
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._calls = DaemonThreads(1, self.name)
        self._conn: Any = None

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.root}/run/libvirt/libvirt-sock"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Namespaces and daemon; returns when libvirt answers."""
        missing = {package for tool, package in TOOLS.items() if not shutil.which(tool)}
        assert not missing, f"apt-get install {' '.join(sorted(missing))}"
        for folder in (*FOLDERS, "cgroup"):
            (self.root / folder).mkdir(parents=True)
        conf = self.root / "etc/libvirt"
        (conf / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(host_uuid=uuid.uuid4()))
        (conf / "qemu.conf").write_text(self._qemu_conf)
        _run("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")
        self.start_daemon()

    def start_daemon(self) -> None:
        """Also again, after its death: it finds the guests of the one before."""
        self._disconnect()
        self._daemon = self.spawn(
            *("unshare", "--mount", "--uts", "sh", "-c", DAEMON, "sh"),
            *(str(self.root), self.name, *FOLDERS),
        )
        until(self._answers, 30, "libvirtd does not answer")

    def _answers(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.poll() is None, f"libvirtd ended:\n{self.log()}"
        if not Path(self.uri.partition("=")[2]).exists():
            return False
        try:
            self._conn = self._calls.submit(lambda: libvirt.open(self.uri)).result(20)
        except libvirt.libvirtError:
            return False
        return True

    def log(self) -> str:
        return (self.root / "libvirtd.log").read_text(encoding="utf-8", errors="replace")

    # --- acting on it

    def run(self, *command: str) -> str:
        """A command inside; what it printed."""
        return _run("nsenter", f"--net={self._netns}", *command)

    def spawn(self, *command: str) -> subprocess.Popen[bytes]:
        """A process inside. It ends with the host at the latest."""
        process = subprocess.Popen(
            ["nsenter", f"--net={self._netns}", *command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd="/",
        )
        self._spawned.append(process)
        return process

    def api(self, work: Callable[[Any], T], seconds: float = 30.0) -> T:
        """Call `work(connection)`, on a thread, because a daemon that hangs must not hang us."""
        return self._calls.submit(lambda: work(self._conn)).result(seconds)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it starts, is in the host's network namespace meanwhile."""
        outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        inside = os.open(self._netns, os.O_RDONLY)
        try:
            _enter(inside)
            yield
        finally:
            _enter(outside)
            os.close(inside)
            os.close(outside)

    # --- the end

    def close(self) -> None:
        """End everything in the namespace, then the namespace, then the files."""
        print(self.log()[-4000:])  # pytest shows it where the test failed
        with contextlib.ExitStack() as stack:
            # each of these runs whatever became of those before it; the last one comes first
            stack.callback(shutil.rmtree, self.root)
            stack.callback(self._log.close)
            stack.callback(self._remove_cgroups)
            stack.callback(self._remove_namespace)
            stack.callback(self._end_processes)
            stack.callback(self._calls.close)
            stack.callback(self._disconnect)
            stack.callback(self._end_guests)

    def _disconnect(self) -> None:
        if self._conn is not None:
            with contextlib.suppress(TimeoutError, libvirt.libvirtError):
                self.api(lambda conn: conn.close(), 5)
        self._conn = None

    def freeze(self) -> None:
        """The daemon answers nothing until `thaw`; its guests run on."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGCONT)

    def kill_daemon(self) -> None:
        """kill -9; its guests run on."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait(10)

    def processes(self, name: str = "") -> list[int]:
        """Who runs in the namespace: started by us, or by what we started."""
        try:
            ours = self._netns.stat()
        except FileNotFoundError:
            return []
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):  # it ended meanwhile
                theirs = (entry / "ns/net").stat()
                if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) and (
                    name in (entry / "cmdline").read_text(errors="replace").split("\0")[0]
                ):
                    found.append(int(entry.name))
        return found

    def _end_guests(self) -> None:
        """Before the daemon, which removes what belonged to them."""
        _kill(self.processes("qemu-system"))
        until(lambda: not self.processes("qemu-system"), 10, "QEMU does not end")

    def _end_processes(self) -> None:
        if self._daemon is not None:
            self.thaw()
            self._daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._daemon.wait(10)
        _kill(self.processes())
        for process in self._spawned:
            process.wait(10)
        until(lambda: not self.processes(), 10, "processes of the namespace do not end")

    def cgroups(self) -> list[Path]:
        """Those libvirt made for its guests, one a controller. A guest that ends together with the
        daemon leaves them behind."""
        logs = (self.root / "var/log/libvirt/qemu").glob("*.log")  # one a guest that ever started
        return [
            found
            for log in logs
            for above in ("", "*/")  # cgroups version 2, version 1
            for found in Path("/sys/fs/cgroup").glob(
                f"{above}machine/qemu-*-{log.stem}.libvirt-qemu"
            )
        ]

    def _remove_cgroups(self) -> None:
        for group in self.cgroups():
            for folder, _, _ in os.walk(group, topdown=False):
                Path(folder).rmdir()

    def _remove_namespace(self) -> None:
        if self._netns.exists():
            _run("ip", "netns", "delete", self.name)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def _enter(namespace: int) -> None:
    # os.setns comes with Python 3.12
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _kill(processes: Sequence[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
