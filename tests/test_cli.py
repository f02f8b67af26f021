"""lbctl as its user meets it: what it prints, on which stream, and what it exits with."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import lb.config
import lb.home
from autoscale.decision import Decision
from autoscale.model import EventKind, Happening, Reason, ScaleEvent
from guest import image as guest_image
from lb import figures
from lb.admin import access
from lb.admin.control import RefusedError, ScaleOrder, ScaleRow
from lb.cli import cli
from lb.client import AdminClient, AdminError, UnreachableError
from lb.commands import render
from lb.commands.config import to_toml
from lb.config import parse_config
from lb.pool import Report
from tests.fake_control import TOKEN, FakeControl, serving

ROOT = Path(__file__).parents[1]
PATIENCE_S = 20.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(TOKEN + "\n")
    (home / "token").chmod(0o600)
    monkeypatch.setenv("LBCTL_HOME", str(home))
    monkeypatch.delenv("LBCTL_ADMIN", raising=False)
    return home


@pytest.fixture
def control(home: Path) -> Iterator[FakeControl]:
    """A serving API that lbctl finds by its home folder."""
    with serving(home) as (control, _url):
        yield control


def lbctl(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


def says(result: Result, exit_code: int) -> str:
    """The one line on stderr of a command that must fail so."""
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    return result.stderr.rstrip("\n").removeprefix("lbctl: ")


def join(control: FakeControl, name: str = "web-1", service: str = "web") -> None:
    control.pools[service].apply(
        ScaleEvent(EventKind.JOIN, service, name, Reason.CPU_OVERLOAD, "127.0.0.1:4000", "local")
    )


def happen(control: FakeControl, subject: str, message: str = "it serves") -> None:
    control.journal.record(Happening("vm.ready", "web", subject, Reason.OPERATOR, message))


def unused_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


# ── the pool ─────────────────────────────────────────────────────────────────────────────────────


def test_the_pool_as_a_table_that_is_never_cut_off(control: FakeControl) -> None:
    name = "web-" + "1" * 200
    control.pools["web"].add_static("127.0.0.1:9", name=name)
    join(control)
    result = lbctl("pool")
    assert result.exit_code == 0
    header, first, second = result.stdout.splitlines()
    assert " ".join(header.split()) == (
        "NAME SERVICE ADDRESS STATE HEALTH IN FLIGHT RATE P50 P99 CPU HOST"
    )
    assert first.startswith(f"{name}  web")
    assert second.index(" web  ") == first.index(" web  "), "columns are aligned"
    assert " ".join(second.split()) == (
        "web-1 web 127.0.0.1:4000 starting unhealthy 0 0.0/s - - 60% local"
    )


def test_the_pool_as_json(control: FakeControl) -> None:
    join(control)
    (row,) = json.loads(lbctl("pool", "--json").stdout)
    assert (row["name"], row["in_flight"], row["latency_p99_s"]) == ("web-1", 0, None)
    assert row["ejected"] is False


def test_an_ejected_one_is_shown_beside_its_health(control: FakeControl) -> None:
    pool = control.pools["web"]
    for name in ("127.0.0.1:8", "127.0.0.1:9"):
        pool.add_static(name)
        pool.observe(Report(name, name, ok=True, detail="200"))
    for _ in range(5):
        with pool.lease(prefer="127.0.0.1:9") as lease:
            lease.answered(0.01, pool.clock(), 500)
    _, well, ejected = lbctl("pool").stdout.splitlines()
    assert " healthy (200) " in well
    assert " healthy, ejected (200) " in ejected
    assert [row["ejected"] for row in json.loads(lbctl("pool", "--json").stdout)] == [False, True]


def test_an_empty_pool_says_where_to_look(control: FakeControl) -> None:
    result = lbctl("pool")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "lbctl events" in result.stderr
    assert lbctl("pool", "--json").stdout == "[]\n"


def test_a_backend_comes_drains_returns_and_goes(control: FakeControl) -> None:
    pool = control.pools["web"]
    assert lbctl("pool", "add", "127.0.0.1:9").stdout == "127.0.0.1:9 added to web\n"
    backend = pool.get("127.0.0.1:9")
    assert backend is not None
    assert lbctl("pool", "drain", "127.0.0.1:9").exit_code == 0
    assert backend.lifecycle == "draining"
    assert lbctl("pool", "ready", "127.0.0.1:9").exit_code == 0
    assert backend.lifecycle == "starting"
    assert lbctl("pool", "remove", "127.0.0.1:9").exit_code == 0
    assert len(pool) == 0


def test_what_the_api_refuses_is_one_line(control: FakeControl) -> None:
    join(control)
    assert says(lbctl("pool", "drain", "nobody"), 1) == "no backend nobody; there are: web-1"
    assert "host:port" in says(lbctl("pool", "add", "localhost"), 1)
    assert "no service db" in says(lbctl("pool", "add", "h:1", "--service", "db"), 1)
    assert lbctl("pool", "add", "h:1").exit_code == 0
    assert "already" in says(lbctl("pool", "add", "h:1"), 1)


def test_several_services_need_a_name(home: Path) -> None:
    with serving(home, ("web", "db")) as (control, _url):
        assert "--service: web, db" in says(lbctl("pool", "add", "h:1"), 2)
        for service in ("web", "db"):
            assert lbctl("pool", "add", "h:1", "--service", service).exit_code == 0
        assert "web, db" in says(lbctl("pool", "drain", "h:1"), 2)
        assert lbctl("pool", "remove", "h:1", "--service", "db").exit_code == 0
        assert [len(pool) for pool in control.pools.values()] == [1, 0]


def test_another_lbctls_token_is_not_taken(control: FakeControl, home: Path) -> None:
    (home / "token").write_text("x" * 43)
    assert "another LBCTL_HOME" in says(lbctl("pool", "add", "h:1"), 1)
    (home / "token").unlink()
    assert "LBCTL_HOME/token" in says(lbctl("pool", "add", "h:1"), 1)
    assert lbctl("pool").exit_code == 0, "looking needs none"


# ── machines and hosts ───────────────────────────────────────────────────────────────────────────


def test_a_machine_more_and_one_less(control: FakeControl) -> None:
    said = lbctl("vm", "spawn", "web").stdout
    assert said == (
        "web: 3 replicas from now on; `lbctl scale web --auto` lets the planner decide again\n"
    )
    assert lbctl("vm", "spawn").stdout == said, "there is only one service"
    assert json.loads(lbctl("vm", "spawn", "web", "--json").stdout)["to"] == 3
    assert [(service, order.to) for service, order in control.orders] == [("web", 3)] * 3
    assert "no service api" in says(lbctl("vm", "spawn", "api"), 1)
    assert says(lbctl("vm", "retire", "web-1"), 1) == "service web has 1 of at least 1 replicas"
    assert says(lbctl("vm", "retire", "web-7"), 1) == "no service has a VM web-7"
    control.vm_rows.append(replace(control.vm_rows[0], name="web-2"))
    assert lbctl("vm", "retire", "web-1").stdout == "web-1 finishes its requests and ends\n"
    assert [row.name for row in control.vm_rows] == ["web-2"]


def test_machines_and_hosts(control: FakeControl) -> None:
    (_, row) = lbctl("vm", "list").stdout.splitlines()
    assert " ".join(row.split()) == (
        "web-1 web replica ready cold running local 127.0.0.1:4000 1m05s 61% 52% 384 MiB webapp"
    )
    assert json.loads(lbctl("vm", "list", "--json").stdout)[0]["state"] == "ready"
    shown = lbctl("vm", "show", "web-1").stdout.splitlines()
    assert "cpu host  61%" in shown
    assert json.loads(lbctl("vm", "show", "web-1", "--json").stdout)["name"] == "web-1"
    assert says(lbctl("vm", "show", "a/b"), 1) == "no VM a/b"
    assert "role      replica" in shown
    assert "path      cold" in shown
    assert "qemu:///embed" in lbctl("hosts", "list").stdout
    assert json.loads(lbctl("hosts", "list", "--json").stdout)[0]["cores"] == 2


# ── sizes and decisions ──────────────────────────────────────────────────────────────────────────


def test_sizes_and_why(control: FakeControl) -> None:
    for command in (("scale",), ("scale", "web")):
        header, row = lbctl(*command).stdout.splitlines()
        assert " ".join(header.split()) == (
            "SERVICE DESIRED READY BOOTING STANDBY MIN MAX MODE REASON SENTENCE"
        )
        assert " ".join(row.split()) == "web 2 1 1 0 1 4 auto cpu_overload 75 % is above 60 %"
        (as_json,) = json.loads(lbctl(*command, "--json").stdout)
        assert (as_json["desired"], as_json["mode"]) == (2, "auto")
    assert says(lbctl("scale", "db"), 1) == "no service db; there are: web"


@pytest.mark.parametrize(
    ("words", "order", "answer"),
    [
        (["web", "--to", "3"], ScaleOrder("fixed", 3), "web: fixed 3"),
        (["--to", "0"], ScaleOrder("fixed", 0), "web: fixed 0"),
        (["web", "--hold", "--for", "1h30m"], ScaleOrder("hold", None, 5400), "web: hold until "),
        (["web", "--observe", "--for=500ms"], ScaleOrder("observe", None, 0.5), "observe until "),
        (["web", "--auto"], ScaleOrder("auto"), "web: the planner decides"),
    ],
)
def test_an_order(control: FakeControl, words: list[str], order: ScaleOrder, answer: str) -> None:
    assert answer in lbctl("scale", *words).stdout
    assert control.orders == [("web", order)]
    row = json.loads(lbctl("scale", *words, "--json").stdout)
    assert (row["service"], row["mode"], row["to"]) == ("web", order.mode, order.to)


def test_an_order_that_is_taken_back_leaves_the_configurations_mode(
    control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def observed(service: str, order: ScaleOrder) -> ScaleRow:
        return replace(control.scale(service), mode="observe")

    monkeypatch.setattr(control, "set_scale", observed)
    assert lbctl("scale", "web", "--auto").stdout == (
        "web: no order; mode = observe of the configuration counts\n"
    )


@pytest.mark.parametrize(
    ("words", "complaint", "code"),
    [
        (["web", "--to", "2", "--hold"], "one of --to, --auto, --hold and --observe", 2),
        (["web", "--auto", "--observe"], "one of --to, --auto, --hold and --observe", 2),
        (["web", "--for", "10m"], "--for goes with --to, --hold or --observe", 2),
        (["web", "--auto", "--for", "10m"], "--for goes with --to, --hold or --observe", 2),
        (["web", "--hold", "--for", "soon"], "--for: 'soon' is not a duration: write 500ms", 2),
        (["web", "--hold", "--for", "0s"], "--auto takes an order back", 2),
        (["web", "--hold", "--for", "9000h"], "for_s must be a number of seconds", 1),
        (["web", "--to", "-1"], "0<=x<=1000", 2),
        (["web", "--to", "9"], "service web has 1 to 4 replicas", 1),
        (["db", "--hold"], "no service db", 1),
    ],
)
def test_an_order_that_cannot_be_is_one_line(
    control: FakeControl, words: list[str], complaint: str, code: int
) -> None:
    assert complaint in says(lbctl("scale", *words), code)
    assert control.orders == []


def test_of_several_services_the_one_meant_is_named(home: Path) -> None:
    with serving(home, ("web", "db")) as (control, _url):
        assert "say which service: web, db" in says(lbctl("scale", "--hold"), 2)
        assert [row["service"] for row in json.loads(lbctl("scale", "--json").stdout)] == [
            "web",
            "db",
        ]
        assert control.orders == []


def decide(control: FakeControl, desired: int, at: float, service: str = "web") -> None:
    decision = Decision(service, at, desired, desired, Reason.STEADY, told=f"calm\n{desired}")
    control.decisions.add(decision, at)


def test_decisions_are_listed(control: FakeControl) -> None:
    result = lbctl("decisions")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing was decided yet" in result.stderr
    for second in range(66):
        decide(control, 1, 1000.0 + second)
    decide(control, 2, 1070.0)
    decide(control, 5, 1071.0, "api")
    lines = [" ".join(line.split()[1:]) for line in lbctl("decisions").stdout.splitlines()]
    assert lines == [
        "SERVICE FOR REASON SENTENCE",
        "web 1m05s steady stay at 1: calm 1",
        "web 0s steady stay at 2: calm 2",
        "api 0s steady stay at 5: calm 5",
    ]
    rows = json.loads(lbctl("decisions", "--json", "--service", "web", "--limit", "1").stdout)
    assert [(row["service"], row["desired"]) for row in rows] == [("web", 2)]
    assert "1<=x<=1000" in says(lbctl("decisions", "--limit", "1001"), 2)


@pytest.mark.parametrize("as_json", [True, False])
def test_following_decisions_tells_each_that_is_new_once(
    control: FakeControl, home: Path, as_json: bool
) -> None:
    decide(control, 1, 1000.0)
    with start(
        "decisions", "-f", "--service", "web", *(["--json"] if as_json else [])
    ) as following:

        def told() -> str:
            assert following.stdout is not None
            line = following.stdout.readline()
            return json.loads(line)["sentence"] if as_json else line.partition("steady")[2].strip()

        said = [told()]
        decide(control, 1, 1001.0)
        decide(control, 5, 1001.0, "api")
        decide(control, 2, 1002.0)
        said.append(told())
        decide(control, 2, 1003.0)
        decide(control, 3, 1004.0)
        said.append(told())
        gap = "\n" if as_json else " "
        assert said == [f"stay at {number}: calm{gap}{number}" for number in (1, 2, 3)]
        following.send_signal(signal.SIGINT)
        assert following.wait(PATIENCE_S) == 0
        assert following.stderr is not None
        assert following.stderr.read() == ""


# ── events ───────────────────────────────────────────────────────────────────────────────────────


def test_events_are_listed(control: FakeControl) -> None:
    for number in range(3):
        happen(control, f"vm-{number}")
    lines = lbctl("events", "--limit", "2").stdout.splitlines()
    assert [line.split()[3] for line in lines] == ["SUBJECT", "vm-1", "vm-2"]
    assert [e["id"] for e in json.loads(lbctl("events", "--json", "--since", "2").stdout)] == [3]
    assert len(json.loads(lbctl("events", "--json", "--since", "1h").stdout)) == 3
    assert "an age: 90s" in says(lbctl("events", "--since", "yesterday"), 2)
    assert "1<=x<=1000" in says(lbctl("events", "--limit", "0"), 2)


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


# Under a shell's `&` SIGINT is ignored, and children inherit that: Ctrl-C must work in any case.
LBCTL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from lb.cli import main
main()
"""


@contextmanager
def start(*args: str, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """lbctl as a process of its own, ended with the block at the latest."""
    with subprocess.Popen(
        [sys.executable, "-c", LBCTL, *args],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


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


# ── configuration, images, log ───────────────────────────────────────────────────────────────────


def test_config_check(tmp_path: Path) -> None:
    assert lbctl("config", "check").exit_code == 0
    file = tmp_path / "lb.toml"
    file.write_text('[proxy]\nlisten = "here"\n')
    assert "proxy.listen" in says(lbctl("config", "check", "-c", str(file)), 2)
    assert "proxy.listen" in says(lbctl("up", "-c", str(file)), 2)
    file.write_text("[proxy\n")
    assert "not valid TOML" in says(lbctl("config", "check", "-c", str(file)), 2)
    assert "cannot read" in says(lbctl("config", "check", "-c", str(tmp_path / "none")), 2)


def test_config_check_reads_the_files_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    path.write_text('[service.web.error_pages]\n503 = "busy.html"')
    said = says(lbctl("config", "check", "-c", str(path)), 2)
    assert said.startswith(f"{path}: service.web.error_pages.503: cannot read")
    (tmp_path / "busy.html").touch()
    assert lbctl("config", "check", "-c", str(path)).exit_code == 0
    path.write_text('[proxy]\ntls = {cert = "a.pem", key = "a.key"}')
    assert "a.pem" in says(lbctl("config", "check", "-c", str(path)), 2)


def test_the_shown_config_is_the_config(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(
        '[[hypervisor]]\nname = "a"\n[[hypervisor]]\nname = "b"\nuri = "qemu:///system"\n'
        '[service.my-app]\nbackends = ["h:1"]\n[service.my-app.vm]\n'
        "[service.my-app.scale]\nmax = 7\ngrow_limit = {percent = 10}\n"
        "[[service.my-app.scale.step]]\ncpu_above = 0.9\nadd = 2\n"
        "[[service.my-app.scale.schedule]]\nstart = '0 8 * * *'\nend = '0 9 * * *'\nreplicas = 3\n"
    )
    for args in ((), ("-c", str(file))):
        shown = parse_config(tomllib.loads(lbctl("config", "show", *args).stdout))
        assert shown == lb.config.load_config(file if args else None)
        as_json = json.loads(lbctl("config", "show", "--json", *args).stdout)
        assert parse_config(as_json) == shown


WHOLE = """
[proxy]
listen = ["127.0.0.1:8080", "[::1]:8080"]
trusted_proxies = ["10.0.0.0/8"]
tls = {cert = "a.pem", key = "a.key"}
[[hypervisor]]
[[service.web.backends]]
address = "a:1"
weight = 3
[[service.web.backends]]
address = "b:1"
[service.web]
policy = "consistent_hash"
hash = {by = "header", name = "X-User"}
error_pages = {"503" = "busy.html", "5xx" = "é\\u007f😀.html"}
[service.web.sticky]
max_age = "1h"
[service.api]
retry = {on_status = [502, 503]}
[service.api.vm]
[[route]]
host = "*.example.org"
service = "web"
[[route]]
host = "api.example.org"
path = "/v1"
service = "api"
timeouts = {whole = "5s"}
request = {remove = ["X-Debug"], set = {"X-A" = "1"}}
[[route]]
path = "/old"
redirect = "https://new.example.org{path}"
"""


def test_a_whole_config_is_shown_as_one_that_means_the_same(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(WHOLE, encoding="utf-8")
    meant = lb.config.load_config(file)
    for args, read in (((), tomllib.loads), (("--json",), json.loads)):
        shown = lbctl("config", "show", "-c", str(file), *args)
        assert shown.exit_code == 0
        again = parse_config(read(shown.stdout))
        assert again.service == meant.service
        assert again.route == meant.route
        assert again.hypervisor == meant.hypervisor
        assert again.proxy.listen == meant.proxy.listen


_words = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
_plain = st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | _words
_tables = st.recursive(
    st.dictionaries(_words, _plain | st.lists(_plain, max_size=3) | st.none(), max_size=3),
    lambda inner: st.dictionaries(
        _words, _plain | inner | st.lists(inner, min_size=1, max_size=3), max_size=3
    ),
    max_leaves=8,
)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


@given(_tables.filter(lambda values: "inf" not in repr(values)))
def test_toml_text_reads_back_whatever_it_holds(values: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(values)) == _without_none(values)


def test_config_apply_sends_the_file_and_says_what_changed(
    control: FakeControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lb.toml"
    path.write_text('[service.api]\nbackends = ["127.0.0.1:1"]')
    monkeypatch.chdir(tmp_path)
    result = lbctl("config", "apply", "-c", "lb.toml")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        "service api is new", "admin changed: needs a restart", "applied",
    ]  # fmt: skip
    text, folder, dry_run = control.applied.pop()
    assert (text or "").rstrip() == path.read_text()
    assert (folder, dry_run) == (tmp_path, False)

    result = lbctl("config", "apply", "-c", "lb.toml", "--dry-run", "--json")
    answer = json.loads(result.stdout)
    assert (answer["dry_run"], answer["changes"]) == (True, ["service api is new"])
    assert control.applied.pop()[2]
    assert "nothing was changed" in lbctl("config", "apply", "--dry-run").stdout
    assert control.applied.pop() == (None, None, True), "the file that it was started with"


def test_an_empty_file_is_no_missing_one(control: FakeControl, tmp_path: Path) -> None:
    (tmp_path / "lb.toml").touch()
    assert lbctl("config", "apply", "-c", str(tmp_path / "lb.toml")).exit_code == 0
    assert control.applied.pop()[:2] == ("\n", tmp_path)


def test_config_apply_says_what_is_wrong(control: FakeControl, tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    assert "cannot read" in says(lbctl("config", "apply", "-c", str(path)), 2)
    path.write_text("[proxy]\nlisten = 1")
    assert "proxy.listen" in says(lbctl("config", "apply", "-c", str(path)), 2)
    path.write_text("")
    assert control.applied == []
    control.failure = lb.config.ConfigError("service.web.error_pages.503: cannot read x.html")
    assert says(lbctl("config", "apply", "-c", str(path)), 2) == f"{path}: {control.failure}"
    control.failure = RefusedError("127.0.0.1:80 is taken")
    assert says(lbctl("config", "apply", "-c", str(path)), 1) == "127.0.0.1:80 is taken"


def test_the_schema_is_one(home: Path) -> None:
    assert "proxy" in json.loads(lbctl("config", "schema").stdout)["properties"]


def make_image(home: Path, **facts: object) -> None:
    folder = home / "images" / "webapp"
    folder.mkdir(parents=True)
    for file in (guest_image.DISK, guest_image.KERNEL, guest_image.INITRD):
        (folder / file).write_bytes(b"x")
    known = {
        "name": "webapp",
        "cmdline": "ro",
        "checksum": "c" * 64,
        "recipe": guest_image.recipe(),
        "size_bytes": 404 * 1024 * 1024,
        "built_at": "2025-01-01T00:00:00+00:00",
        "boot_parts": {"kernel": 1.25, "units": 3.0},
    }
    (folder / guest_image.FACTS).write_text(json.dumps({**known, **facts}))


def test_images_are_listed_with_the_parts_of_their_boot(home: Path) -> None:
    assert "lbctl image build" in lbctl("image", "list").stderr
    make_image(home)
    (_, row) = lbctl("image", "list").stdout.splitlines()
    assert "404 MiB  cccccccccccc  yes" in row
    assert row.endswith("kernel 1.2 s, units 3.0 s")
    (as_json,) = json.loads(lbctl("image", "list", "--json").stdout)
    assert as_json["boot_parts"] == {"kernel": 1.25, "units": 3.0}
    assert as_json["current"] is True


def test_an_image_that_cannot_be_built_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("LBCTL_HOME", "/proc/none")
    result = lbctl("image", "build")
    assert result.exit_code == 1
    assert result.stderr.startswith("lbctl: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "", "x" * 33])
def test_an_image_is_named_like_everything_else(home: Path, name: str) -> None:
    assert f"{name!r} is not a name" in says(lbctl("image", "build", name), 2)
    assert [file.name for file in home.iterdir()] == ["token"]


def test_a_home_that_cannot_be_made_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LBCTL_HOME", "/proc/none")
    assert "set it to a folder you can write" in says(lbctl("up"), 1)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (render.span(4.2), "4s"),
        (render.span(65), "1m05s"),
        (render.span(3725), "1h02m"),
        (render.span(3 * 86400), "3d"),
        (figures.milliseconds(0.0123), "12.3 ms"),
        (figures.milliseconds(2.0), "2000 ms"),
        (render.size(10), "10 B"),
        (render.size(3 * 1024**3), "3.0 GiB"),
        (figures.percent(1.25), "125%"),
    ],
)
def test_how_figures_read(shown: str, expected: str) -> None:
    assert shown == expected
