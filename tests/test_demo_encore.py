"""The demo's second half: played in its order, judged act by act, shown."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoscale.domain_xml import Identity
from autoscale.model import Fleet, VmState, VmStatus
from autoscale.vm import Vm
from lb import demo_acts
from lb.demo_config import SERVICE, demo_config
from lb.demo_encore import ENCORE, KILLED, QUICK_S, Row, checks, rows
from lb.demo_report import encore_rows, write
from lb.demo_story import Moment, Story, verdict
from lb.errors import LbError
from tests import stories
from tests.stories import END_S, FIRST

AT = {act: END_S + 10.0 * number for number, act in enumerate(ENCORE)}
LAST_S = END_S + 10.0 * len(ENCORE)
IDENTITY = Identity("ours", "web", "generation-1", 8080, 1.0, 1.7e9)
Lack = Callable[[Story], None]


def story() -> Story:
    """A good first half, and a good second one."""
    told = stories.story()
    told.starts.update(AT)
    told.points += [
        replace(
            told.points[-1], t=END_S + n, ready=2 if AT["again"] + 2 < END_S + n < LAST_S - 3 else 1
        )
        for n in range(1, 61)
    ]
    told.moments += [
        Moment(AT["again"] + 1.0, "scale.up", "web", "cpu_overload", "1 → 2: CPU 1.09 of 0.85"),
        Moment(AT["again"] + 1.1, "vm.ready", "web-c", "cpu_overload", "web-c serves"),
        Moment(AT["failure"] + 2.0, KILLED, FIRST, "crashed", f"the demo kills {FIRST}"),
        Moment(AT["failure"] + 2.4, "vm.ready", "web-d", "replaced", "web-d serves"),
        Moment(AT["rest"] + 6.0, "scale.down", "web", "cpu_low", "2 → 1: 1 would do"),
    ]
    assert told.result is not None
    told.result.phases.extend(
        replace(stories.phase("calm"), name=act, start=AT[act], end=AT[act] + 10.0)
        for act in ENCORE
    )
    ask(told, "spike", 1000)
    return told


def ask(told: Story, act: str, requests: int) -> None:
    assert told.result is not None
    (number,) = [n for n, p in enumerate(told.result.phases) if p.name == act]
    phase = told.result.phases[number]
    told.result.phases[number] = replace(phase, counts=replace(phase.counts, intended=requests))


def test_a_good_second_half_passes_and_the_first_is_judged_as_before() -> None:
    told = story()
    assert [check.ok for check in checks(told)] == [True] * 4
    assert [check.ok for check in verdict(told)] == [True] * 6
    assert checks(stories.story()) == [], "one that never began is not judged"


def spike_started_one(told: Story) -> None:
    told.moments.append(Moment(AT["settle"], "scale.up", "web", "queue", "1 → 2: queue"))


def the_spike_was_none(told: Story) -> None:
    assert told.setting is not None
    ask(told, "spike", int(10 * told.setting.capacity_rps))


def it_was_slow(told: Story) -> None:
    told.moments = [
        replace(m, t=m.t + QUICK_S) if m.subject == "web-c" else m for m in told.moments
    ]


def nobody_came(told: Story) -> None:
    told.moments = [m for m in told.moments if m.subject != "web-d"]


def nobody_died(told: Story) -> None:
    told.moments = [m for m in told.moments if m.kind != KILLED]


def a_client_saw_it(told: Story) -> None:
    assert told.result is not None
    (number,) = [n for n, p in enumerate(told.result.phases) if p.name == "failure"]
    phase = told.result.phases[number]
    told.result.phases[number] = replace(phase, counts=replace(phase.counts, errors=1))


def it_never_shrank(told: Story) -> None:
    told.points.append(replace(told.points[-1], ready=2))


@pytest.mark.parametrize(
    ("lack", "check"),
    [
        (spike_started_one, 0),
        (the_spike_was_none, 0),
        (it_was_slow, 1),
        (nobody_came, 2),
        (nobody_died, 2),
        (a_client_saw_it, 2),
        (it_never_shrank, 3),
    ],
)
def test_what_the_second_half_lacks_fails_one_check(lack: Lack, check: int) -> None:
    told = story()
    lack(told)
    assert [n for n, found in enumerate(checks(told)) if not found.ok] == [check]
    assert all(found.ok for found in verdict(told)), "the first half is as it was"


def test_its_figures_are_shown(tmp_path: Path) -> None:
    told = story()
    found = rows(told)
    assert [row.act for row in found] == list(ENCORE)
    assert found[4] == Row("failure", 2, found[4].requests, 0, found[4].p99_s)
    assert encore_rows(told)[4][0] == "a machine is killed"
    page = write(told, [*verdict(told), *checks(told)], tmp_path).read_text(encoding="utf-8")
    assert "The second half" in page
    assert "replaced after 0.40 s" in page
    page = write(stories.story(), [], tmp_path).read_text(encoding="utf-8")
    assert "The second half" not in page


# ── played ───────────────────────────────────────────────────────────────────────────────────────


class Theatre(demo_acts.Stage):
    """Whose machines do at once what an act waits for."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.names = ["web-a"]
        self.standby = 0

    async def shift(self, act: str) -> None:
        self.told.append(act)
        if act in ("again", "rest"):
            self.names = ["web-a", "web-b"][: 2 if act == "again" else 1]

    async def until(self, happened: Callable[[], object], limit_s: float, otherwise: str) -> None:
        if not happened():
            raise LbError(otherwise)

    def says(self, what: str, expected_s: float) -> None: ...

    def killed(self, vm: str) -> None:
        self.told.append(f"killed {vm}")
        self.names = ["web-b", "web-c"]

    def counts(self) -> Fleet:
        return Fleet("web", ready=len(self.names), standby=self.standby)

    def vms(self) -> tuple[VmStatus, ...]:
        return tuple(
            Vm(name, "a", IDENTITY, 0.0, 0.0, state=VmState.READY).status("web", 0.0)
            for name in self.names
        )

    def relieved(self) -> bool:
        return True

    async def quick(self) -> None:
        self.told.append("quick")
        self.standby = 1


@pytest.fixture
def theatre(monkeypatch: pytest.MonkeyPatch) -> Theatre:
    for pause in ("SPIKE_S", "SETTLE_S", "MOMENT_S"):
        monkeypatch.setattr(demo_acts, pause, 0.0)
    return Theatre()


async def test_the_acts_come_in_their_order_and_one_is_killed_among_two(
    theatre: Theatre, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo_acts, "kill", lambda home, _vm: home == tmp_path)
    await demo_acts.play(theatre, tmp_path, 0.0, theatre.quick)
    assert theatre.told == [
        "spike", "settle", "prepare", "quick", "again", "failure", "killed web-a", "rest",
    ]  # fmt: skip


async def test_where_nobody_was_killed_nobody_is_said_to_be(
    theatre: Theatre, tmp_path: Path
) -> None:
    """No process runs here that is called web-a."""
    with pytest.raises(LbError, match="the process of web-a is not found"):
        await demo_acts.play(theatre, tmp_path, 0.0, theatre.quick)
    assert "killed web-a" not in theatre.told


def test_it_kills_the_process_of_that_guest_alone(tmp_path: Path) -> None:
    """By the words of its command line, as QEMU's are."""
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.symlink_to(sys.executable)
    words = ["-c", "import sys; print(1, flush=True); sys.stdin.read()", str(tmp_path)]
    both = [
        subprocess.Popen(
            [qemu, *words, f"guest={name}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("web-a", "web-b")
    ]
    try:
        for process in both:
            assert process.stdout is not None
            process.stdout.readline()
        assert not demo_acts.kill(tmp_path, "web-c")
        assert not demo_acts.kill(tmp_path / "other", "web-a")
        assert demo_acts.kill(tmp_path, "web-b")
        assert both[1].wait(10) == -9
        assert both[0].poll() is None
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_the_quick_ways_are_allowed_where_asked_for() -> None:
    slow, quick = (
        demo_config("127.0.0.1:0", "127.0.0.1:0", 2, 8.0, quick=ways).service[SERVICE]
        for ways in (False, True)
    )
    assert slow.vm is not None
    assert quick.vm is not None
    assert (slow.vm.snapshot, slow.scale.standby) == ("off", 0)
    assert (quick.vm.snapshot, quick.scale.standby) == ("auto", 1)
