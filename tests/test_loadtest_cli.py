"""`loadtest` as a user meets it: real processes, exit codes, one-line errors, shifts, signals."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from loadtest import remote
from loadtest.cli import main
from loadtest.errors import LoadtestError, ShiftError
from loadtest.plan import Plan
from loadtest.result import Result
from loadtest.target import Settings
from loadtest.worker import run_to_file
from tests.loadtest_servers import Peer, always_ok, refusing_url, serving

PATIENCE_S = 30


@pytest.fixture(autouse=True)
def runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path / "loadtest"


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loadtest",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    return process.returncode, (out or b"").decode(), (err or b"").decode()


async def loadtest(*arguments: str) -> tuple[int | None, str, str]:
    return await ended(await start(*arguments))


async def status_when(control: Path, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                status = await asyncio.to_thread(remote.ask, control, "GET")
            except OSError:
                status = {}
            if status and wanted(status):
                return status
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(
    control: Path, *arguments: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A test under way, reached at `control`; ended by its own id whatever happens."""
    async with serving(always_ok) as url:
        process = await start("run", url, "--control", str(control), *arguments)
        try:
            await status_when(control, lambda status: status["completed"] > 0)
            yield process, url
        finally:
            if process.returncode is None:
                process.kill()
                await ended(process)  # its workers too: they hold the same pipes


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("loadtest: ")
    assert isinstance(left.value.code, int)
    return left.value.code, err


# ── run and report ───────────────────────────────────────────────────────────────────────────────


async def test_run_then_report_then_compare(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    async with serving(always_ok) as url:
        code, out, err = await loadtest(
            "run", url, "--rate", "100", "--duration", "1200ms", "--arrivals", "poisson",
            "--seed", "3", "--header", "X-A: 1", "--json", str(file),
        )  # fmt: skip
        assert (code, err) == (0, "")
        assert "latency (from intended time)" in out
        assert "1.0 s  steady" in out
    result = Result.read(file)
    assert result.counts.completed == result.counts.intended > 60
    assert result.plan.seed == 3
    code, out, err = await loadtest("report", str(file))
    assert (code, err) == (0, "")
    assert f"completed {result.counts.completed}" in out
    code, out, err = await loadtest("report", str(file), str(file))
    assert (code, err) == (0, "")
    assert "×1.00" in out


async def test_a_log_is_asked_again_at_another_server(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    line = '::1 - - [10/Oct/2000:13:55:36 -0700] "{} /c HTTP/1.1" 200 5\n'
    log.write_text(line.format("GET") + line.format("POST"))
    async with serving(always_ok) as url:
        code, out, err = await loadtest(
            "run", url, "--targets", str(log), "--rate", "50", "--duration", "100ms"
        )
    assert code == 0
    assert "completed 5" in out
    assert (
        err == f"loadtest: {log}: 1 lines left out: they are POST, whose body a log does not hold\n"
    )


async def test_json_on_stdout_is_json_and_nothing_else() -> None:
    async with serving(always_ok) as url:
        code, out, err = await loadtest(
            "run", url, "--plan", "a=50@100ms,b=50@100ms", "--json", "-"
        )
    assert code == 0
    document = json.loads(out)
    assert document["schema"] == "loadtest/1"
    assert [phase["name"] for phase in document["phases"]] == ["a", "b"]
    assert "send lag" in err


async def test_a_missed_threshold_is_exit_3() -> None:
    async with serving(always_ok) as url:
        common = ("run", url, "--rate", "50", "--duration", "100ms")
        code, _, err = await loadtest(*common, "--fail-if", "completed<1000", "--fail-if", "p99>1h")
        assert code == 3
        assert err == "loadtest: threshold missed: completed<1000\n"
        code, _, err = await loadtest(*common, "--fail-if", "errors>0.1%")
        assert (code, err) == (0, "")


async def test_nobody_answers_is_exit_1() -> None:
    code, _, err = await loadtest("run", refusing_url(), "--rate", "50", "--duration", "100ms")
    assert code == 1
    assert err == "loadtest: not one request was answered (refused 5)\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "http://127.0.0.1/"], "say how fast"),
        (["run", "nowhere", "--rate", "5"], "URL 'nowhere'"),
        (["run", "--rate", "5"], "a URL, or --targets FILE"),
        (["run", "--rate", "5", "--targets", "/none"], "/none: No such file"),
        (
            ["run", "http://127.0.0.1/", "--plan", "a=/none.csv"],
            "phase 1 ('a=/none.csv'): /none.csv",
        ),
        (["run", "http://127.0.0.1/", "--rate", "fast"], "rate 'fast'"),
        (["run", "http://127.0.0.1/", "--plan", "a=5@1s,b=x@1s"], "phase 2 ('b=x@1s')"),
        (["run", "http://127.0.0.1/", "--plan", "a=5@1s", "--rate", "5"], "give either"),
        (["run", "http://127.0.0.1/", "--rate", "5", "--header", "x"], "header 'x'"),
        (["run", "http://127.0.0.1/", "--rate", "5", "--body", "@/none"], "body @/none"),
        (["run", "http://127.0.0.1/", "--rate", "5", "--json", "/none/x"], "--json /none/x"),
        (["run", "http://127.0.0.1/", "--rate", "5", "--fail-if", "p98>1s"], "'p98' is none of"),
        (["run", "http://127.0.0.1/", "--rate", "5", "--fail-if", "p99>1"], "cannot read '1'"),
        (["run", "http://127.0.0.1/", "--rate", "5", "--control", "/none/x"], "not a folder"),
        (["run", "http://no-such-host.invalid/", "--rate", "5"], "does not resolve"),
        (["run", "--rte"], "No such option"),
        (["shift"], "name a phase"),
        (["report", "/none"], "/none: "),
    ],
)
async def test_wrong_usage_is_exit_2_and_one_line(arguments: list[str], says: str) -> None:
    code, out, err = await loadtest(*arguments)
    assert code == 2
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


# ── shifting ─────────────────────────────────────────────────────────────────────────────────────


async def test_shift_by_command_rate_and_finish(tmp_path: Path, runtime_dir: Path) -> None:
    file = tmp_path / "out.json"
    control = tmp_path / "c.sock"
    plan = "low=50@trigger,high=100@trigger"
    async with running(control, "--plan", plan, "--json", str(file)) as (process, _):
        code, out, err = await loadtest("shift", "high", "--control", str(control))
        assert (code, out, err) == (0, "running: phase high at 100/s\n", "")
        code, out, _ = await loadtest("shift", "--rate", "120", "--control", str(control))
        assert (code, out) == (0, "running: phase high at 120/s\n")
        code, _, err = await loadtest("shift", "hihg", "--control", str(control))
        assert (code, err) == (1, "loadtest: phase 'hihg': the plan has low, high\n")
        code, out, _ = await loadtest("status", "--control", str(control))
        assert json.loads(out)["phase"] == "high"
        for bad in ({"fase": "x"}, {"rate": "5"}, {"rate": True}, {}):
            with pytest.raises(ShiftError):
                await asyncio.to_thread(remote.ask, control, "PATCH", bad)
        for refused, says in (
            ({"phase": "low", "rate": 2e6}, "rate 2e\\+06: allowed"),  # not the phase either
            ({"phase": "low", "rate": float("nan")}, "rate nan: allowed"),
            ({"phase": "low", "rate": 10**400}, "too large a number"),
        ):
            with pytest.raises(ShiftError, match=says):
                await asyncio.to_thread(remote.ask, control, "PATCH", refused)
        await loadtest("shift", "--finish", "--control", str(control))
        code, _, err = await ended(process)
        assert (code, err) == (0, "")
    result = Result.read(file)
    assert [(shift.phase, shift.rate, shift.cause) for shift in result.shifts] == [
        ("low", 50, "plan"),
        ("high", 100, "control"),
        ("high", 120, "control"),
    ]
    assert result.stopped_by == "finish"
    assert not control.exists()


async def test_shift_by_signal_and_ctrl_c_gives_the_result(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    control = tmp_path / "c.sock"
    plan = "low=50@trigger,high=100@trigger"
    async with running(control, "--plan", plan, "--json", str(file)) as (process, _):
        process.send_signal(signal.SIGUSR1)
        await status_when(control, lambda status: status["phase"] == "high")
        process.send_signal(signal.SIGUSR2)
        await status_when(control, lambda status: status["phase"] == "low")
        process.send_signal(signal.SIGINT)
        code, out, err = await ended(process)
        assert (code, err) == (0, "")
        assert "(interrupt)" in out
    result = Result.read(file)
    assert [(shift.phase, shift.cause) for shift in result.shifts] == [
        ("low", "plan"),
        ("high", "signal"),
        ("low", "signal"),
    ]
    assert result.counts.completed > 0
    assert result.counts.unfinished == 0


async def test_the_one_that_runs_is_found_and_two_must_be_told_apart(runtime_dir: Path) -> None:
    code, _, err = await loadtest("shift", "high")
    assert code == 1
    assert "no load test is running" in err
    # One that was killed leaves its socket behind.
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(runtime_dir / "1.sock"))
    dead.close()
    async with running(runtime_dir / "2.sock", "--rate", "20"):
        code, out, _ = await loadtest("shift", "--rate", "30")
        assert (code, out) == (0, "running: phase steady at 30/s\n")
        assert not (runtime_dir / "1.sock").exists()
        async with running(runtime_dir / "3.sock", "--rate", "20"):
            code, _, err = await loadtest("shift", "--rate", "30")
            assert code == 1
            assert "2 load tests are running" in err
            assert "--control" in err
            async with serving(always_ok) as url:
                code, _, err = await loadtest(
                    "run", url, "--rate", "5", "--control", str(runtime_dir / "3.sock")
                )
            assert code == 2
            assert "another load test listens there" in err


async def test_realtime_is_taken_or_refused_and_never_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    async with serving(always_ok) as url:
        code, _, err = await loadtest(
            "run", url, "--rate", "50", "--duration", "100ms", "--realtime", "--json", str(file)
        )
    if code == 0:
        assert Result.read(file).counts.completed == 5
    else:
        assert code == 2
        assert "--realtime: " in err
        assert not file.exists()


REALTIME = """
import os, sys
from loadtest.errors import InputError
from loadtest.priority import leave_realtime, take_realtime
try:
    take_realtime()
except InputError as refused:
    print(refused)
else:
    taken = os.sched_getscheduler(0) == os.SCHED_RR
    leave_realtime()
    print(taken and os.sched_getscheduler(0) == os.SCHED_OTHER)
"""


async def test_what_realtime_is() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", REALTIME, stdout=asyncio.subprocess.PIPE
    )
    _, out, _ = await ended(process)
    assert out == "True\n" or "needs root, CAP_SYS_NICE" in out


def test_a_folder_others_can_write_to_is_not_used(runtime_dir: Path) -> None:
    runtime_dir.mkdir()
    runtime_dir.chmod(0o777)
    with pytest.raises(LoadtestError, match="others can write there"):
        remote.folder()


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, err = fails(capsys, "shift", "x", "--control", str(tmp_path / "none"))
    assert code == 1
    assert "no load test listens there" in err
    with pytest.raises(LoadtestError):
        main(["--debug", "shift", "x", "--control", str(tmp_path / "none")])


# ── as a process of another program's ────────────────────────────────────────────────────────────


async def test_a_spawned_process_writes_its_result(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    async with serving(always_ok) as url:
        settings = Settings(url, Plan.parse("a=50@trigger"), control=tmp_path / "c.sock")
        process = multiprocessing.get_context("spawn").Process(
            target=run_to_file, args=(settings, file), daemon=True
        )
        process.start()
        try:
            await status_when(tmp_path / "c.sock", lambda status: status["completed"] > 3)
            finish = {"finish": True}
            answer = await asyncio.to_thread(remote.ask, tmp_path / "c.sock", "PATCH", finish)
            assert answer["state"] in ("draining", "done")
            await asyncio.to_thread(process.join, PATIENCE_S)
            assert process.exitcode == 0
        finally:
            process.kill()
            process.join()
            process.close()
    assert Result.read(file).stopped_by == "finish"


ORPHAN = """
import multiprocessing, os, signal, sys
from pathlib import Path
from loadtest.plan import Plan
from loadtest.target import Settings
from loadtest.worker import run_to_file
if __name__ == "__main__":
    settings = Settings(sys.argv[1], Plan.parse("a=50@trigger"), max_seconds=30)
    child = multiprocessing.get_context("spawn").Process(
        target=run_to_file, args=(settings, Path(sys.argv[2])))
    child.start()
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_load_ends_with_the_program_that_wanted_it(tmp_path: Path) -> None:
    file, script = tmp_path / "out.json", tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    arrived = asyncio.Event()

    async def noting(peer: Peer) -> None:
        arrived.set()
        await always_ok(peer)

    async with serving(noting) as url:
        parent = await asyncio.create_subprocess_exec(
            sys.executable, str(script), url, str(file),
            stdin=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_S):
            await arrived.wait()
            await parent.communicate(b"\n")
            while not file.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert Result.read(file).stopped_by == "abandoned"
