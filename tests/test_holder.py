"""Whose holder it is, and whether somebody still stands behind it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autoscale.holder import (
    STALE_S,
    Process,
    Record,
    Watched,
    foreign_words,
    held_words,
    holder_xml,
    is_gone,
    name_of,
    parse,
    watched,
)

NOW = 1000.0
UUID = "b5a4b7a6-0000-4000-8000-000000000001"
THEM = Process("rack-7", 4711, "8812", "boot-1/pid:[1]")
US = Process("rack-8", 42, "9913", "boot-2/pid:[1]")
words = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="￾￿"), max_size=20
)


@given(
    st.builds(Process, host=words, pid=st.integers(1, 1 << 31), started=words, seat=words),
    st.floats(0, 4e9),
    st.integers(0, 1 << 40),
)
def test_what_is_written_is_read(process: Process, since: float, beat: int) -> None:
    record = Record(UUID, process, since, beat)
    xml = holder_xml("0123456789abcdef", record, "kvm")
    assert parse(xml) == record
    assert f"<name>{name_of('0123456789abcdef')}</name>" in xml


def test_it_is_called_by_the_instance_and_nobody_takes_it_for_a_machine_of_ours() -> None:
    assert name_of("0123456789abcdef") == "lbctl-holder-01234567"
    assert "urn:lbctl:replica" not in holder_xml("ours", Record(UUID, US, 1.0, 1), "qemu")


def test_what_cannot_be_read_says_nothing_and_what_is_none_of_ours_is_told_apart() -> None:
    odd = "<holder xmlns='urn:lbctl:holder:1' pid='x' beat='' since='soon'/>"
    record = parse(f"<domain><uuid>{UUID}</uuid><metadata>{odd}</metadata></domain>")
    assert record == Record(UUID, Process("an unknown machine", 0), 0.0, 0)
    assert parse(f"<domain><name>lbctl-holder-1</name><uuid>{UUID}</uuid></domain>") is None
    said = foreign_words("box", "0123456789abcdef")
    assert "box: a domain lbctl-holder-01234567 is there that lbctl did not define" in said
    assert "rename or undefine it" in said


def test_a_beat_that_does_not_change_for_half_a_minute_is_gone() -> None:
    record = Record(UUID, THEM, 1.0, 7)
    seen = watched(None, record, NOW)
    assert not is_gone(record, seen, NOW, us=US, runs=False)
    seen = watched(seen, record, NOW + 29)
    assert not is_gone(record, seen, NOW + 29.9, us=US, runs=False)
    assert is_gone(record, seen, NOW + STALE_S, us=US, runs=True), "there, a number says nothing"


def test_each_beat_begins_the_half_minute_anew() -> None:
    seen = watched(Watched(UUID, 7, NOW), Record(UUID, THEM, 1.0, 8), NOW + 20)
    assert seen == Watched(UUID, 8, NOW + 20)
    other = Record(UUID.replace("1", "2"), THEM, 1.0, 8)
    assert watched(seen, other, NOW + 25).at == NOW + 25


def test_on_one_machine_a_process_that_runs_no_more_is_gone_at_once() -> None:
    neighbour = Record(UUID, Process("rack-8", 43, "9914", US.seat), 1.0, 7)
    seen = watched(None, neighbour, NOW)
    assert is_gone(neighbour, seen, NOW, us=US, runs=False)
    assert not is_gone(neighbour, seen, NOW + 3600, us=US, runs=True), "it hangs, and may go on"
    nowhere = Process("rack-8", 42)
    unknown = Record(UUID, Process("rack-8", 43), 1.0, 7)
    assert not is_gone(unknown, seen, NOW, us=nowhere, runs=False), "no seat is nobody's seat"


def test_it_says_who_holds_since_when_and_what_to_do() -> None:
    said = held_words("box", Record(UUID, THEM, 1.7e9, 7))
    assert said.startswith("box: lbctl up on rack-7, pid 4711, acts on this instance's machines")
    assert "since 2023-11-14 22:13:20 UTC" in said
    assert "stop one of the two" in said
