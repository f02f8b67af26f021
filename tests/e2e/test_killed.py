"""kill -9 of `lbctl up` at each step of a scale-up, a scale-down and a replacement: its successor
adopts every VM, finishes or undoes what was half done, serves, and starts nothing twice.

One fleet for all cases, in one home: each begins with what the one before left.
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.census import Census, guest_of, guests
from tests.e2e.clients import Clients, ask
from tests.e2e.leftovers import assert_nothing_left
from tests.e2e.machine import BOOT_S, Machine, free_address, machine_of, until
from tests.e2e.strike import Event, Strike, StrikeAfter, StrikeAt, StrikeOnce

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

STEP_S = 110.0
"""A step comes within two seconds, or within a boot where it boots; others use the cores too, and
what boots for later has a small share of them."""
MOST = 3


@dataclass(frozen=True)
class Size:
    """What is configured, and how many replicas an order asks for."""

    replicas: int
    standby: int = 0
    snapshot: str = "auto"
    most: int = MOST
    ordered: bool = True
    """By an operator, not by the bounds alone."""

    @property
    def may_exist(self) -> int:
        return self.most + self.standby + 1

    @property
    def scale(self) -> str:
        return (
            f"[service.web.scale]\nmin = 1\nmax = {self.most}\nstandby = {self.standby}\n"
            'forecast = "off"\n'
        )

    @property
    def vm(self) -> str:
        return f'snapshot = "{self.snapshot}"'


class Story:
    """The fleet that all cases share, and what is known of it."""

    def __init__(self, up: Machine) -> None:
        self.up = up
        self.now: Size | None = None
        self.addresses: set[str] = set()

    def become(self, size: Size) -> None:
        """Configure and order it: what the bounds before allow is ordered first, so that nothing
        happens between the two."""
        before, self.now = self.now, size
        first = size.ordered and before is not None and size.replicas <= before.most
        if first:
            self._order(size)
        if before is None or (before.scale, before.vm) != (size.scale, size.vm):
            self.up.configure(size.scale, size.vm)
        if size.ordered and not first:
            self._order(size)

    def _order(self, size: Size) -> None:
        self.up.lbctl("scale", "web", "--to", str(size.replicas))

    def settle(self) -> None:
        """Until all that should be is, and nothing else exists but what may be saved later."""
        size = self.now
        assert size is not None

        def settled() -> bool:
            vms = self.up.api("vms")["vms"]
            told = Counter((vm["role"], vm["state"]) for vm in vms if vm["role"] != "template")
            wanted = {("replica", "ready"): size.replicas, ("standby", "standby"): size.standby}
            return told == +Counter(wanted) and {vm["name"] for vm in vms} == self.vms()

        until(settled, 2 * BOOT_S, f"it never came to {size}")

    def vms(self) -> set[str]:
        return {guest.vm for guest in guests(self.up.home)}

    def there(self) -> None:
        """Running, whatever became of it in the case before."""
        if self.up.process is not None and self.up.process.poll() is not None:
            self.up.wait_ended()
        if self.up.process is None:
            self.up.start("--retire-vms")

    def be(self, size: Size) -> None:
        """The same, and wait for it."""
        self.there()
        self.become(size)
        self.settle()


@pytest.fixture(scope="module")
def story(images: Path) -> Iterator[Story]:
    """A fleet with a saved guest; in the end it is retired, and nothing is left of it."""
    first = Size(1)
    with machine_of(images, first.scale, first.vm, free_address()) as up:
        told = Story(up)
        told.be(first)
        yield told
        told.there()
        up.signal(signal.SIGTERM)
        assert up.wait_ended() == 0
        assert_nothing_left(up.home, told.addresses)


def one(kind: str, **facts: object) -> Callable[[Event], bool]:
    """True of an event of that kind, with these fields."""
    return lambda event: (
        event["kind"] == kind and all(event[name] == value for name, value in facts.items())
    )


# ── the cases ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Case:
    """From one size to another, killed at the first event that `step` is true of. With the same
    size twice, a replica's QEMU is killed and has to be replaced."""

    before: Size
    after: Size
    step: Callable[[Event], bool]


def copy(kind: str) -> Case:
    return Case(Size(1), Size(2), one(kind))


def fewer(kind: str) -> Case:
    return Case(Size(2), Size(1), one(kind))


def replace(kind: str, standby: int = 0) -> Case:
    return Case(Size(2, standby), Size(2, standby), one(kind))


def wake(kind: str, **facts: object) -> Case:
    return Case(Size(1, standby=1), Size(2, standby=1), one(kind, **facts))


def rest(kind: str) -> Case:
    return Case(Size(2), Size(1, standby=1, most=1, ordered=False), one(kind))


def boot(kind: str) -> Case:
    return Case(Size(1, snapshot="off"), Size(2, snapshot="off"), one(kind))


# in an order in which most begin with what the one before left
CASES = {
    "copy-decided": copy("scale.up"),
    "fewer-decided": fewer("scale.down"),
    "copy-begun": copy("vm.launch"),
    "fewer-draining": fewer("vm.draining"),
    "copy-joined": copy("backend.ready"),
    "fewer-drained": fewer("vm.drained"),
    "copy-done": copy("vm.ready"),
    "replace-lost": replace("vm.gone"),
    "replace-copy-begun": replace("vm.launch"),
    "replace-copy-done": replace("vm.ready"),
    "fewer-gone": fewer("vm.gone"),
    "wake-decided": wake("scale.up"),
    "replace-wake-begun": replace("vm.wake", standby=1),
    "replace-wake-done": replace("vm.ready", standby=1),
    "wake-begun": wake("vm.wake"),
    "wake-joined": wake("backend.ready"),
    "wake-done": wake("vm.ready"),
    "standby-begun": wake("vm.launch", reason="reserved"),
    "standby-done": wake("vm.standby"),
    "rest-begun": rest("vm.resting"),
    "rest-done": rest("vm.standby"),
    "boot-begun": boot("vm.launch"),
    "boot-joined": boot("backend.starting"),
    "boot-done": boot("vm.ready"),
}


@pytest.mark.parametrize("what", ["boots", "is-saved"])
def test_killed_while_the_guest_to_copy(story: Story, what: str) -> None:
    """Nobody knows how far it came: it is undone, and made anew."""
    up = story.up
    story.there()

    def strike() -> Strike:
        if what == "boots":
            return StrikeAt(up, lambda e: "(template, " in e["message"], since=0)
        return StrikeOnce(up, lambda: list(up.home.glob("saved/*/.*/guest")))

    survive(story, strike, lambda: None, Size(1))


@pytest.mark.parametrize("name", CASES)
def test_killed_at_a_step(story: Story, name: str) -> None:
    case = CASES[name]
    story.there()
    if case.before.snapshot == "auto":
        until(lambda: list(story.up.home.glob("saved/*/[!.]*/guest")), 2 * BOOT_S, "none is saved")
    story.be(case.before)

    def strike() -> Strike:
        return StrikeAt(story.up, case.step)

    if case.before != case.after:
        survive(story, strike, lambda: story.become(case.after), case.after)
        return
    lost = guest_of(story.up.home, story.up.ready()[0]["name"])
    assert lost is not None
    survive(story, strike, lambda: os.kill(lost.pid, signal.SIGKILL), case.after)
    assert lost.vm not in story.vms()


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_any_instant(story: Story, seed: int) -> None:
    """While a standby is woken, copies are started and the next standby is made; or while two are
    let go."""
    small, large = Size(1, standby=1), Size(3, standby=1)
    before, after = (large, small) if seed % 2 else (small, large)
    story.be(before)
    after_s = random.Random(seed).uniform(0.2, 3.0)
    survive(story, lambda: StrikeAfter(story.up, after_s), lambda: story.become(after), after)


def survive(
    story: Story, made: Callable[[], Strike], act: Callable[[], object], wanted: Size
) -> None:
    """Act, be killed, start again: what every case must see."""
    up = story.up
    bound = max(wanted.may_exist, story.now.may_exist if story.now else 0)
    since = up.last_event()
    address = up.proxy.removeprefix("http://")
    with Census.of(up.home) as census, Clients.of(up.proxy) as clients:
        until(clients.answered, 30, "it does not serve")
        strike = made()
        answered = obeys(act, strike)
        strike.wait(STEP_S, "the step never came")
        up.wait_ended()
        left = story.vms()
        up.start("--retire-vms")
        until(lambda: ask(address, "/readyz")[0] == 200, 30, "it does not serve")
        back = time.monotonic()
        if not answered:
            story.become(wanted)  # nobody was promised anything
        story.settle()
        until(lambda: clients.answered(since=back), 30, "clients get no answer")
    rows = up.api("vms")["vms"]
    ready = [vm for vm in rows if (vm["role"], vm["state"]) == ("replica", "ready")]
    assert {vm["name"]: ask(vm["address"], "/readyz") for vm in ready} == {
        vm["name"]: (200, vm["name"]) for vm in ready
    }, "each knows its name, also one whose copying was cut short"
    story.addresses |= census.addresses
    told = up.journal(since)
    print("\n".join(f"{e['at']:.3f} {e['kind']} {e['reason']}: {e['message']}" for e in told))
    assert clients.failed(strike.at, back) == []
    assert census.most <= bound
    assert subjects(told, "vm.adopted") <= left
    templates = {e["subject"] for e in told if "(template, " in e["message"]}
    too_many = subjects(told, "vm.launch") & subjects(told, "vm.draining") - templates
    assert not too_many
    assert_joined_once([event for event in told if event["at"] <= strike.wall])
    assert_joined_once([event for event in told if event["at"] > strike.wall])


def obeys(act: Callable[[], object], strike: Strike) -> bool:
    """Whether the order was answered before the process was gone."""
    try:
        act()
    except (AssertionError, OSError, http.client.HTTPException):
        assert strike.at, "refused"
        return False
    return True


def subjects(told: list[Event], kind: str) -> set[str]:
    return {event["subject"] for event in told if event["kind"] == kind}


def assert_joined_once(told: list[Event]) -> None:
    """In one life of the process. One that rested comes again."""
    joined = Counter(e["subject"] for e in told if e["kind"] == "backend.starting")
    left = Counter(e["subject"] for e in told if e["kind"] == "backend.gone")
    assert {vm: n for vm, n in joined.items() if n > 1 + left[vm]} == {}
