"""Several worker processes are one test: its plan, its limits, its shifts, its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.loadtest import may_take_realtime
from loadtest import engine
from loadtest.connect import Address
from loadtest.crew import Crew
from loadtest.errors import LoadtestError, ShiftError
from loadtest.plan import Plan
from loadtest.result import Result, Second
from loadtest.target import Settings
from tests.loadtest_servers import OK, Peer, Script, always_ok, refusing_url, serving
from tests.test_loadtest_cli import ended, running, start, status_when
from tests.test_loadtest_engine import check

WORKERS = 2


def children(pid: int) -> list[int]:
    """The processes it started, those of multiprocessing's own left out."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


async def run(
    plan: str,
    on_second: Callable[[Crew, Second], None] | None = None,
    script: Script = always_ok,
    **others: Any,
) -> Result:
    async with serving(script) as url:
        made = Settings(url, Plan.parse(plan), workers=WORKERS, **{"timeout": 30.0, **others})
        (origin,) = made.requests.origins
        crew = Crew(
            made,
            [Address(origin.host, origin.port)],
            lambda row: None if on_second is None else on_second(crew, row),
        )
        result = await crew.run()
    check(result)
    return result


async def test_together_they_send_the_plan() -> None:
    rows: list[Second] = []
    result = await run("low=101@1s,high=201@0.5s", lambda _, row: rows.append(row))
    # The integral is 201.5: the half left over falls to nobody.
    assert result.counts.intended == result.counts.completed in (201, 202)
    assert [phase.counts.intended for phase in result.phases] in ([101, 100], [101, 101])
    assert [(phase.name, phase.start, phase.end) for phase in result.phases] == [
        ("low", 0, 1),
        ("high", 1, 1.5),
    ]
    assert result.plan.text == "low=101@1s,high=201@0.5s"
    assert [(shift.t, shift.phase, shift.rate) for shift in result.shifts] == [
        (0, "low", 101),
        (1, "high", 201),
    ]
    assert [worker.name for worker in result.workers] == ["0", "1"]
    shares = [worker.intended for worker in result.workers]
    assert sum(shares) == result.counts.intended
    assert abs(shares[0] - shares[1]) <= 1
    assert rows == result.series
    # Of all together; where the phase changes, one worker may have seen it and the other not yet.
    assert rows[0].rate in (101, 151, 201)
    assert sum(row.intended for row in rows) == result.counts.intended
    assert result.stopped_by == "plan"


async def test_a_shift_holds_for_all_from_the_same_moment() -> None:
    def steer(crew: Crew, row: Second) -> None:
        if len(crew.series) > 1:
            return
        crew.shift("high", "control")
        with pytest.raises(ShiftError, match="the plan has low, high"):
            crew.shift("hihg", "control")
        crew.set_rate(400.0, "control")
        assert not crew.step(1, "signal")
        status = crew.status()
        assert status["phase"] == "high"
        assert status["workers"] == WORKERS
        assert status["completed"] == row.completed
        assert status["send_lag_p99_s"] is not None
        assert json.dumps(status)

    result = await run("low=50@trigger,high=100@500ms", steer)
    assert [(shift.phase, shift.rate, shift.cause) for shift in result.shifts] == [
        ("low", 50, "plan"),
        ("high", 100, "control"),
        ("high", 400, "control"),
    ]
    low, high = result.phases
    assert low.end == high.start == result.shifts[1].t
    assert high.end == pytest.approx(high.start + 0.5)
    took = result.shifts[2].t - high.start
    wanted = 50 * low.end + 100 * took + 400 * (0.5 - took)
    assert abs(result.counts.intended - wanted) <= 1


async def test_max_in_flight_is_divided_and_drops_are_counted() -> None:
    gate = asyncio.Event()

    async def gated(peer: Peer) -> None:
        while True:
            await peer.request()
            await gate.wait()
            await peer.answer(OK)

    result = await run("s=200@200ms", lambda _crew, _row: gate.set(), gated, max_in_flight=5)
    assert result.counts.completed == 5
    assert result.counts.dropped == 35
    assert result.dropped == {"max_in_flight": 35}


async def test_a_worker_that_dies_ends_the_test_and_is_named() -> None:
    def kill(crew: Crew, _: Second) -> None:
        if len(crew.series) == 1:
            os.kill(children(os.getpid())[0], signal.SIGKILL)

    async with serving(always_ok) as url:
        made = Settings(url, Plan.parse("s=50@trigger"), workers=WORKERS)
        (origin,) = made.requests.origins
        crew = Crew(made, [Address(origin.host, origin.port)], lambda row: kill(crew, row))
        result = await crew.run()
    assert result.stopped_by == "worker_lost"
    assert not result.trustworthy
    (lost,) = [worker for worker in result.workers if worker.lost]
    assert f"worker {lost.name} died" in result.reasons[-1]
    assert result.counts.completed > 0
    assert children(os.getpid()) == []


async def test_interrupted_before_it_began_there_is_no_result(
    capfd: pytest.CaptureFixture[str],
) -> None:
    made = Settings("http://127.0.0.1:9/", Plan.parse("s=50@trigger"), workers=WORKERS)
    crew = Crew(made, [Address("127.0.0.1", 9)])
    asyncio.get_running_loop().call_soon(crew.interrupt)
    with pytest.raises(LoadtestError, match="before the first request"):
        await crew.run()
    assert children(os.getpid()) == []
    assert capfd.readouterr().err == ""


async def test_nobody_wants_it_any_more_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Crew] = []
    abandon = Crew.abandon

    def counting(crew: Crew) -> None:
        told.append(crew)
        abandon(crew)

    monkeypatch.setattr(Crew, "abandon", counting)
    lifeline, end = os.pipe()
    ends = [end]

    def leave(_: Second) -> None:
        if ends:
            os.close(ends.pop())

    async with serving(always_ok) as url:
        made = Settings(url, Plan.parse("s=50@trigger"), workers=WORKERS)
        result = await engine.run(made, leave, lifeline=lifeline)
    os.close(lifeline)
    check(result)
    assert result.stopped_by == "abandoned"
    assert len(told) == 1


# ── as a user meets it ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(autouse=True)
def runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
async def test_signals_shift_all_and_an_end_leaves_nobody_behind(
    tmp_path: Path, end: signal.Signals
) -> None:
    file, control = tmp_path / "out.json", tmp_path / "c.sock"
    plan = ("--plan", "low=50@trigger,high=100@trigger", "--workers", "2")
    async with running(control, *plan, "--json", str(file)) as (process, _):
        workers = children(process.pid)
        assert len(workers) == 2
        process.send_signal(signal.SIGUSR1)
        await status_when(control, lambda status: status["phase"] == "high")
        process.send_signal(signal.SIGUSR2)
        await status_when(control, lambda status: status["phase"] == "low")
        for pid in (*workers, process.pid):  # as a terminal does, or a service: the whole group
            os.kill(pid, end)
        code, out, err = await ended(process)
        assert (code, err) == (0, "")
        assert "(interrupt)" in out
    assert not any(alive(pid) for pid in workers)
    result = Result.read(file)
    check(result)
    assert [(shift.phase, shift.cause) for shift in result.shifts] == [
        ("low", "plan"),
        ("high", "signal"),
        ("low", "signal"),
    ]
    assert result.counts.completed > 0
    assert result.counts.unfinished == 0
    assert not control.exists()


STARTING = """
import os, signal, sys
if any("spawn_main" in word for word in sys.orig_argv):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(os.getpid(), number)
"""


async def test_signals_to_workers_that_only_start_are_the_crews_business(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(STARTING)  # Python's first import
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with serving(always_ok) as url:
        code, out, err = await ended(
            await start("run", url, "--rate", "50", "--duration", "100ms", "--workers", "2")
        )
    assert (code, err) == (0, "")
    assert "completed 5" in out


async def test_of_several_only_those_that_send_are_realtime(tmp_path: Path) -> None:
    if not await asyncio.to_thread(may_take_realtime):
        pytest.skip("this user may not")
    options = ("--rate", "50", "--workers", "2", "--realtime")
    async with running(tmp_path / "c.sock", *options) as (process, _):
        workers = children(process.pid)
        assert [os.sched_getscheduler(pid) for pid in workers] == [os.SCHED_RR] * 2
        assert os.sched_getscheduler(process.pid) == os.SCHED_OTHER
        process.send_signal(signal.SIGINT)
        assert (await ended(process))[0] == 0


AFTERWARDS = """
import os, sys
from loadtest.plan import Plan
from loadtest.target import Settings
from loadtest.worker import run_here
run_here(Settings(sys.argv[1], Plan.constant(50, 0.1), realtime=True))
print(os.sched_getscheduler(0) == os.SCHED_OTHER)
"""


async def test_realtime_ends_with_the_test() -> None:
    if not await asyncio.to_thread(may_take_realtime):
        pytest.skip("this user may not")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AFTERWARDS, refusing_url(), stdout=asyncio.subprocess.PIPE
    )
    assert (await ended(process))[:2] == (0, "True\n")


async def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    control = tmp_path / "c.sock"
    async with running(control, "--rate", "50", "--workers", "2") as (process, _):
        workers = children(process.pid)
        process.kill()
        await ended(process)  # the pipes' end: nobody holds them any more
        async with asyncio.timeout(30):
            while any(alive(pid) for pid in workers):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workers", "0"], "workers 0: allowed is 1 to"),
        (["--workers", "4", "--max-in-flight", "3"], "4 workers need one each"),
    ],
)
async def test_bad_numbers_of_workers(arguments: list[str], says: str) -> None:
    code, _, err = await ended(await start("run", "http://127.0.0.1/", "--rate", "5", *arguments))
    assert code == 2
    assert says in err
