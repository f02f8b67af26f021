"""The access log never makes a request wait: it drops, counts, says so, and follows rotation."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lb.access_log import MOST_WAITING, MOST_WAITING_BYTES, AccessLog, AccessLogError, Entry
from lb.config import AccessLogConfig

PATIENCE_S = 20.0
ENTRY = Entry(
    time=971211336.0, client="127.0.0.1", method="GET", target=b"/", version=(1, 1), status=200,
    bytes_sent=5, bytes_received=0, duration_s=0.1,
)  # fmt: skip


class Dice:
    """An rng that says what it was told to."""

    def __init__(self, *said: float) -> None:
        self._said = list(said)

    def random(self) -> float:
        return self._said.pop(0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def numbered(number: int, **changes: object) -> Entry:
    return replace(ENTRY, target=b"/%d" % number, **changes)  # type: ignore[arg-type]


def config(path: Path | str, **settings: object) -> AccessLogConfig:
    return AccessLogConfig.model_validate({"format": "common", "path": str(path), **settings})


def targets(text: str) -> list[str]:
    return [line.split('"')[1].split()[1] for line in text.splitlines()]


def until(condition: Callable[[], object]) -> None:
    """Wait for what the thread will have done."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe, and its end that reads only when told to."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reader
    os.close(reader)


def drained(reader: int) -> bytes:
    """Everything until the log closes its end."""
    os.set_blocking(reader, True)
    read = bytearray()
    while piece := os.read(reader, 1 << 20):
        read += piece
    return bytes(read)


# ── what is written ──────────────────────────────────────────────────────────────────────────────


def test_a_line_a_request_in_order(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(config(path), Dice())
    for number in range(500):
        log.write(numbered(number))
    log.close()
    assert targets(path.read_text()) == [f"/{number}" for number in range(500)]
    assert (log.written, log.dropped) == (500, 0)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for number in range(2):
        log = AccessLog(config(path), Dice())
        log.write(numbered(number))
        log.close()
    assert targets(path.read_text()) == ["/0", "/1"]


def test_lines_come_without_being_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(config(path), Dice())
    for number in range(3):
        log.write(numbered(number))
        until(lambda: log.written == number + 1)  # noqa: B023 - called within the loop
        assert len(targets(path.read_text())) == number + 1
    log.close()


def test_a_dash_is_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    log = AccessLog(config("-"), Dice())
    log.write(numbered(1))
    log.close()
    os.write(1, b"still open\n")
    out = capfd.readouterr().out.splitlines()
    assert out == ["127.0.0.1 - - [10/Oct/2000:" + out[0][27:], "still open"]
    assert '"GET /1 HTTP/1.1" 200 5' in out[0]


def test_off_writes_nothing_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(config(path, format="off"), Dice())
    assert not log.enabled
    log.write(ENTRY)
    log.close()
    assert not path.exists()
    assert (log.written, log.dropped) == (0, 0)


def test_a_sample_by_the_dice_and_every_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(config(path, sample=0.25), Dice(0.0, 0.24, 0.25, 0.99))
    for number, status in enumerate((200, 404, 200, 499, 500, 502, 503)):
        log.write(numbered(number, status=status))
    log.close()
    assert targets(path.read_text()) == ["/0", "/1", "/4", "/5", "/6"]
    assert log.dropped == 0, "what was not chosen is not lost"


# ── rotation and reload ──────────────────────────────────────────────────────────────────────────


def test_reopened_after_rotation(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    log = AccessLog(config(path), Dice())
    log.write(numbered(0))
    until(lambda: log.written == 1)
    path.rename(old)
    log.write(numbered(1))
    until(lambda: log.written == 2)
    log.configure(config(path))
    until(lambda: not held(old))
    log.write(numbered(2))
    log.close()
    assert targets(old.read_text()) == ["/0", "/1"]
    assert targets(path.read_text()) == ["/2"]


def held(path: Path) -> bool:
    """Whether this process has the file open: its space would not be freed."""
    for link in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the one that was for listing
            if link.readlink() == path:
                return True
    return False


def test_no_file_stays_open(tmp_path: Path) -> None:
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = files()
    log = AccessLog(config(tmp_path / "0.log"), Dice())
    for number in range(1, 20):
        log.configure(config(tmp_path / f"{number}.log"))
        log.write(numbered(number))
    log.close()
    assert files() == before


def test_a_reload_takes_over_format_path_and_sample(tmp_path: Path) -> None:
    first, second = tmp_path / "1.log", tmp_path / "2.log"
    log = AccessLog(config(first), Dice(0.9))
    log.write(numbered(0))
    until(lambda: log.written == 1)
    log.configure(config(second, format="json", sample=0.5))
    log.write(numbered(1))
    log.write(numbered(2, status=500))
    until(lambda: log.written == 2)
    log.configure(config(second, format="off"))
    assert not log.enabled
    log.write(numbered(3))
    log.configure(config(first))
    log.write(numbered(4))
    log.close()
    assert targets(first.read_text()) == ["/0", "/4"]
    assert '"target":"/2"' in second.read_text()
    assert len(second.read_text().splitlines()) == 1


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "none" / "access.log"
    with pytest.raises(AccessLogError, match=r"none/access\.log: no such file or directory"):
        AccessLog(config(bad), Dice())
    path = tmp_path / "access.log"
    log = AccessLog(config(path), Dice())
    with pytest.raises(AccessLogError, match=r"set proxy\.access_log\.path"):
        log.configure(config(bad, format="json"))
    log.write(numbered(1))
    log.close()
    assert targets(path.read_text()) == ["/1"], "nothing has changed"


def test_a_pipe_that_nobody_reads_is_an_error_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AccessLogError, match="no such device"):
        AccessLog(config(tmp_path / "pipe"), Dice())


# ── where the file does not keep up ──────────────────────────────────────────────────────────────


def test_a_full_disk_drops_counts_and_says_so_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    log = AccessLog(config("/dev/full"), Dice(), clock=clock)

    def lose(number: int) -> None:
        before = log.dropped
        for _ in range(number):
            log.write(ENTRY)
        until(lambda: log.dropped == before + number)

    lose(1)
    until(lambda: len(caplog.messages) == 1)
    lose(3)
    clock.now = 59.0
    lose(2)
    assert len(caplog.messages) == 1
    clock.now = 61.0
    lose(1)
    until(lambda: len(caplog.messages) == 2)
    lose(1)
    log.close()
    assert log.written == 0
    first, second, last = caplog.messages
    assert first == "access log, lines lost: 1, since the start 1: no space left on device"
    assert second == "access log, lines lost: 6, since the start 7: no space left on device"
    assert last == "access log, lines lost: 1, since the start 8: no space left on device"
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_stuck_reader_costs_lines_and_no_time(pipe: tuple[Path, int]) -> None:
    """Nothing waits for it: this test would hang. What it then reads is whole lines, in order."""
    path, reader = pipe
    log = AccessLog(config(path), Dice())
    most = MOST_WAITING + 2000
    for number in range(most):
        log.write(numbered(number))
    # What fits into the pipe, and a slice, may have left the queue already.
    assert 500 < log.dropped <= 2000
    log.close(timeout_s=0.0)
    read = drained(reader)
    whole, _, half = read.rpartition(b"\n")
    numbers = [int(target[1:]) for target in targets(whole.decode())]
    assert numbers == list(range(len(numbers)))
    assert log.written == len(numbers)
    assert log.written + log.dropped == most
    assert not half or b"\n" not in half


def test_long_texts_are_bounded_by_their_bytes(pipe: tuple[Path, int]) -> None:
    log = AccessLog(config(pipe[0]), Dice())
    long = replace(ENTRY, target=b"/" + bytes(8191), user_agent=bytes(8192))
    fits = MOST_WAITING_BYTES // 16384
    for _ in range(fits + 200):
        log.write(long)
    # A slice of 32 may be with the thread already.
    assert 100 <= log.dropped <= 200
    log.close(timeout_s=0.0)
    drained(pipe[1])


def test_what_was_written_makes_room(tmp_path: Path) -> None:
    log = AccessLog(config(tmp_path / "access.log"), Dice())
    long = replace(ENTRY, target=b"x" * 16384)
    fits = MOST_WAITING_BYTES // 16384
    for turn in range(1, 4):
        for _ in range(fits // 2):
            log.write(long)
        until(lambda: log.written == turn * (fits // 2))  # noqa: B023 - called within the loop
    log.close()
    assert log.dropped == 0


def test_half_a_line_is_ended_before_the_next(pipe: tuple[Path, int]) -> None:
    path, reader = pipe
    log = AccessLog(config(path), Dice())
    for number in range(20):
        log.write(replace(ENTRY, target=b"/%d" % number + b"x" * 8000))
    # 64 KiB fit into a pipe: eight lines, and a part of the ninth.
    until(lambda: log.dropped)
    text = os.read(reader, 1 << 20).decode()
    assert not text.endswith("\n")
    assert log.written == text.count("\n") == 20 - log.dropped
    log.write(numbered(99))
    log.close()
    assert targets((text + os.read(reader, 1 << 20).decode()).splitlines()[-1]) == ["/99"]


def test_closing_does_not_wait_for_ever(pipe: tuple[Path, int]) -> None:
    log = AccessLog(config(pipe[0]), Dice())
    for number in range(5000):
        log.write(numbered(number))
    log.close(timeout_s=0.01)
    assert log.written + log.dropped >= 5000 - 32, "all but what the thread has in its hand"
    lost = log.dropped
    log.write(ENTRY)
    assert log.dropped == lost + 1, "it is closed"
    drained(pipe[1])
    assert log.written + log.dropped == 5001
