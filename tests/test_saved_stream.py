"""A shared stream behind a head of its own: FIFO and copy."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from pathlib import Path

import pytest

from autoscale import saved_stream
from autoscale.saved_stream import Feed, checksum, copy

HEAD, OTHER = b"h" * 70_000, b"o" * 70_000
STREAM = bytes(range(256)) * 20_000


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "saved"
    path.write_bytes(HEAD + STREAM)
    return path


def feeders() -> int:
    return sum(thread.name == "saved-guest" for thread in threading.enumerate())


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_fifo_reads_as_the_file_would_with_the_other_head(tmp_path: Path, saved: Path) -> None:
    before = open_files()
    with Feed(tmp_path / "fifo", OTHER, saved, len(HEAD)) as path:
        assert path.is_fifo()
        assert path.read_bytes() == OTHER + STREAM
    assert not path.exists()
    assert (feeders(), open_files()) == (0, before)


def test_many_read_one_saved_file_at_once(tmp_path: Path, saved: Path) -> None:
    feeds = [Feed(tmp_path / f"fifo{n}", bytes([n]) * 70_000, saved, len(HEAD)) for n in range(4)]
    got: dict[int, bytes] = {}

    def read(number: int) -> None:
        with feeds[number] as path:
            got[number] = path.read_bytes()

    readers = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert got == {n: bytes([n]) * 70_000 + STREAM for n in range(4)}


def test_it_is_left_though_nobody_ever_reads(tmp_path: Path, saved: Path) -> None:
    before = open_files()
    with Feed(tmp_path / "fifo", OTHER, saved, len(HEAD)) as path:
        pass
    assert not path.exists()
    assert (feeders(), open_files()) == (0, before)


def test_it_is_left_though_somebody_removed_the_fifo(tmp_path: Path, saved: Path) -> None:
    before = open_files()
    with Feed(tmp_path / "fifo", OTHER, saved, len(HEAD)) as path:
        path.unlink()
    assert (feeders(), open_files()) == (0, before)


@pytest.mark.parametrize("read", [0, 10, 100_000])
def test_it_is_left_though_the_reader_gave_up(tmp_path: Path, saved: Path, read: int) -> None:
    before = open_files()
    with Feed(tmp_path / "fifo", OTHER, saved, len(HEAD)) as path, path.open("rb") as reader:
        assert len(reader.read(read)) == read
    assert not path.exists()
    assert (feeders(), open_files()) == (0, before)


def test_it_is_left_though_a_reader_hangs(tmp_path: Path, saved: Path) -> None:
    feed = Feed(tmp_path / "fifo", OTHER, saved, len(HEAD))
    with feed as path:
        reader = path.open("rb")
        reader.read(10)
    with reader:
        assert feeders() == 0
        assert len(reader.read()) < len(OTHER + STREAM)


def test_an_error_of_the_restore_comes_through(tmp_path: Path, saved: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="refused"),
        Feed(tmp_path / "fifo", OTHER, saved, len(HEAD)),
    ):
        raise RuntimeError("refused")
    assert feeders() == 0


def test_without_the_saved_file_nothing_is_made(tmp_path: Path) -> None:
    before = open_files()
    with pytest.raises(FileNotFoundError), Feed(tmp_path / "fifo", OTHER, tmp_path / "none", 0):
        pass
    assert not (tmp_path / "fifo").exists()
    assert open_files() == before


def test_a_name_that_is_taken_is_told_and_nothing_leaks(tmp_path: Path, saved: Path) -> None:
    before = open_files()
    with pytest.raises(FileExistsError), Feed(saved, OTHER, saved, len(HEAD)):
        pass
    assert saved.read_bytes() == HEAD + STREAM
    assert open_files() == before


def test_a_copy_has_the_other_head_and_leaves_the_original(tmp_path: Path, saved: Path) -> None:
    copy(saved, OTHER, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == OTHER + STREAM
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    assert saved.read_bytes() == HEAD + STREAM


def test_a_copy_works_where_the_kernel_cannot_copy_by_itself(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "elsewhere")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    copy(saved, OTHER, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == OTHER + STREAM


def test_a_reflink_is_taken_where_there_is_one(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cloned(sink: int, request: int, source: int) -> int:
        assert request == 0x40049409
        os.pwrite(sink, os.pread(source, 1 << 30, 0), 0)
        return 0

    def never(*_: object) -> int:
        raise AssertionError("copied all the same")

    monkeypatch.setattr(fcntl, "ioctl", cloned)
    monkeypatch.setattr(os, "copy_file_range", never)
    copy(saved, OTHER, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == OTHER + STREAM


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    before = open_files()
    with pytest.raises(OSError, match="No space left"):
        copy(saved, OTHER, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert open_files() == before


def test_a_copy_replaces_nothing(tmp_path: Path, saved: Path) -> None:
    other = tmp_path / "copy"
    other.write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        copy(saved, OTHER, other)
    assert other.read_bytes() == b"somebody's"


def test_the_checksum_tells_one_changed_byte(saved: Path) -> None:
    before = checksum(saved)
    assert before == hashlib.sha256(HEAD + STREAM).hexdigest()
    with saved.open("r+b") as file:
        file.seek(100_000)
        file.write(b"!")
    assert saved_stream.checksum(saved) != before
