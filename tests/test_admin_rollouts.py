"""Rollouts and protection through the admin API and lbctl: what is taken, what is said."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lb.admin.control import RolloutOrder
from lb.admin.problems import ProblemError
from lb.admin.rollout_routes import beginning, change
from lb.cli import cli
from lb.client import AdminClient, AdminError
from tests.fake_control import ROLLOUT, TOKEN, FakeControl, serving


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeControl]:
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o600)
    monkeypatch.setenv("LBCTL_HOME", str(tmp_path))
    monkeypatch.delenv("LBCTL_ADMIN", raising=False)
    with serving(tmp_path, ("web", "api")) as (control, url):
        monkeypatch.setenv("LBCTL_ADMIN", url)
        yield control


def lbctl(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


@pytest.mark.parametrize(
    ("words", "order"),
    [
        (("web", "--image", "next"), RolloutOrder("start", "next")),
        (("start", "web", "--image", "next"), RolloutOrder("start", "next")),
        (("--image", "next", "web"), RolloutOrder("start", "next")),
        (("web",), RolloutOrder("start")),
        (("web", "--max-surge", "3", "--pause-at", "50%"), RolloutOrder("start", None, 3, 0.5)),
        (("pause", "web"), RolloutOrder("pause")),
        (("resume", "web"), RolloutOrder("resume")),
        (("undo", "web"), RolloutOrder("undo")),
    ],
)
def test_every_command_becomes_an_order(
    control: FakeControl, words: tuple[str, ...], order: RolloutOrder
) -> None:
    assert lbctl("rollout", *words).exit_code == 0
    assert control.rollout_orders == [("web", order)]
    assert json.loads(lbctl("rollout", *words, "--json").stdout)["image_to"] == "next"


@pytest.mark.parametrize(
    ("words", "complaint", "code"),
    [
        (("web", "--image", "missing"), "there is no image 'missing'", 1),
        (("db",), "no service db; there are: web, api", 1),
        (("--image", "next"), "say which service: web, api", 2),
        (("web", "--max-surge", "0"), "0 is not in the range", 2),
        (("web", "--pause-at", "100%"), "100% is no share of the replicas", 2),
        (("web", "--pause-at", "half"), "half is no share of the replicas", 2),
        (("pause",), "no rollout: `lbctl rollout SERVICE --image NEW` begins one", 2),
        (("status", "web"), "service web has no rollout", 1),
        (("undo", "web", "--image", "x"), "no such option", 2),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    control: FakeControl, words: tuple[str, ...], complaint: str, code: int
) -> None:
    result = lbctl("rollout", *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1
    assert control.rollout_orders == []


def test_how_far_they_are(control: FakeControl) -> None:
    result = lbctl("rollout", "status")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no rollout" in result.stderr
    control.rollout_rows = [ROLLOUT]
    for words in (("status",), ("status", "web")):
        header, row = lbctl("rollout", *words).stdout.splitlines()
        assert header.split() == [
            "SERVICE", "PHASE", "FROM", "TO", "NEW", "OLD", "BOOTING", "SENTENCE",
        ]  # fmt: skip
        assert " ".join(row.split()) == (
            "web running webapp next 1 3 2 1 of 4 replicas are of next"
        )
    assert json.loads(lbctl("rollout", "status", "--json").stdout)[0]["judged"] is True
    assert lbctl("rollout", "pause").exit_code == 0, "there is only one that could be meant"
    assert control.rollout_orders == [("web", RolloutOrder("pause"))]
    control.rollout_rows = [ROLLOUT, replace(ROLLOUT, service="api")]
    assert "say which service: web, api" in lbctl("rollout", "pause").stderr


@pytest.mark.parametrize(("phase", "code"), [("done", 0), ("failed", 1), ("undone", 0)])
def test_it_is_watched_to_its_end(
    control: FakeControl, monkeypatch: pytest.MonkeyPatch, phase: str, code: int
) -> None:
    control.rollout_rows = [ROLLOUT]

    def pass_time(_seconds: float) -> None:
        control.rollout_rows = [replace(ROLLOUT, phase=phase)]

    monkeypatch.setattr("lb.commands.rollout.time.sleep", pass_time)
    result = lbctl("rollout", "status", "web", "--watch")
    assert result.exit_code == code
    assert [line.split()[1] for line in result.stdout.splitlines()[1::2]] == ["running", phase]


def test_help_is_of_the_group(control: FakeControl) -> None:
    for word in ("--help", "-h"):
        shown = lbctl("rollout", word).stdout
        assert all(name in shown for name in ("pause", "resume", "status", "undo"))


def test_a_machine_is_protected(control: FakeControl) -> None:
    assert lbctl("vm", "protect", "web-1").stdout == "web-1 is protected\n"
    assert [row.protected for row in control.vm_rows] == [True]
    assert "protected  yes" in lbctl("vm", "show", "web-1").stdout
    assert lbctl("vm", "protect", "web-1", "--off").stdout == "web-1 is protected no longer\n"
    assert [row.protected for row in control.vm_rows] == [False]
    assert "no service has a VM web-9" in lbctl("vm", "protect", "web-9").stderr


def test_changes_need_the_token_and_a_sound_body(control: FakeControl, tmp_path: Path) -> None:
    (tmp_path / "admin.url").unlink(missing_ok=True)
    url = os.environ["LBCTL_ADMIN"]
    for token in (None, "x" * 43):
        stranger = AdminClient(url, token)
        with pytest.raises(AdminError):
            stranger.begin_rollout("web", "next")
        with pytest.raises(AdminError):
            stranger.change_rollout("web", "paused")
        with pytest.raises(AdminError):
            stranger.protect_vm("web-1", protected=True)
    friend = AdminClient(url, TOKEN)
    with pytest.raises(AdminError, match="one of paused, running, rolling_back"):
        friend.change_rollout("web", "done")
    with pytest.raises(AdminError, match=r"must be .*protected"):
        friend._call("PATCH", "/api/v1/vms/web-1", {"protected": 1})
    assert (control.rollout_orders, control.vm_rows[0].protected) == ([], False)


@pytest.mark.parametrize(
    "body",
    [
        [], None, {"image": 3}, {"image": ""}, {"max_surge": 0}, {"max_surge": 1.5},
        {"max_surge": True}, {"max_surge": 101}, {"pause_at": 0}, {"pause_at": 1},
        {"pause_at": "50%"}, {"images": "next"},
    ],
)  # fmt: skip
def test_a_beginning_is_read_strictly(body: Any) -> None:
    with pytest.raises(ProblemError):
        beginning(body)


@pytest.mark.parametrize(
    "body", [[], None, {}, {"phase": "done"}, {"phase": 1}, {"phase": "paused", "x": 1}]
)
def test_a_change_is_read_strictly(body: Any) -> None:
    with pytest.raises(ProblemError):
        change(body)


def test_each_of_a_beginning_may_be_left_out() -> None:
    assert beginning({}) == RolloutOrder("start")


def test_the_size_says_which_image_holds(
    control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(control.scale("web"), image="next", image_held="image next holds against webapp")
    monkeypatch.setattr(control, "scale", lambda _service: row)
    shown = lbctl("scale", "web").stdout.splitlines()[1]
    assert shown.endswith(f"{row.sentence}; image next holds against webapp")
    assert json.loads(lbctl("scale", "web", "--json").stdout)[0]["image"] == "next"
