"""Saved guests on disk: whole or not there, what is damaged is told, nothing is left over."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoscale import saved_guest
from autoscale.domain_xml import HostSettings, Identity, VmSpec, domain_xml
from autoscale.saved_guest import NewGuest, SavedGuest, UnknownSaveFormat
from autoscale.saved_store import Damaged, SavedStore

IDENTITY = Identity("ours", "web", "g", 8080, 1.0, 1.0, host_port=40001)
SPEC = VmSpec("web-a", "b5a4b7a6-0000-4000-8000-000000000001", 64, 1, "/k", "", "/d", "q", IDENTITY)
NEW = NewGuest(
    "web-b",
    "b5a4b7a6-0000-4000-8000-000000000002",
    "b5a4b7a6-0000-4000-8000-000000000003",
    replace(IDENTITY, host_port=40002),
    "/logs/web-b",
    "/agents/web-b",
)
STREAM = b"QEVM" + bytes(range(256)) * 1000


def file(stream: bytes = STREAM) -> bytes:
    xml = domain_xml(SPEC, HostSettings("qemu", "user", "/logs/web-a", "/agents/web-a"))
    return saved_guest.head(SavedGuest(xml, b"<cookie/>", True, 70_000)) + stream


def saving(content: bytes) -> Callable[[str], object]:
    return lambda path: Path(path).write_bytes(content)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "saved" / "local"


@pytest.fixture
def store(folder: Path) -> SavedStore:
    found = SavedStore(folder)
    found.write("web~1", saving(file()), lambda: True)
    return found


def read(store: SavedStore, key: str = "web~1", *, by_fifo: bool = True) -> bytes:
    with store.copy(key, NEW, by_fifo=by_fifo) as path:
        return Path(path).read_bytes()


def test_nothing_is_saved_at_first(folder: Path) -> None:
    assert SavedStore(folder).keys() == frozenset()


def test_what_was_saved_is_found_by_a_successor_and_is_the_only_one(
    store: SavedStore, folder: Path
) -> None:
    assert SavedStore(folder).keys() == {"web~1"}
    store.write("web~2", saving(file()), lambda: True)
    assert SavedStore(folder).keys() == {"web~2"}
    assert everything(folder) == {"web~2/guest", "web~2/sha256"}
    store.write("web~2", saving(file(b"QEVM again")), lambda: True)
    assert read(store, "web~2").endswith(b"QEVM again")


def test_each_service_keeps_its_own_as_long_as_there_is_one(store: SavedStore) -> None:
    store.write("web-2~1", saving(file()), lambda: True)
    assert store.keys() == {"web~1", "web-2~1"}
    store.write("web~2", saving(file()), lambda: True)
    assert store.keys() == {"web~2", "web-2~1"}, "only its own older one goes"
    store.keep({"web-2", "api"})
    assert store.keys() == {"web-2~1"}


@pytest.mark.parametrize("by_fifo", [True, False])
def test_a_copy_has_the_stream_and_another_head(
    store: SavedStore, folder: Path, by_fifo: bool
) -> None:
    found = read(store, by_fifo=by_fifo)
    guest = saved_guest.parse(found)
    assert found[guest.stream_at :] == STREAM
    assert "<name>web-b</name>" in guest.xml
    assert "40002" in guest.xml
    assert everything(folder) == {"web~1/guest", "web~1/sha256"}


def test_two_copies_at_once(store: SavedStore, folder: Path) -> None:
    with (
        store.copy("web~1", NEW, by_fifo=True) as one,
        store.copy("web~1", replace(NEW, name="web-c"), by_fifo=True) as two,
    ):
        assert Path(one).read_bytes().endswith(STREAM)
        assert Path(two).read_bytes().endswith(STREAM)
    assert everything(folder) == {"web~1/guest", "web~1/sha256"}


def test_a_copy_that_nobody_reads_leaves_nothing(store: SavedStore, folder: Path) -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError), store.copy("web~1", NEW, by_fifo=True):
        raise RuntimeError("libvirt says no")
    assert everything(folder) == {"web~1/guest", "web~1/sha256"}
    assert threading.active_count() == before


@pytest.mark.parametrize("content", [b"", b"QEVM", file(b""), file()[:-300_000]])
def test_a_file_that_cannot_be_read_is_not_kept(
    store: SavedStore, folder: Path, content: bytes
) -> None:
    with pytest.raises(UnknownSaveFormat):
        store.write("web~2", saving(content), lambda: True)
    assert everything(folder) == {"web~1/guest", "web~1/sha256"}, "and the one before still serves"


def test_a_save_that_fails_or_is_not_wanted_any_more_leaves_nothing(
    store: SavedStore, folder: Path
) -> None:
    def fail(path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.write("web~2", fail, lambda: True)
    store.write("web~2", saving(file()), lambda: False)
    assert everything(folder) == {"web~1/guest", "web~1/sha256"}


def test_a_flipped_byte_is_found_by_whoever_has_not_seen_the_file(
    store: SavedStore, folder: Path
) -> None:
    path = folder / "web~1" / "guest"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged, match="checksum"):
        read(SavedStore(folder))


def test_a_file_changed_under_us_is_found_too(store: SavedStore, folder: Path) -> None:
    read(store)
    path = folder / "web~1" / "guest"
    aside = path.with_name("aside")
    aside.write_bytes(file(bytes(len(STREAM))))
    aside.replace(path)
    with pytest.raises(Damaged, match="checksum"):
        read(store)


def test_the_checksum_is_taken_once(store: SavedStore, folder: Path) -> None:
    """0.06 s of a core each, and a copy shall be there in a second."""
    successor = SavedStore(folder)
    read(successor)
    (folder / "web~1" / "sha256").write_text("other")
    assert read(successor).endswith(STREAM), "it was compared before"
    with pytest.raises(Damaged):
        read(SavedStore(folder))


@pytest.mark.parametrize("lost", ["guest", "sha256"])
def test_what_is_gone_is_told(store: SavedStore, folder: Path, lost: str) -> None:
    (folder / "web~1" / lost).unlink()
    assert store.keys() == frozenset()
    with pytest.raises(Damaged):
        read(SavedStore(folder))


def test_a_discarded_one_is_gone_and_copies_under_way_go_on(
    store: SavedStore, folder: Path
) -> None:
    with store.copy("web~1", NEW, by_fifo=True) as path:
        store.discard("web~1")
        assert Path(path).read_bytes().endswith(STREAM)
    store.discard("web~1")
    assert everything(folder) == set()


def test_what_a_killed_process_had_begun_is_swept_and_nothing_else(
    store: SavedStore, folder: Path
) -> None:
    (folder / ".k2").mkdir()
    (folder / ".k2" / "guest").write_bytes(b"half")
    os.mkfifo(folder / "web-x.copy")
    with store.copy("web~1", NEW, by_fifo=True) as path:
        store.sweep()
        assert everything(folder) == {"web~1/guest", "web~1/sha256", "web-b.copy"}
        assert Path(path).read_bytes().endswith(STREAM)
