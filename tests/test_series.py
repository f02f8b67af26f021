"""Figures over time: what is kept comes out again, folded right, within bounds, whatever breaks."""

from __future__ import annotations

import asyncio
import math
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lb.series import Series, until_next
from lb.series_file import MINUTES_S, SECONDS_S, Row, SeriesFile, read_series, read_subjects

NOON = 1_700_000_040
"""The beginning of a minute."""
ROOT = Path(__file__).parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "series.db"


def web(**figures: float) -> Row:
    return Row("web", "", figures)


def kept(path: Path, table: str) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [at for (at,) in db.execute(f"SELECT DISTINCT at FROM {table} ORDER BY at")]  # noqa: S608


# ── keeping and reading ──────────────────────────────────────────────────────────────────────────


def test_seconds_come_out_as_they_were_by_name_and_subject(path: Path) -> None:
    file = SeriesFile(path)
    for second in range(4):
        rows = [web(rate=second, ready=2), Row("web", "web-1", {"cpu_host": 0.5})]
        file.append(NOON + second, [*rows, Row("api", "", {"rate": 100})])
    file.close()
    everything = read_series(path, "web", "", None, NOON, NOON + 9, 1)
    assert everything["rate"] == [(NOON + n, n, n, n) for n in range(4)]
    assert set(everything) == {"rate", "ready"}
    chosen = read_series(path, "web", "", ["ready", "none"], NOON + 1, NOON + 3, 1)
    assert chosen == {"ready": [(NOON + 1, 2, 2, 2), (NOON + 2, 2, 2, 2)]}
    assert read_series(path, "web", "", ["rate"], NOON, NOON + 9, 2) == {
        "rate": [(NOON, 0.5, 0, 1), (NOON + 2, 2.5, 2, 3)]
    }
    assert list(read_series(path, "web", "web-1", None, NOON, NOON + 9, 1)) == ["cpu_host"]
    assert read_subjects(path, "web", NOON, NOON + 9) == ["web-1"]
    assert read_subjects(path, "web", NOON + 5, NOON + 9) == []


def test_minutes_hold_mean_least_and_greatest_once_they_are_over(path: Path) -> None:
    file = SeriesFile(path)
    for second in range(60):
        file.append(NOON + second, [web(rate=second)])
    assert read_series(path, "web", "", None, NOON, NOON + 60, 60) == {}
    file.append(NOON + 60, [web(rate=7)])
    file.close()
    assert read_series(path, "web", "", None, NOON, NOON + 99, 60) == {
        "rate": [(NOON, 29.5, 0, 59)]
    }


def test_minutes_are_folded_further(path: Path) -> None:
    file = SeriesFile(path)
    for minute in range(5):
        for second in (0, 30):
            file.append(NOON + 60 * minute + second, [web(rate=minute * 10 + second / 30)])
    file.close()
    start = NOON // 120 * 120
    found = read_series(path, "web", "", None, start, NOON + 240, 120)["rate"]
    assert sum(point[1] for point in found) > 0
    assert all(at % 120 == 0 for at, *_ in found)
    assert (min(p[2] for p in found), max(p[3] for p in found)) == (0, 31)


def test_what_is_no_number_is_left_out(path: Path) -> None:
    file = SeriesFile(path)
    file.append(NOON, [web(good=0.123456789, bad=math.nan, endless=math.inf)])
    file.close()
    assert read_series(path, "web", "", None, NOON, NOON + 1, 1) == {
        "good": [(NOON, 0.12346, 0.12346, 0.12346)]
    }


def test_a_second_that_comes_again_is_told_anew(path: Path) -> None:
    file = SeriesFile(path)
    for rate in (1, 2):
        file.append(NOON, [web(rate=rate)])
    file.close()
    assert read_series(path, "web", "", None, NOON, NOON + 1, 1)["rate"][0][1] == 2


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    told=st.dictionaries(st.integers(0, 300), st.integers(-9, 9999), max_size=40),
    step=st.sampled_from([1, 7, 59, 60, 120]),
    lives=st.integers(1, 4),
)
def test_whatever_is_told_is_folded_as_a_plain_list_would_be(
    tmp_path_factory: pytest.TempPathFactory, told: dict[int, int], step: int, lives: int
) -> None:
    path = tmp_path_factory.mktemp("series") / "series.db"
    file = SeriesFile(path)
    for number, second in enumerate(sorted(told)):
        if number % lives == 0:
            file.close()
            file = SeriesFile(path)  # another process goes on
        file.append(NOON + second, [web(rate=told[second])])
    file.append(NOON + 360, [])
    file.close()
    base = 1 if step < 60 else 60
    slots: dict[int, dict[int, list[int]]] = {}
    for second, value in told.items():
        at = NOON + second
        slots.setdefault(at // step * step, {}).setdefault(at // base, []).append(value)
    expected: list[tuple[object, ...]] = []
    for at in sorted(slots):
        means = [sum(values) / len(values) for values in slots[at].values()]
        every = [value for values in slots[at].values() for value in values]
        expected.append(
            (at, pytest.approx(sum(means) / len(means), rel=1e-4), min(every), max(every))
        )
    found = read_series(path, "web", "", None, NOON, NOON + 400, step)
    assert [*map(tuple, found.get("rate", []))] == expected


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────


def test_seconds_are_kept_for_an_hour_and_minutes_for_a_month(path: Path) -> None:
    file = SeriesFile(path)
    for at in (NOON, NOON + 60, NOON + SECONDS_S, NOON + SECONDS_S + 60, NOON + SECONDS_S + 120):
        file.append(at, [web(rate=1)])
    assert kept(path, "second")[0] == NOON + SECONDS_S
    assert kept(path, "minute")[:2] == [NOON, NOON + 60]
    file.append(NOON + MINUTES_S + 60, [web(rate=1)])
    file.close()
    assert kept(path, "minute")[0] == NOON + 60


def test_what_a_wrong_clock_left_in_the_future_goes(path: Path) -> None:
    file = SeriesFile(path)
    for at in (NOON, NOON + 10**7, NOON + 10**7 + 60, NOON + 60, NOON + 61, NOON + 120):
        file.append(at, [web(rate=1)])
    file.close()
    assert kept(path, "second") == [NOON + 60, NOON + 61, NOON + 120]
    assert kept(path, "minute") == [NOON + 60]


def test_the_file_is_bounded_by_bytes_and_the_oldest_go(path: Path) -> None:
    file = SeriesFile(path, max_bytes=300_000)
    figures = {f"figure_{n}": n + 0.123 for n in range(30)}
    for minute in range(1000):
        file.append(NOON + 60 * minute, [web(**figures)])
    file.close()
    minutes = kept(path, "minute")
    assert 50 < len(minutes) < 900
    assert minutes[-1] == NOON + 60 * 998
    assert path.stat().st_size <= 2 * 300_000


# ── faults ───────────────────────────────────────────────────────────────────────────────────────

WRITER = """
import sys
from pathlib import Path
from lb.series_file import Row, SeriesFile

file = SeriesFile(Path(sys.argv[1]), max_bytes=2_000_000)
at = int(sys.argv[2])
while True:
    rows = [Row("web", f"web-{n}" if n else "", {"rate": at % 60, "cpu": 0.5}) for n in range(3)]
    file.append(at, rows)
    print(at, flush=True)
    at += 1
"""


# nothing is made smaller: when the kill comes is chance
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
)
@given(lives=st.lists(st.integers(1, 400), min_size=1, max_size=4))
def test_kill_9_at_any_moment_leaves_all_that_was_kept(
    tmp_path_factory: pytest.TempPathFactory, lives: list[int]
) -> None:
    path = tmp_path_factory.mktemp("series") / "series.db"
    at = NOON
    for seconds in lives:
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(at)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as writer:
            assert writer.stdout is not None
            try:
                said = [writer.stdout.readline() for _ in range(seconds)]
            finally:
                writer.send_signal(signal.SIGKILL)
            said += writer.stdout.readlines()
        newest = max(int(line) for line in said if line.endswith("\n"))
        seconds_kept = kept(path, "second")
        assert seconds_kept[-1] in (newest, newest + 1), "the last may have been cut in the telling"
        at = seconds_kept[-1] + 1
    assert len(seconds_kept) <= SECONDS_S + 61
    assert seconds_kept == list(range(seconds_kept[0], at))
    last_minute = (at - 1) // 60 * 60
    assert kept(path, "minute") == list(range(NOON, last_minute, 60))
    whole = read_series(path, "web", "web-2", ["rate"], NOON, last_minute, 60).get("rate", [])
    assert all(point[1:] == (29.5, 0, 59) for point in whole)
    assert not path.with_name("series.db.broken").exists()


async def test_a_place_that_cannot_be_written_costs_seconds_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "home"
    place.touch()
    series = Series(place / "series.db", lambda: [web(rate=1)])
    for second in range(3):
        await series.record(NOON + second)
    assert series.lost == 3
    assert await series.read("web", "", None, NOON, NOON + 9, 1) == {}
    assert await series.vms("web", NOON, NOON + 9) == []
    assert len([r for r in caplog.records if "lose seconds" in r.message]) == 1
    place.unlink()
    await series.record(NOON + 3)
    await series.stop()
    assert "are written again; lost so far: 3 s" in caplog.text
    assert list(await series.read("web", "", None, NOON, NOON + 9, 1)) == ["rate"]


@pytest.fixture
def broken(path: Path) -> Path:
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    return path


async def test_a_broken_file_is_moved_aside_and_history_begins_anew(
    broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = broken
    series = Series(path, lambda: [web(rate=1)])
    await series.record(NOON)
    await series.stop()
    assert series.lost == 0
    assert list(await series.read("web", "", None, NOON, NOON + 1, 1)) == ["rate"]
    assert "moved to series.db.broken" in caplog.text


@pytest.mark.parametrize("off_s", [-0.015, 0.0, 0.9])
@given(asked=st.floats(NOON, NOON + 1e6))
def test_a_timer_that_ends_early_or_late_still_ends_in_the_next_second(
    asked: float, off_s: float
) -> None:
    assert int(asked + until_next(asked) + off_s) == int(asked) + 1


async def test_it_asks_once_a_second_until_it_is_stopped(path: Path) -> None:
    asked = asyncio.Event()
    now = NOON + 0.999

    def sample() -> list[Row]:
        nonlocal now
        now += 1.0
        if now > NOON + 3:
            asked.set()
        return [web(rate=1)]

    series = Series(path, sample, lambda: now)
    series.start()
    await asyncio.wait_for(asked.wait(), 10)
    await series.stop()
    await series.stop()
    (points,) = (await series.read("web", "", None, NOON, NOON + 60, 1)).values()
    assert [at for at, *_ in points][:2] == [NOON, NOON + 1]
