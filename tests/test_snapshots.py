"""What is known of saved guests."""

from __future__ import annotations

from dataclasses import replace

from autoscale.snapshots import ASK_AGAIN_S, RETRY_S, Snapshots, key_of, service_of
from autoscale.vm import BootFiles, VmShape

FILES = BootFiles("3f" * 32, "/images/kernel", "/images/initrd", "/images/root.img", "quiet")
SHAPE = VmShape(1, 384, 8080, 0.4, 30.0, 20.0, 8.0)
NOW = 100.0


def test_the_key_changes_with_the_image_and_the_shape_and_nothing_else() -> None:
    key = key_of("web", FILES, SHAPE)
    others = {
        key_of("web", replace(FILES, generation="4f" * 32), SHAPE),
        key_of("web", FILES, replace(SHAPE, vcpus=2)),
        key_of("web", FILES, replace(SHAPE, memory_mib=512)),
        key_of("web", FILES, replace(SHAPE, app_port=8081)),
        key_of("api", FILES, SHAPE),
    }
    assert len(others | {key}) == 6
    assert (
        key_of("web", FILES, replace(SHAPE, cpu_limit=0.8, standby=2, drain_timeout_s=1.0)) == key
    )
    assert set(key) <= set("web~0123456789abcdefx-"), "it can stand in a file's name"
    assert service_of(key_of("web-2", FILES, SHAPE)) == "web-2"


def test_a_host_has_what_it_said_and_what_was_made_there() -> None:
    known = Snapshots()
    assert not known.asked("a", NOW)
    assert known.to_make(["a"], "new", NOW) is None, "it may have one"
    known.found("a", ["old"], NOW)
    assert known.asked("a", NOW)
    assert (known.has("a", "old"), known.has("a", "new"), known.has("b", "old")) == (
        True,
        False,
        False,
    )
    assert known.to_make(["b", "a"], "new", NOW) == "a"
    known.made("a", "new")
    assert (known.has("a", "old"), known.has("a", "new")) == (False, True), "the new one replaces"
    assert known.to_make(["a"], "new", NOW) is None


def test_one_that_is_no_good_is_tried_again_later_another_at_once() -> None:
    known = Snapshots()
    known.found("a", ["key"], NOW)
    known.failed("a", "key", NOW)
    assert not known.has("a", "key")
    assert known.to_make(["a"], "key", NOW + RETRY_S - 1) is None
    assert known.to_make(["a"], "other", NOW + 1) == "a"
    assert known.to_make(["a"], "key", NOW + RETRY_S) == "a"


def test_a_host_that_starts_no_copies_never_does_and_that_is_news_once() -> None:
    known = Snapshots()
    known.found("a", ["key"], NOW)
    assert [known.never("a", "no such libvirt"), known.never("a", "no such libvirt")] == [
        True,
        False,
    ]
    assert not known.has("a", "key")
    assert known.to_make(["a"], "other", NOW) is None


def test_what_a_host_said_is_asked_for_again() -> None:
    known = Snapshots()
    known.found("a", ["key"], NOW)
    assert known.asked("a", NOW + ASK_AGAIN_S - 1)
    assert not known.asked("a", NOW + ASK_AGAIN_S)
    known.silent("a", NOW + ASK_AGAIN_S)
    assert (known.asked("a", NOW + ASK_AGAIN_S), known.has("a", "key")) == (True, True)
    known.found("a", [], NOW + ASK_AGAIN_S)
    assert known.to_make(["a"], "key", NOW + ASK_AGAIN_S) == "a", "somebody has cleaned up there"
    known.silent("b", NOW)
    assert known.to_make(["b"], "key", NOW) == "b", "one that says nothing gets one"


def test_one_that_is_no_good_is_not_believed_in_again_until_it_was_made_anew() -> None:
    known = Snapshots()
    known.found("a", ["key"], NOW)
    known.failed("a", "key", NOW)
    known.found("a", ["key"], NOW + RETRY_S)
    assert not known.has("a", "key")
    assert known.to_make(["a"], "key", NOW + RETRY_S) == "a"
    known.made("a", "key")
    known.found("a", ["key"], NOW + RETRY_S)
    assert known.has("a", "key")
