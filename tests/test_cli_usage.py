"""lbctl as a program: following events, finding the API, wrong usage, faults, streams."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from lb.admin import access
from lb.cli import cli
from lb.client import AdminClient, AdminError, UnreachableError
from lb.commands.base import WrongUsageError
from lb.commands.events import parse_since
from tests import cli_harness
from tests.cli_harness import PATIENCE_S, ROOT, happen, join, lbctl, says, start, unused_address
from tests.fake_control import FakeControl, serving

home, control = cli_harness.home, cli_harness.control


# ── events ───────────────────────────────────────────────────────────────────────────────────────


def test_events_are_listed(control: FakeControl) -> None:
    for number in range(3):
        happen(control, f"vm-{number}")
    lines = lbctl("events", "--limit", "2").stdout.splitlines()
    assert [line.split()[3] for line in lines] == ["SUBJECT", "vm-1", "vm-2"]
    assert [e["id"] for e in json.loads(lbctl("events", "--json", "--since", "2").stdout)] == [3]
    assert len(json.loads(lbctl("events", "--json", "--since", "1h").stdout)) == 3
    assert len(json.loads(lbctl("events", "--json", "--since", "2001-01-01").stdout)) == 3
    assert json.loads(lbctl("events", "--json", "--since", "2999-01-01").stdout) == []
    assert "an age: 90s" in says(lbctl("events", "--since", "yesterday"), 2)
    assert "1<=x<=1000" in says(lbctl("events", "--limit", "0"), 2)


def test_since_a_time_shows_all_since_or_says_that_it_does_not(control: FakeControl) -> None:
    for number in range(60):
        happen(control, f"vm-{number}")
    whole = lbctl("events", "--json", "--since", "1h")
    assert (len(json.loads(whole.stdout)), whole.stderr) == (60, "")
    some = lbctl("events", "--json", "--since", "1h", "--limit", "20")
    assert [row["subject"] for row in json.loads(some.stdout)][::19] == ["vm-40", "vm-59"]
    assert some.stderr == (
        "lbctl: the last 20 since then; older ones are left out: --limit shows up to 1000\n"
    )
    exact = lbctl("events", "--json", "--since", "1h", "--limit", "60")
    assert (len(json.loads(exact.stdout)), exact.stderr) == (60, "")
    for number in range(60, 1002):
        happen(control, f"vm-{number}")
    full = lbctl("events", "--json", "--since", "1h")
    assert (len(json.loads(full.stdout)), json.loads(full.stdout)[0]["subject"]) == (1000, "vm-2")
    assert full.stderr == "lbctl: the last 1000 since then; older ones may be left out\n"
    assert len(json.loads(lbctl("events", "--json").stdout)) == 50


def test_what_others_wrote_does_not_drive_the_terminal(control: FakeControl) -> None:
    happen(control, "vm-0", "red \x1b[31m\nand a line")
    assert lbctl("events").stdout.splitlines()[1].endswith("red  [31m and a line")


def test_following_goes_on_until_ctrl_c(control: FakeControl, home: Path) -> None:
    happen(control, "before")
    with start("events", "-f", "--json") as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["subject"] == "before"
        happen(control, "live")
        assert json.loads(following.stdout.readline())["subject"] == "live"
        following.send_signal(signal.SIGINT)
        assert following.wait(PATIENCE_S) == 0
        assert following.stderr is not None
        assert following.stderr.read() == ""


def test_watching_goes_on_until_ctrl_c(control: FakeControl, home: Path) -> None:
    join(control)
    with start("pool", "--watch", "--json") as watching:
        assert watching.stdout is not None
        for _ in range(2):
            assert json.loads(watching.stdout.readline())[0]["name"] == "web-1"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(PATIENCE_S) == 0


def test_a_follower_survives_a_restart_without_a_gap(home: Path) -> None:
    with serving(home) as (control, url):
        happen(control, "first")
        follower = AdminClient(url).follow(0)
        assert next(follower)["subject"] == "first"
    with serving(home, port=int(url.rpartition(":")[2])) as (control, again):
        assert again == url
        happen(control, "second")
        event = next(follower)
        assert (event["id"], event["subject"]) == (2, "second")
        follower.close()


# ── reaching the API ─────────────────────────────────────────────────────────────────────────────


def test_nobody_serving_says_what_to_do(home: Path) -> None:
    url = f"http://{unused_address()}"
    for command in (("pool",), ("vm", "list"), ("events",), ("pool", "add", "h:1")):
        assert says(lbctl("--admin", url, *command), 1) == (
            f"no lbctl is serving at {url}: start one with `lbctl up`,"
            " or say where it is with --admin URL"
        )
    with pytest.raises(UnreachableError):
        next(AdminClient(url).follow())


def test_where_the_api_is(control: FakeControl, home: Path, tmp_path: Path) -> None:
    url = access.read_address(home)
    assert url is not None
    elsewhere = CliRunner(env={"LBCTL_HOME": str(tmp_path), "LBCTL_ADMIN": url})
    assert elsewhere.invoke(cli, ["vm", "list"]).exit_code == 0
    assert "write http://HOST:PORT" in says(lbctl("--admin", "ftp://h", "pool"), 2)
    assert "port" in says(lbctl("--admin", "http://h:99999", "pool"), 2)


@pytest.mark.parametrize(
    ("answer", "says_so"),
    [
        (b"", "broke"),
        (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhtml", "not as lbctl"),
        (b"HTTP/1.1 404 Nope\r\nContent-Length: 4\r\n\r\nhtml", "answers 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\nhtml", "broke"),
    ],
)
def test_somebody_else_there_is_noticed(answer: bytes, says_so: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        client = AdminClient(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(AdminError, match=says_so):
            client.pool()
        thread.join(PATIENCE_S)


# ── usage, faults, streams ───────────────────────────────────────────────────────────────────────


def test_wrong_usage_is_one_line_and_exit_2(home: Path) -> None:
    assert says(lbctl("nothing"), 2) == "no such command 'nothing': see `lbctl --help`"
    assert "missing argument 'NAME'" in says(lbctl("pool", "drain"), 2)
    assert "see `lbctl vm list --help`" in says(lbctl("vm", "list", "--what"), 2)
    assert "pool add" in says(lbctl("pool", "--json", "add", "h:1"), 2)
    result = lbctl()
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Commands:" in result.stderr


def test_help_and_version() -> None:
    assert lbctl("--help").exit_code == 0
    assert lbctl("pool", "-h").exit_code == 0
    assert lbctl("--version").stdout.startswith("lbctl ")


def test_debug_shows_where_it_came_from(home: Path) -> None:
    result = lbctl("--debug", "--admin", f"http://{unused_address()}", "pool")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "ConnectionRefusedError" in result.stderr


def test_a_bug_is_one_line_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "admin.url").write_text("http://127.0.0.1:1/\n")

    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(socket, "create_connection", broken)
    assert says(lbctl("pool"), 1) == (
        "ZeroDivisionError: division by zero (a bug: `lbctl --debug …` shows where)"
    )


@pytest.mark.parametrize("command", [("config", "schema"), ("events", "--limit", "1000")])
def test_a_reader_that_leaves_is_no_error(control: FakeControl, command: tuple[str, ...]) -> None:
    for number in range(1000):
        happen(control, f"vm-{number}", "x" * 200)
    read, write = os.pipe()
    os.close(read)
    with start(*command, stdout=write) as process:
        os.close(write)
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_lbctl_starts_without_what_only_serving_needs(home: Path) -> None:
    heavy = ("aiohttp", "pydantic", "libvirt", "rich", "asyncio", "jinja2", "sqlite3")
    script = f"import sys, lb.cli, lb.client; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout == "[]\n"


# ── since when ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("since", "when"),
    [
        ("90s", "2026-01-31T14:28:30+01:00"),
        ("1h30m", "2026-01-31T13:00:00+01:00"),
        ("2d", "2026-01-29T14:30:00+01:00"),
        ("2026-01-31T13:00Z", "2026-01-31T14:00:00+01:00"),
    ],
)
def test_since_an_age_or_a_time(since: str, when: str) -> None:
    now = datetime.fromisoformat("2026-01-31T14:30:00+01:00")
    assert parse_since(since, now) == (None, datetime.fromisoformat(when).timestamp())


def test_since_a_time_of_this_place() -> None:
    now = datetime(2026, 1, 31, 14, 30).astimezone()
    for since, then in {
        "2026-01-30": datetime(2026, 1, 30),
        "2026-01-31 08:15": datetime(2026, 1, 31, 8, 15),
        "14:29": datetime(2026, 1, 31, 14, 29),
        "9:00:05": datetime(2026, 1, 31, 9, 0, 5),
        "14:31": datetime(2026, 1, 30, 14, 31),
    }.items():
        assert parse_since(since, now) == (None, then.timestamp()), since
    assert parse_since("17", now) == (17, 0.0)
    assert parse_since(None, now) == (None, 0.0)
    for wrong in ("25:00", "2026-13-01", "m5", "5x", "-5m", "1h 30m", "٣:00"):
        with pytest.raises(WrongUsageError):
            parse_since(wrong, now)
