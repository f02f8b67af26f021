"""The journal: what is recorded comes out again, and nothing that breaks reaches the recorder."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from autoscale.model import Happening, Reason
from lb.journal import Event, Journal
from lb.journal_file import (
    MAX_DECISIONS,
    PRUNE_EVERY,
    SCHEMA_VERSION,
    JournalFile,
    read_page,
)

PATIENCE_S = 10.0


def happening(subject: str = "web-1", service: str = "web", **data: float) -> Happening:
    return Happening("vm.ready", service, subject, Reason.OPERATOR, "it serves", {**data})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = Journal(path, lambda: 1000.0)
    journal.start()
    yield journal
    journal.close()


def event(number: int, message: str = "it serves") -> Event:
    return Event(number, 1000.0, "vm.ready", "web", "web-1", "operator", message)


def subjects(events: list[Event]) -> list[str]:
    return [event.subject for event in events]


# ── recording and reading ────────────────────────────────────────────────────────────────────────


async def test_what_is_recorded_is_read_field_by_field(journal: Journal) -> None:
    journal.record(happening(cpu=0.75))
    (event,) = await journal.events()
    assert event.as_dict() == {
        "id": 1,
        "at": 1000.0,
        "kind": "vm.ready",
        "service": "web",
        "subject": "web-1",
        "reason": "operator",
        "message": "it serves",
        "data": {"cpu": 0.75},
    }


async def test_pages_are_in_order_and_by_service(journal: Journal, path: Path) -> None:
    for number in range(10):
        journal.record(happening(f"vm-{number}", "even" if number % 2 == 0 else "odd"))
    for stored in (False, True):
        if stored:
            assert journal.flush()
        assert subjects(await journal.events(limit=2)) == ["vm-8", "vm-9"]
        assert subjects(await journal.events(since_id=3, limit=2)) == ["vm-3", "vm-4"]
        assert subjects(await journal.events(limit=2, service="even")) == ["vm-6", "vm-8"]
        assert subjects(await journal.events(since_id=2, limit=2, service="odd")) == [
            "vm-3",
            "vm-5",
        ]
    assert len(read_page(path, None, 100, None)) == 10


async def test_an_id_from_the_future_gets_everything(journal: Journal) -> None:
    journal.record(happening())
    assert len(await journal.events(since_id=99)) == 1


async def test_ids_go_on_after_a_restart(path: Path) -> None:
    for expected in (1, 2, 3):
        journal = Journal(path)
        journal.start()
        journal.record(happening())
        assert journal.last_id == expected
        journal.close()
    assert [event.id for event in await Journal(path).events()] == [1, 2, 3]


def test_nothing_is_recorded_after_the_end(journal: Journal) -> None:
    journal.close()
    journal.record(happening())
    assert journal.last_id == 0
    journal.close()


def test_the_file_is_bounded_by_rows(path: Path) -> None:
    journal = Journal(path, max_rows=20)
    journal.start()
    for number in range(200):
        journal.record(happening(f"vm-{number}"))
        if number % 10 == 0:
            journal.flush()  # small transactions: each could leave the bound
    journal.close()
    stored = read_page(path, None, 1000, None)
    assert len(stored) <= 40
    assert stored[-1].subject == "vm-199"


def test_the_file_is_bounded_by_age(path: Path) -> None:
    now = 0.0
    journal = Journal(path, lambda: now, max_age_s=60, max_rows=2)
    journal.start()
    for now in (0.0, 100.0):
        journal.record(happening(f"at-{now:g}"))
        journal.record(happening(f"at-{now:g}"))
        journal.flush()
    journal.close()
    assert subjects(read_page(path, None, 10, None)) == ["at-100", "at-100"]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    recorded=st.lists(st.sampled_from(["a", "b"]), max_size=12),
    since=st.none() | st.integers(0, 14),
    limit=st.integers(1, 14),
    service=st.sampled_from([None, "a", "b"]),
    flushed=st.booleans(),
)
def test_a_page_is_what_a_plain_list_would_give(
    tmp_path_factory: pytest.TempPathFactory,
    recorded: list[str],
    since: int | None,
    limit: int,
    service: str | None,
    flushed: bool,
) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "journal.db")
    journal.start()
    for name in recorded:
        journal.record(happening(service=name))
    if flushed:
        journal.flush()
    known = [(i, name) for i, name in enumerate(recorded, 1) if service in (None, name)]
    if since is None:
        expected = known[-limit:]
    else:
        floor = since if since <= len(recorded) else 0
        expected = [row for row in known if row[0] > floor][:limit]
    found = asyncio.run(journal.events(since, limit, service))
    journal.close()
    assert [(event.id, event.service) for event in found] == expected


# ── following ────────────────────────────────────────────────────────────────────────────────────


async def test_a_follower_gets_what_comes_and_only_that(journal: Journal) -> None:
    journal.record(happening("before"))
    with journal.subscribe() as following:
        assert await following.batch(0) == []
        journal.record(happening("after"))
        assert subjects(await following.batch(PATIENCE_S)) == ["after"]


async def test_a_follower_resumes_after_an_id_and_goes_on(journal: Journal) -> None:
    for number in range(3):
        journal.record(happening(f"vm-{number}"))
    seen = []
    with journal.subscribe(since_id=1) as following:
        async for event in following:
            seen.append(event.subject)
            if event.subject == "vm-2":
                journal.record(happening("live"))
            if event.subject == "live":
                break
    assert seen == ["vm-1", "vm-2", "live"]


async def test_a_follower_of_one_service_is_not_woken_for_nothing(journal: Journal) -> None:
    with journal.subscribe(service="web") as following:
        journal.record(happening("other", "db"))
        assert await following.batch(0.05) == []
        journal.record(happening("mine", "web"))
        assert subjects(await following.batch(PATIENCE_S)) == ["mine"]


async def test_the_end_of_the_journal_ends_its_followers(journal: Journal) -> None:
    following = journal.subscribe()
    waiting = asyncio.ensure_future(following.batch())
    await asyncio.sleep(0)
    await asyncio.to_thread(journal.close)
    assert await waiting == []
    assert [event async for event in following] == []
    assert journal.subscribe().closed


async def test_a_cancelled_wait_loses_nothing(journal: Journal) -> None:
    with journal.subscribe() as following:
        waiting = asyncio.ensure_future(following.batch())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        journal.record(happening("kept"))
        assert subjects(await following.batch(PATIENCE_S)) == ["kept"]


async def test_a_slow_follower_misses_nothing_that_memory_has_dropped(path: Path) -> None:
    journal = Journal(path, queue_size=5000)
    journal.start()
    with journal.subscribe() as following:
        for number in range(12_000):
            journal.record(happening(f"vm-{number}"))
            if number % 1000 == 0:
                await asyncio.to_thread(journal.flush)
        assert journal.lost == 0
        seen = 0
        while seen < 12_000:
            batch = await following.batch(PATIENCE_S)
            assert [event.id for event in batch] == list(range(seen + 1, seen + len(batch) + 1))
            seen += len(batch)
    await asyncio.to_thread(journal.close)


# ── faults ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_full_queue_loses_counts_and_says_so_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(path, queue_size=3)  # never started: nobody takes anything from the queue
    for _ in range(10):
        journal.record(happening())
    assert journal.lost == 7
    assert [record.message for record in caplog.records] == [
        "the journal's writer cannot keep up: events are lost (traffic goes on)"
    ]
    assert len(await journal.events()) == 10, "memory still has them"
    assert not journal.flush()


def test_a_corrupt_file_is_moved_aside_and_ids_still_grow(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    garbage = b"this was a journal once" * 1000
    path.write_bytes(garbage)
    journal = Journal(path, lambda: 1000.0)
    journal.start()
    journal.record(happening())
    journal.close()
    assert path.with_name("journal.db.broken").read_bytes() == garbage
    told, after = read_page(path, None, 10, None)
    assert (told.id, told.kind, told.reason) == (1_000_001, "journal.new", "unreadable")
    assert "file is not a database: moved to journal.db.broken" in told.message
    assert (after.id, after.kind) == (1_000_002, "vm.ready")
    assert journal.lost == 0
    assert "moved to journal.db.broken" in caplog.text


def test_a_page_that_rots_in_the_middle_is_noticed(path: Path) -> None:
    journal = Journal(path)
    journal.start()
    for _ in range(3000):
        journal.record(happening())
    journal.close()
    content = bytearray(path.read_bytes())
    content[8192:40960] = b"\xa5" * 32768
    path.write_bytes(content)
    journal = Journal(path)
    journal.start()
    journal.record(happening("survivor"))
    journal.close()
    assert subjects(read_page(path, None, 10, None)) == ["journal", "survivor"]


def test_the_file_of_another_version_is_moved_aside(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
        db.execute("CREATE TABLE event (other TEXT)")
        db.commit()
    journal = Journal(path)
    journal.start()
    journal.record(happening())
    journal.close()
    assert len(read_page(path, None, 10, None)) == 2


def test_a_file_that_breaks_while_serving_is_begun_anew(path: Path) -> None:
    file = JournalFile(path, lambda: 1000.0, max_rows=100_000, max_age_s=60)
    # 8 MB, more than the connection's cache holds
    file.append([event(number, message="x" * 2000) for number in range(1, 4001)])
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as content:
        content.seek(8192)
        content.write(b"\xa5" * (path.stat().st_size - 8192))
    # enough for a pruning, which reads every page
    file.append([event(number) for number in range(5000, 6000)])
    file.close()
    assert len(read_page(path, 0, 10_000, None)) == 1000
    assert path.with_name("journal.db.broken").exists()


def test_a_table_that_somebody_dropped_costs_one_batch(path: Path) -> None:
    journal = Journal(path)
    journal.start()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE event")
    for number in range(3):
        journal.record(happening(f"vm-{number}"))
        journal.flush()
    journal.close()
    assert subjects(read_page(path, None, 10, None)) == ["vm-1", "vm-2"]
    assert journal.lost == 1


async def test_a_place_that_cannot_be_written_costs_history_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    journal = Journal(tmp_path / "file" / "journal.db", lambda: 1000.0)
    journal.start()
    for number in range(3):
        journal.record(happening(f"vm-{number}"))
        await asyncio.to_thread(journal.flush)
    assert journal.lost == 3
    said = [r.message for r in caplog.records if "loses events" in r.message]
    assert len(said) == 1, "said once, not for each"
    assert subjects(await journal.events()) == ["vm-0", "vm-1", "vm-2"]
    with journal.subscribe(since_id=1_000_001) as following:
        assert subjects(await following.batch(PATIENCE_S)) == ["vm-1", "vm-2"]
    await asyncio.to_thread(journal.close)


async def test_once_the_place_is_well_again_history_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "home"
    place.touch()
    journal = Journal(place / "journal.db")
    journal.start()
    journal.record(happening("lost"))
    await asyncio.to_thread(journal.flush)
    place.unlink()
    journal.record(happening("kept"))
    await asyncio.to_thread(journal.close)
    assert subjects(read_page(place / "journal.db", None, 10, None)) == ["kept"]
    assert "is written again; lost so far: 1" in caplog.text


async def test_text_that_no_file_can_hold_is_kept_without_what_cannot(
    journal: Journal, path: Path
) -> None:
    half = "caf\udce9"
    journal.record(Happening("vm.ready", "web", half, Reason.OPERATOR, half, {"at": half, "n": 1}))
    (live,) = await journal.events()
    assert (live.subject, live.message, live.data) == ("caf?", "caf?", {"at": "caf?", "n": 1})
    await asyncio.to_thread(journal.close)
    assert journal.lost == 0
    assert read_page(path, None, 10, None) == [live]


WRITER = """
import sys
from pathlib import Path
from autoscale.model import Happening, Reason
from lb.journal import Journal

journal = Journal(Path(sys.argv[1]), max_rows=300, max_bytes=400_000)
journal.start()
number = 0
while True:
    number += 1
    said = "it serves" * (1 + number * 37 % 200)
    journal.record(Happening("vm.ready", "web", "web-1", Reason.OPERATOR, said))
    decided = journal.last_id
    journal.keep(lambda: {"id": decided % 50, "revision": decided, "said": said})
    if number % 7 == 0:
        print("told", journal.last_id, flush=True)  # it is in nobody's file yet
    if number % 50 == 0:
        journal.flush()
        print("kept", journal.last_id, flush=True)
"""


def killed_after(path: Path, lines: int) -> tuple[int, int]:
    """The newest id that a writer told, and that it promised to have kept, when kill -9 met it."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as writer:
        assert writer.stdout is not None
        try:
            said = [writer.stdout.readline() for _ in range(lines)]
        finally:
            writer.send_signal(signal.SIGKILL)
        # what it still said before it died is promised too; half a line says nothing
        said += writer.stdout.readlines()
    words = [line.split() for line in said if line.endswith("\n")]
    told = max(int(number) for _, number in words)
    return told, max([0, *(int(number) for word, number in words if word == "kept")])


# nothing is made smaller: when the kill comes is chance
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
)
@given(lives=st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_kill_9_at_any_moment_leaves_what_was_kept_and_ids_that_only_grow(
    tmp_path_factory: pytest.TempPathFactory, lives: list[int]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    highest = 0
    for lines in lives:
        told, kept = killed_after(path, lines)
        assert told > highest, "an id that somebody was told means nothing else later"
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        events = read_page(path, 0, 10**6, None)
        numbers = [event.id for event in events]
        assert numbers == sorted(numbers)
        assert max([0, *numbers]) >= kept
        assert len(numbers) <= 600
        assert path.stat().st_size <= 400_000 + 1_000_000
        journal = Journal(path)
        journal.start()
        assert journal.last_id >= told
        decided = [row["revision"] for row in journal.decisions]
        assert decided == sorted(set(decided))
        assert len(decided) <= 50
        highest = journal.last_id
        journal.close()
    assert not path.with_name("journal.db.broken").exists()


def test_ids_grow_over_processes_that_were_killed_before_they_kept_any(path: Path) -> None:
    begun = []
    for _ in range(3):
        file = JournalFile(path, lambda: 0.0, max_rows=9, max_age_s=60)
        begun.append(file.begin(50))
        file.close()  # as a kill would, before `end`
    assert begun == [0, 50, 100]
    file.end(1000)
    for expected in (1000, 1050):
        assert file.begin(50) == expected
        file.close()


async def test_an_id_that_was_told_and_lost_is_not_told_again(tmp_path: Path) -> None:
    place = tmp_path / "home"
    for _ in range(2):
        journal = Journal(place / "journal.db", lambda: 1000.0)
        journal.start()
        with closing(sqlite3.connect(place / "journal.db")) as db:
            db.execute("DROP TABLE event")
        journal.record(happening())
        await asyncio.to_thread(journal.flush)
        assert journal.lost == 1
        last = journal.last_id
        await asyncio.to_thread(journal.close)
    assert last == 2


def test_the_file_is_bounded_by_bytes(path: Path) -> None:
    journal = Journal(path, max_bytes=200_000)
    journal.start()
    for number in range(400):
        journal.record(happening(f"vm-{number}" + "x" * 5000))
        if number % 10 == 0:
            journal.flush()
    journal.close()
    stored = read_page(path, None, 1000, None)
    assert stored[-1].subject.startswith("vm-399")
    assert 10 < len(stored) < 120
    assert path.stat().st_size <= 3 * 200_000, "of 2 MB"


def test_what_was_decided_outlives_the_process_within_its_bound(path: Path) -> None:
    journal = Journal(path)
    journal.start()
    assert journal.decisions == []
    for number in range(3000):
        journal.keep(lambda number=number: {"id": number, "revision": number, "words": "stay"})  # type: ignore[misc]
        if number % 500 == 0:
            journal.flush()
    journal.keep(lambda: {"id": 2990, "revision": 5000, "words": "go on"})
    journal.close()
    again = Journal(path)
    again.start()
    again.close()
    assert again.decisions[-1] == {"id": 2990, "revision": 5000, "words": "go on"}
    assert [row["revision"] for row in again.decisions[-3:]] == [2998, 2999, 5000]
    assert len(again.decisions) <= MAX_DECISIONS + PRUNE_EVERY


FULL_DISK = """
import resource, sys
from pathlib import Path
from autoscale.model import Happening, Reason
from lb.journal import Journal

resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
journal = Journal(Path(sys.argv[1]))
journal.start()
for number in range(4000):
    journal.record(Happening("vm.ready", "web", f"vm-{number}", Reason.OPERATOR, "it serves"))
    if number % 100 == 0:
        journal.flush()
journal.close()
print(journal.last_id, journal.lost)
"""


def test_a_disk_that_fills_up_costs_history_and_leaves_the_rest_whole(path: Path) -> None:
    writer = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=Path(__file__).parents[1],
    )
    recorded, lost = map(int, writer.stdout.split())
    assert recorded == 4000
    assert lost > 0
    assert writer.stderr.count("loses events") >= 1
    journal = Journal(path)
    journal.start()  # with room again
    journal.close()
    assert len(read_page(path, 0, 10_000, None)) == recorded - lost
    assert not path.with_name("journal.db.broken").exists()
