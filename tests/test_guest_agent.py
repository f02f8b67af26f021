"""The agent inside a guest: its answers, and how it reads and writes, over a real socket pair."""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest import agent

SEED = bytes(range(32))
WAKE = {"name": "web-b", "seed": base64.b64encode(SEED).decode()}


class Recorded(agent.Machine):
    """A machine that notes what is done to it, in order, and fails where told."""

    def __init__(self, fails: str = "") -> None:
        self.done: list[tuple[str, object]] = []
        self._fails = fails

    def _note(self, what: str, value: object) -> None:
        if what == self._fails:
            raise OSError(errno.EPERM, "Operation not permitted")
        self.done.append((what, value))

    def stir(self, seed: bytes) -> None:
        self._note("stir", seed)

    def set_name(self, name: str) -> None:
        self._note("name", name)

    def set_time(self, nanoseconds: int) -> None:
        self._note("time", nanoseconds)

    def hardware_time(self) -> int:
        return 1_700_000_000_000_000_000

    def tell_application(self, name: str) -> None:
        if self._fails == "refuse":
            raise agent.QuestionError("the application said b'no'")
        self._note("tell", name)


def ask(machine: agent.Machine, execute: object, **arguments: object) -> dict[str, Any]:
    """The answer to one question."""
    question = json.dumps({"execute": execute, "arguments": arguments}).encode()
    said = json.loads(agent.Agent(machine).answer(question))
    assert isinstance(said, dict)
    return said


# --- commands ------------------------------------------------------------------------------------


def test_a_wake_stirs_then_names_then_tells_the_application() -> None:
    machine = Recorded()
    assert ask(machine, "lbctl-wake", **WAKE) == {"return": {}}
    assert machine.done == [("stir", SEED), ("name", "web-b"), ("tell", "web-b")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": None},
        {"name": ""},
        {"name": "a.b"},
        {"name": "-a"},
        {"name": "a\n"},
        {"name": "a" * 64},
        {"seed": None},
        {"seed": ""},
        {"seed": "not base64"},
        {"seed": "!" + WAKE["seed"]},
        {"seed": base64.b64encode(SEED[:31]).decode()},
        {"seed": base64.b64encode(SEED + b"!").decode()},
        {"seed": WAKE["seed"] + "\u20ac"},
    ],
)
def test_a_wake_that_is_wrong_does_nothing(wrong: dict[str, object]) -> None:
    machine = Recorded()
    said = ask(machine, "lbctl-wake", **{**WAKE, **wrong})
    assert said["error"]["class"] == "GenericError"
    assert said["error"]["desc"].startswith(f"lbctl-wake: {next(iter(wrong))}: ")
    assert machine.done == []


@pytest.mark.parametrize(
    ("fails", "desc", "done"),
    [
        ("stir", "[Errno 1] Operation not permitted", []),
        ("name", "[Errno 1] Operation not permitted", ["stir"]),
        ("tell", "[Errno 1] Operation not permitted", ["stir", "name"]),
        ("refuse", "the application said b'no'", ["stir", "name"]),
    ],
)
def test_a_wake_that_fails_half_way_is_an_error(fails: str, desc: str, done: list[str]) -> None:
    machine = Recorded(fails)
    error = {"class": "GenericError", "desc": f"lbctl-wake: {desc}"}
    assert ask(machine, "lbctl-wake", **WAKE) == {"error": error}
    assert [what for what, _ in machine.done] == done


def test_the_time_is_what_the_host_says_or_the_hardware_clock() -> None:
    machine = Recorded()
    assert ask(machine, "guest-set-time", time=5) == {"return": {}}
    assert ask(machine, "guest-set-time") == {"return": {}}
    assert machine.done == [("time", 5), ("time", 1_700_000_000_000_000_000)]


@pytest.mark.parametrize("wrong", ["now", -1, True, 2**63, 1.5, None])
def test_a_time_that_is_none_is_not_set(wrong: object) -> None:
    machine = Recorded()
    said = ask(machine, "guest-set-time", time=wrong)
    assert said["error"]["desc"] == "guest-set-time: time: a whole number"
    assert machine.done == []


def test_synchronising() -> None:
    machine = Recorded()
    assert ask(machine, "guest-ping") == {"return": {}}
    assert ask(machine, "guest-sync", id=1732209876543) == {"return": 1732209876543}
    question = b'{"execute": "guest-sync-delimited", "arguments": {"id": 7}}'
    assert agent.Agent(machine).answer(question) == b'\xff{"return": 7}\n'
    assert "error" in ask(machine, "guest-sync")
    assert "error" in ask(machine, "guest-sync", id="7")


def test_what_it_knows_is_what_it_answers() -> None:
    machine = Recorded()
    known = ask(machine, "guest-info")["return"]["supported_commands"]
    assert {command["name"] for command in known} == {
        "guest-info",
        "guest-network-get-interfaces",
        "guest-ping",
        "guest-set-time",
        "guest-sync",
        "guest-sync-delimited",
        "lbctl-wake",
    }
    for command in known:
        assert command["enabled"]
        assert ask(machine, command["name"]).get("error", {}).get("class") != "CommandNotFound"


def test_interfaces_have_the_shape_that_libvirt_reads() -> None:
    for card in ask(agent.Machine(), "guest-network-get-interfaces")["return"]:
        assert card["name"] != "lo"
        assert isinstance(card["hardware-address"], str)
        for address in card["ip-addresses"]:
            assert address["ip-address-type"] == "ipv4"
            socket.inet_aton(address["ip-address"])
            assert 0 <= address["prefix"] <= 32
    assert agent.ipv4_of("lo") == ("127.0.0.1", 8)
    assert agent.ipv4_of("none") is None


@pytest.mark.parametrize("name", ["guest-exec", "guest-file-open", "", None, 1, ["guest-ping"]])
def test_anything_else_is_not_found(name: object) -> None:
    assert ask(Recorded(), name)["error"]["class"] == "CommandNotFound"


def test_an_answer_carries_the_question_s_id() -> None:
    said = agent.Agent(Recorded()).answer(b'{"execute": "guest-ping", "id": "x1"}')
    assert json.loads(said) == {"return": {}, "id": "x1"}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["execute", "arguments", "id", "name", "seed", "time"]), inner
        )
    ),
    max_leaves=8,
)
questions = st.builds(
    lambda name, arguments: {"execute": name, "arguments": arguments},
    st.sampled_from(list(agent.Agent(Recorded()).commands)),
    anything,
)


@settings(max_examples=150)
@given(st.binary(max_size=60) | (questions | anything).map(lambda said: json.dumps(said).encode()))
def test_every_line_has_one_answer_or_is_empty(line: bytes) -> None:
    said = agent.Agent(Recorded()).answer(line)
    if not line.strip():
        assert said == b""
        return
    assert said.count(b"\n") == 1
    answer = json.loads(said.removeprefix(b"\xff"))
    assert ("return" in answer) != ("error" in answer)


def test_deep_nesting_is_no_way_out() -> None:
    said = json.loads(agent.Agent(Recorded()).answer(b"[" * agent.MAX_LINE))
    assert said["error"]["desc"] == "not JSON"


# --- what is done to the kernel ------------------------------------------------------------------


def test_the_seed_is_credited_and_used_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, object]] = []

    def ioctl(device: Any, request: int, argument: object = None) -> int:
        assert device.name == "/dev/urandom"
        calls.append((request, argument))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    agent.Machine().stir(SEED)
    # struct rand_pool_info: entropy in bits, size in bytes, the bytes
    assert calls == [
        (agent.RNDADDENTROPY, struct.pack("ii", 256, 32) + SEED),
        (agent.RNDRESEEDCRNG, None),
    ]


@pytest.mark.parametrize("says", [b"ok\n", b"not a wake\n", b""])
def test_the_application_is_told_and_must_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    monkeypatch.setattr(agent, "WAKE_SOCKET", str(tmp_path / "wake"))
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as application:
        application.bind(agent.WAKE_SOCKET)
        application.listen()

        def answer() -> None:
            connection, _ = application.accept()
            with connection:
                heard.append(connection.recv(100))
                connection.sendall(says)

        answering = threading.Thread(target=answer)
        answering.start()
        try:
            if says == b"ok\n":
                agent.Machine().tell_application("web-b")
            else:
                with pytest.raises(agent.QuestionError, match="the application said"):
                    agent.Machine().tell_application("web-b")
        finally:
            answering.join()
    assert heard == [b'{"name": "web-b"}\n']


def test_no_application_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "WAKE_SOCKET", str(tmp_path / "none"))
    with pytest.raises(OSError, match="No such file"):
        agent.Machine().tell_application("web-b")


# --- the port ------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=30), max_size=8), st.lists(st.integers(1, 9), min_size=1))
def test_lines_come_out_whole_however_they_are_cut(lines: list[bytes], sizes: list[int]) -> None:
    lines = [line.replace(b"\n", b"").replace(b"\xff", b"") for line in lines]
    stream, reader, found, at = b"".join(line + b"\n" for line in lines), agent.Lines(), [], 0
    while at < len(stream):
        for size in sizes:
            found += reader.feed(stream[at : at + size])
            at += size
    assert found == lines


@pytest.mark.parametrize(
    "pieces", [[b"x" * 40_000 + b"\nnext\n"], [b"x" * 4096] * 10 + [b"\nnext\n"]]
)
def test_a_huge_line_is_told_once_and_not_kept(pieces: list[bytes]) -> None:
    reader = agent.Lines()
    found = []
    for piece in pieces:
        found += reader.feed(piece)
        assert len(reader._begun) <= agent.MAX_LINE
    assert found == [None, b"next"]
    longest = b"x" * agent.MAX_LINE
    assert reader.feed(longest + b"\n") == [longest]
    said = json.loads(agent.Agent(Recorded()).answer(None))
    assert said["error"]["class"] == "GenericError"


def test_byte_255_forgets_what_was_begun() -> None:
    reader = agent.Lines()
    assert reader.feed(b'{"exec\xff{"a": 1}\n') == [b'{"a": 1}']
    assert reader.feed(b"x" * 40_000) == []
    assert reader.feed(b"\xffb\n") == [b"b"]


@contextmanager
def listening(machine: agent.Machine) -> Iterator[socket.socket]:
    """The host's end of an agent's port. Its thread ends when a command says so."""

    class Over(BaseException):
        """Not an Exception: the agent must not survive it."""

    def end(_: object) -> object:
        raise Over

    def run() -> None:
        with pytest.raises(Over):
            agent.listen(guest.fileno(), answering)

    host, guest = socket.socketpair()
    guest.setblocking(False)
    answering = agent.Agent(machine)
    answering.commands["end"] = end
    thread = threading.Thread(target=run)
    thread.start()
    with host, guest:
        host.settimeout(30)
        try:
            yield host
        finally:
            host.sendall(b'\xff\n{"execute": "end"}\n')
            thread.join(30)
        assert not thread.is_alive()


def replies(host: socket.socket, count: int) -> list[dict[str, Any]]:
    """The next `count` answers."""
    data = b""
    while data.count(b"\n") < count:
        data += host.recv(65536)
    return [json.loads(line) for line in data.splitlines()]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_a_host_s_questions_are_answered_in_order(sizes: list[int]) -> None:
    stream = b"".join(
        b'garbage\n\n{"execute": "guest-sync", "arguments": {"id": %d}}\n' % number
        for number in range(5)
    )
    with listening(Recorded()) as host:
        at = 0
        while at < len(stream):
            for size in sizes:
                host.sendall(stream[at : at + size])
                at += size
        said = replies(host, 10)
    assert [answer["error"]["desc"] for answer in said[::2]] == ["not JSON"] * 5
    assert said[1::2] == [{"return": number} for number in range(5)]


def test_answers_wait_for_a_host_that_does_not_read_yet() -> None:
    """None is lost and none is cut, however little fits between: libvirt would wait 5 s."""
    with listening(Recorded()) as host:
        asked = b'{"execute": "guest-info"}\n' * 1000
        writing = threading.Thread(target=host.sendall, args=(asked,))
        writing.start()
        try:
            said = replies(host, 1000)
        finally:
            writing.join()
    assert len(said) == 1000
    assert all("return" in answer for answer in said)


def test_a_host_that_left_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    """A read of nothing is a host that left: what it had begun is not the next one's."""
    reads = iter([b'{"execute": "gu', b"", b'{"execute": "guest-ping"}\n'])
    written: list[bytes] = []

    def read(_port: int, _size: int) -> bytes:
        for piece in reads:
            return piece
        raise BlockingIOError

    def write(_port: int, data: bytes) -> int:
        written.append(data[:5])
        return len(written[-1])  # it may take a part only

    with pytest.MonkeyPatch.context() as patch, (tmp_path / "port").open("w+b") as port:
        patch.setattr(os, "read", read)
        patch.setattr(os, "write", write)
        answering, lines = agent.Agent(Recorded()), agent.Lines()
        for _ in range(2):
            lines = agent._converse(port.fileno(), answering, lines)
    assert b"".join(written) == b'{"return": {}}\n'


def test_the_port_is_found_by_its_name(tmp_path: Path) -> None:
    assert agent.find_port(str(tmp_path / "none")) is None
    for port, name in (("vport1p1", "org.other.0\n"), ("vport2p3", f"{agent.PORT_NAME}\n")):
        (tmp_path / port).mkdir()
        (tmp_path / port / "name").write_text(name)
    assert agent.find_port(str(tmp_path)) == "/dev/vport2p3"
    (tmp_path / "vport2p3" / "name").unlink()
    assert agent.find_port(str(tmp_path)) is None
