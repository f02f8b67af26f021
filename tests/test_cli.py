"""lbctl asks and orders: the pool, machines, hosts, sizes, decisions. What it prints, on which
stream, and what it exits with."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from autoscale.decision import Decision
from autoscale.model import Reason
from lb.admin.control import ScaleOrder, ScaleRow
from lb.commands.machines import HOST_COLUMNS
from lb.commands.pauses import launches
from lb.pool import Report
from tests import cli_harness
from tests.cli_harness import PATIENCE_S, join, lbctl, says, start
from tests.fake_control import FakeControl, serving

home, control = cli_harness.home, cli_harness.control


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
        "web-1 web replica ready cold running local 127.0.0.1:4000 1m05s 61% 52% 384 MiB webapp -"
    )
    assert json.loads(lbctl("vm", "list", "--json").stdout)[0]["state"] == "ready"
    shown = lbctl("vm", "show", "web-1").stdout.splitlines()
    assert "cpu host   61%" in shown
    assert json.loads(lbctl("vm", "show", "web-1", "--json").stdout)["name"] == "web-1"
    assert says(lbctl("vm", "show", "a/b"), 1) == "no VM a/b"
    assert "role       replica" in shown
    assert "path       cold" in shown
    assert "qemu:///embed" in lbctl("hosts", "list").stdout
    assert json.loads(lbctl("hosts", "list", "--json").stdout)[0]["cores"] == 2


def pause(host: str | None, *, breaker: str, until: float | None) -> dict[str, object]:
    return {
        "service": "web", "host": host, "failures": 5 if breaker == "open" else 1,
        "breaker": breaker, "until": until, "why": "no room",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ({"reachable": True}, "answers"),
        ({"reachable": True, "hung_calls": 2}, "answers; 2 calls hang"),
        ({"reachable": False, "error": "no route"}, "silent: no route"),
        ({"reachable": False}, "silent: no answer"),
        ({"reachable": True, "silent_since": 1.7e9}, "silent since 2023-11-14T22:13:20: no answer"),
        (
            {"reachable": False, "silent_since": 1.7e9, "error": "x", "hung_calls": 4},
            "silent since 2023-11-14T22:13:20: x; 4 calls hang",
        ),
        ({"reachable": False, "held_by": "pid 7 acts"}, "held elsewhere: pid 7 acts"),
    ],
)
def test_a_host_is_marked_by_what_became_of_its_calls(
    row: dict[str, object], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    (column,) = [column for column in HOST_COLUMNS if column.title == "state"]
    assert column.cell(row) == state


def test_launches_that_wait_say_where_until_when_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert launches({}) == launches({"pauses": ()}) == "go on"
    row = {
        "pauses": [
            pause(None, breaker="open", until=1.7e9),
            pause("box", breaker="closed", until=None),
        ]
    }
    assert launches(row) == (
        "web, all: stopped until 2023-11-14T22:13:20, 5 failures in a row: no room;"
        " web, on box: wait, one may be tried, 1 failure"
    )


def test_launches_that_wait_say_nothing_twice_and_fit_a_table() -> None:
    on_box = pause("box", breaker="closed", until=None)
    everywhere = pause(None, breaker="closed", until=None)
    row = {"service": "web", "pauses": [everywhere]}
    assert launches(row) == "all: wait, one may be tried, 1 failure: no room", "it has a column"
    row = {"name": "box", "pauses": [on_box]}
    assert launches(row) == "web: wait, one may be tried, 1 failure: no room"
    whys = [f"box refuses {vm}: {'no room ' * 50}" for vm in ("web-3f09ac", "web-7c1b20")]
    row = {"service": "web", "pauses": [{**on_box, "why": why} for why in whys]}
    first, second = launches(row).split("; ")
    assert first.startswith("on box: wait, one may be tried, 1 failure: no room no room")
    assert first.endswith("…")
    assert len(first) < 110
    assert second == "on box: wait, one may be tried, 1 failure"


# ── sizes and decisions ──────────────────────────────────────────────────────────────────────────


def test_sizes_and_why(control: FakeControl) -> None:
    for command in (("scale",), ("scale", "web")):
        header, row = lbctl(*command).stdout.splitlines()
        assert " ".join(header.split()) == (
            "SERVICE DESIRED READY BOOTING STANDBY MIN MAX MODE LAUNCHES REASON SENTENCE"
        )
        assert " ".join(row.split()) == (
            "web 2 1 1 0 1 4 auto go on cpu_overload 75 % is above 60 %"
        )
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
