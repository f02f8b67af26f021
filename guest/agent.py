"""What the host may ask of a guest: as much of QEMU's guest agent as libvirt uses, and one more.

`lbctl-wake` tells a guest that slept, or that is a copy of another, who it is: fresh randomness
for the kernel, its name, and word of both to the application. Runs as root in every replica that
has the channel; copied into the image as this one file, and starts after the application, so it
imports little. It must answer every line whatever it holds, keep no more than MAX_LINE of it, and
do nothing that is not a command below.

The protocol is QEMU's (qga/qapi-schema.json): one JSON object in a line, one in answer.
"""

from __future__ import annotations

import binascii
import fcntl
import json
import os
import re
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping

PORT_NAME = "org.qemu.guest_agent.0"
PORTS = "/sys/class/virtio-ports"
PORT_LIMIT_S = 10.0  # the driver makes the port in the background, just before we start
WAKE_SOCKET = "/run/webapp/wake"
TELL_LIMIT_S = 3.0  # libvirt gives up after 5
MAX_LINE = 16_384  # bytes; libvirt's longest question to us has 200
SEED_BYTES = 32
HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")

# linux/random.h and linux/sockios.h
RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207
SIOCGIFADDR, SIOCGIFNETMASK = 0x8915, 0x891B

Arguments = Mapping[str, object]
Command = Callable[[Arguments], object]


class QuestionError(Exception):
    """This question cannot be answered; the host reads the text."""


# --- lines out of a stream -----------------------------------------------------------------------


class Lines:
    """Lines out of pieces of any size, in bounded memory: one beyond MAX_LINE is told as None.

    A byte 255, which stands in no JSON, means "forget what I began": a host that gave up half-way.
    """

    def __init__(self) -> None:
        self._begun = bytearray()
        self._too_long = False

    def feed(self, piece: bytes) -> list[bytes | None]:
        """The lines that end in `piece`, without their ends."""
        *ended, rest = piece.split(b"\n")
        lines: list[bytes | None] = []
        for part in ended:
            self._add(part)
            lines.append(None if self._too_long else bytes(self._begun))
            self._begun.clear()
            self._too_long = False
        self._add(rest)
        return lines

    def _add(self, part: bytes) -> None:
        _, forget, last = part.rpartition(b"\xff")
        if forget:
            self._begun.clear()
            self._too_long = False
        if self._too_long or len(self._begun) + len(last) > MAX_LINE:
            self._too_long = True
            self._begun.clear()
        else:
            self._begun += last


# --- what the commands do to the machine ---------------------------------------------------------


class Machine:
    """The kernel of this guest, and its application. Every method raises OSError."""

    def stir(self, seed: bytes) -> None:
        """Mix `seed` into the kernel's randomness at full credit, and use it from now on."""
        with open("/dev/urandom", "wb", buffering=0) as device:  # noqa: PTH123
            pool = struct.pack("ii", len(seed) * 8, len(seed)) + seed
            fcntl.ioctl(device, RNDADDENTROPY, pool)
            fcntl.ioctl(device, RNDRESEEDCRNG)

    def set_name(self, name: str) -> None:
        socket.sethostname(name)

    def set_time(self, nanoseconds: int) -> None:
        time.clock_settime_ns(time.CLOCK_REALTIME, nanoseconds)

    def hardware_time(self) -> int:
        """Nanoseconds since 1970, by the clock that ran on while the guest slept."""
        with open("/sys/class/rtc/rtc0/since_epoch") as clock:  # noqa: PTH123
            return int(clock.read()) * 1_000_000_000

    def interfaces(self) -> list[dict[str, object]]:
        """Every network card with its IPv4 address, as guest-network-get-interfaces has it."""
        found: list[dict[str, object]] = []
        for _, name in socket.if_nameindex():
            if name == "lo":
                continue
            with open(f"/sys/class/net/{name}/address") as address:  # noqa: PTH123
                card: dict[str, object] = {
                    "name": name,
                    "hardware-address": address.read().strip(),
                }
            ip = ipv4_of(name)
            card["ip-addresses"] = (
                [{"ip-address-type": "ipv4", "ip-address": ip[0], "prefix": ip[1]}] if ip else []
            )
            found.append(card)
        return found

    def tell_application(self, name: str) -> None:
        """Tell the application its name and wait until it is done. Raises QuestionError too."""
        with socket.socket(socket.AF_UNIX) as application:
            application.settimeout(TELL_LIMIT_S)
            application.connect(WAKE_SOCKET)
            application.sendall(json.dumps({"name": name}).encode() + b"\n")
            said = application.recv(100)
        if said != b"ok\n":
            raise QuestionError(f"the application said {said!r}")


def ipv4_of(card: str) -> tuple[str, int] | None:
    """Address and prefix length of a network card, netdevice(7)."""
    request = struct.pack("16s24x", card.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            address = fcntl.ioctl(any_socket, SIOCGIFADDR, request)[20:24]
            mask = fcntl.ioctl(any_socket, SIOCGIFNETMASK, request)[20:24]
        except OSError:
            return None  # no address yet, or the card is gone
    return socket.inet_ntoa(address), int.from_bytes(mask, "big").bit_count()


# --- commands ------------------------------------------------------------------------------------


class Agent:
    """The commands by name, and the answer to a line."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.commands: dict[str, Command] = {
            "guest-sync": self._sync,
            "guest-sync-delimited": self._sync,
            "guest-ping": lambda _: {},
            "guest-info": self._info,
            "guest-network-get-interfaces": lambda _: machine.interfaces(),
            "guest-set-time": self._set_time,
            "lbctl-wake": self._wake,
        }

    def answer(self, line: bytes | None) -> bytes:
        """The answer to `line`, its end included; empty to an empty one. Never raises."""
        if line is None:
            return _line(_error("GenericError", f"a line of more than {MAX_LINE} bytes"))
        if not line.strip():
            return b""
        try:
            question = json.loads(line)
        except (ValueError, RecursionError):
            return _line(_error("GenericError", "not JSON"))
        if not isinstance(question, dict):
            return _line(_error("GenericError", "not an object"))
        said = self._reply(question.get("execute"), question.get("arguments", {}))
        if "id" in question:
            said["id"] = question["id"]
        delimited = question.get("execute") == "guest-sync-delimited" and "return" in said
        return (b"\xff" if delimited else b"") + _line(said)

    def _reply(self, name: object, arguments: object) -> dict[str, object]:
        command = self.commands.get(name) if isinstance(name, str) else None
        if command is None:
            return _error("CommandNotFound", "not a command of this guest")
        if not isinstance(arguments, dict):
            return _error("GenericError", "arguments: not an object")
        try:
            return {"return": command(arguments)}
        except QuestionError as error:
            return _error("GenericError", f"{name}: {error}")
        except Exception as error:  # noqa: BLE001  (whatever was asked, the next is answered)
            return _error("GenericError", f"{name}: {error or type(error).__name__}")

    def _sync(self, arguments: Arguments) -> object:
        return _whole(arguments, "id")

    def _info(self, _: Arguments) -> object:
        known = [
            {"name": name, "enabled": True, "success-response": True} for name in self.commands
        ]
        return {"version": "lbctl", "supported_commands": known}

    def _set_time(self, arguments: Arguments) -> object:
        asked = "time" in arguments  # else the host means the hardware clock
        now = _whole(arguments, "time") if asked else self._machine.hardware_time()
        self._machine.set_time(now)
        return {}

    def _wake(self, arguments: Arguments) -> object:
        """All is checked before anything is done, and doing it twice does no harm."""
        name, seed = arguments.get("name"), arguments.get("seed")
        if not isinstance(name, str) or not HOST_NAME.fullmatch(name):
            raise QuestionError("name: one label of a host name")
        try:
            random = binascii.a2b_base64(seed, strict_mode=True) if isinstance(seed, str) else b""
        except ValueError:
            random = b""
        if len(random) != SEED_BYTES:
            raise QuestionError(f"seed: {SEED_BYTES} bytes in base64")
        self._machine.stir(random)  # before the application is told, which draws from it
        self._machine.set_name(name)
        self._machine.tell_application(name)
        return {}


def _whole(arguments: Arguments, name: str) -> int:
    value = arguments.get(name)
    if type(value) is not int or not 0 <= value < 2**63:
        raise QuestionError(f"{name}: a whole number")
    return value


def _error(kind: str, text: str) -> dict[str, object]:
    return {"error": {"class": kind, "desc": text}}


def _line(said: Mapping[str, object]) -> bytes:
    return json.dumps(said).encode() + b"\n"


# --- the port ------------------------------------------------------------------------------------


def find_port(ports: str = PORTS) -> str | None:
    """The device of the port that libvirt talks to; None if there is none (yet)."""
    try:
        for port in sorted(os.listdir(ports)):  # noqa: PTH208
            with open(f"{ports}/{port}/name") as name:  # noqa: PTH123
                if name.read().strip() == PORT_NAME:
                    return f"/dev/{port}"
    except OSError:  # no such driver, or a port whose name has not come yet
        pass
    return None


def listen(port: int, agent: Agent) -> None:
    """Answer what comes through `port`, for ever. Raises OSError when the port is taken away.

    Edge-triggered, because a port without a host is ready to hang up all the time. Reads do not
    wait, answers do: right after the host came, one that does not wait fails with EAGAIN.
    """
    lines = Lines()
    with select.epoll() as poll:
        poll.register(port, select.EPOLLIN | select.EPOLLET)
        while True:
            poll.poll()
            lines = _converse(port, agent, lines)


def _converse(port: int, agent: Agent, lines: Lines) -> Lines:
    """Answer until there is nothing to read; what was begun by then."""
    while True:
        try:
            piece = os.read(port, 4096)
        except BlockingIOError:
            return lines
        if not piece:
            return Lines()  # the host left, and whoever comes begins anew
        for line in lines.feed(piece):
            _write(port, agent.answer(line))


def _write(port: int, data: bytes) -> None:
    os.set_blocking(port, True)
    try:
        while data:
            data = data[os.write(port, data) :]
    finally:
        os.set_blocking(port, False)


def main() -> int:
    """Find the port and serve it; without one there is nothing to do."""
    deadline = time.monotonic() + PORT_LIMIT_S
    while (device := find_port()) is None:
        if time.monotonic() > deadline:
            return 0
        time.sleep(0.05)
    listen(os.open(device, os.O_RDWR | os.O_NONBLOCK), Agent(Machine()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
