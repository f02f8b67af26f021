"""One VM's life as a table."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.domain_xml import Identity
from autoscale.model import BackendLoad, Path, PoolLoad, Sample, VmState
from autoscale.vm import (
    FAILURE_WORDS,
    TRANSITIONS,
    BootFiles,
    ImpossibleTransition,
    Role,
    Vm,
    VmShape,
    count,
    is_available,
    is_sick,
    path_of,
    role_of,
    spec_of,
    who_serves,
)

S = VmState
IDENTITY = Identity("ours", "web", "generation-1", 8080, 0.4, 1.7e9)
NOW = 100.0


def vm(state: VmState = S.DEFINED) -> Vm:
    return Vm("web-1", "local", IDENTITY, NOW, NOW, state)


def test_a_life_from_definition_to_gone() -> None:
    one = vm()
    for after, state in enumerate((S.BOOTING, S.READY, S.STANDBY, S.READY, S.DRAINING, S.GONE), 1):
        one.move(state, NOW + after)
        assert (one.state, one.since) == (state, NOW + after)
    assert one.started_at == NOW


def test_the_table_names_every_state_and_gone_is_the_end() -> None:
    assert set(TRANSITIONS) == set(VmState)
    assert TRANSITIONS[S.GONE] == frozenset()
    for state in VmState:
        assert state is S.GONE or S.GONE in TRANSITIONS[state], "every VM can vanish at any time"
        assert state not in TRANSITIONS[state]


def test_draining_is_not_taken_back() -> None:
    """A guest whose power button was pressed cannot serve again."""
    with pytest.raises(ImpossibleTransition, match="web-1: draining → ready"):
        vm(S.DRAINING).move(S.READY, NOW)


@given(st.lists(st.sampled_from(list(VmState)), max_size=12))
def test_only_the_tables_edges_can_be_walked(path: list[VmState]) -> None:
    one = vm()
    for number, state in enumerate(path):
        before, since = one.state, one.since
        if state in TRANSITIONS[before]:
            one.move(state, NOW + number)
            assert one.state is state
        else:
            with pytest.raises(ImpossibleTransition):
                one.move(state, NOW + number)
            assert (one.state, one.since) == (before, since), "a refused move changes nothing"


def as_a(role: Role, state: VmState) -> Vm:
    one = vm(state)
    one.role = role
    return one


def test_who_serves_or_will_and_who_waits() -> None:
    """A replica on standby is one that wakes; a template does neither."""
    alive = {S.DEFINED, S.BOOTING, S.READY, S.STANDBY}
    assert {state for state in S if vm(state).serves_or_will} == alive
    assert {state for state in S if as_a(Role.STANDBY, state).in_reserve} == alive
    assert not any(as_a(Role.REPLICA, state).in_reserve for state in S)
    for role in (Role.STANDBY, Role.TEMPLATE):
        assert not any(as_a(role, state).serves_or_will for state in S)
    assert {state for state in S if vm(state).wakes} == {S.STANDBY}
    assert not any(as_a(Role.STANDBY, state).wakes for state in S)


def test_what_counts_as_what() -> None:
    """Existing is everything; ready and booting are replicas only, one that wakes among them."""
    vms = [as_a(role, state) for role in Role for state in S if state is not S.GONE]
    fleet = count("web", vms, PoolLoad("web"), 0, ())
    assert (fleet.ready, fleet.booting, fleet.standby) == (1, 3, 1)
    assert (fleet.draining, fleet.existing, fleet.unavailable) == (6, 18, 1)


def test_only_a_replica_serves() -> None:
    """Whatever the pool says of it: one that rests finishes its requests, and gets no more."""
    load = PoolLoad("web", (BackendLoad("web-1", "ready", True, 3),))
    assert [role for role in Role if is_available(as_a(role, S.READY), load)] == [Role.REPLICA]
    assert who_serves([as_a(Role.STANDBY, S.READY)], load) == ()
    assert who_serves([vm(S.READY)], load) == ("web-1",)


def test_an_unknown_word_in_the_metadata_is_a_replica() -> None:
    assert [role_of(IDENTITY.with_role(role.value)) for role in Role] == list(Role)
    assert role_of(IDENTITY.with_role("canary")) is Role.REPLICA


def test_how_its_metadata_says_it_came() -> None:
    assert [path_of(IDENTITY.with_path(path.value)) for path in Path] == list(Path)
    assert path_of(IDENTITY.with_path("teleport")) is Path.COLD


def test_it_is_marked_once_its_metadata_says_all_there_is() -> None:
    woken = vm(S.READY)
    woken.path = Path.STANDBY
    assert [woken.is_marked, vm(S.READY).is_marked] == [False, True]
    woken.identity = woken.identity.with_path("standby")
    assert woken.is_marked


def test_what_its_status_says() -> None:
    """The limit shows only once it is in force: a replica boots without."""
    one = vm(S.READY)
    one.power, one.address = "running", "127.0.0.1:41000"
    one.sample = Sample("web-1", NOW, 1.0, 0.9, 1, 0.4)
    status = one.status("web", IDENTITY.created_at + 12)
    assert (status.age_s, status.limit_cores, status.generation) == (12, None, "generation-1")
    one.limit_cores = 0.4
    assert one.status("web", IDENTITY.created_at).limit_cores == 0.4
    assert one.status("web", IDENTITY.created_at - 60).age_s == 0, "the clock was set back"


def test_a_replica_that_starts_is_not_sick() -> None:
    def backend(lifecycle: str, healthy: bool, ejected: bool = False) -> BackendLoad:
        return BackendLoad("web-1", lifecycle, healthy, 0, ejected=ejected)

    assert is_sick(backend("ready", False))
    assert is_sick(None), "the pool lost it"
    assert is_sick(backend("starting", False)), "an operator took it back: it has to pass again"
    assert not is_sick(backend("ready", True))
    assert not is_sick(backend("draining", False))
    assert not is_sick(backend("ready", True, ejected=True)), "it is up, and comes back by itself"
    assert is_sick(backend("ready", False, ejected=True))


def test_every_failure_has_its_words() -> None:
    assert all(words and not words.endswith(".") for words in FAILURE_WORDS.values())


def test_an_own_image_is_asked_for_with_all_that_makes_its_disk() -> None:
    files = BootFiles(
        "sum", "", "", "/user/cloud.qcow2", "", own_disk=True, disk_format="qcow2",
        disk_bytes=1 << 30, below=(("/user/base.img", "raw"),), user_data="#cloud-config",
    )  # fmt: skip
    spec = spec_of(vm(), UUID(int=1), VmShape(1, 512, 80, 1.0, 60, 10, 10), files)
    assert (spec.own_disk, spec.kernel, spec.disk) == (True, "", "/user/cloud.qcow2")
    assert (spec.disk_format, spec.disk_bytes) == ("qcow2", 1 << 30)
    assert (spec.below, spec.user_data) == (files.below, "#cloud-config")
    assert spec.identity.generation == "sum"
