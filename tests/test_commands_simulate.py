"""`lbctl simulate`: what it plays, prints and refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from autoscale.compare import OURS, OURS_COLD, RIVALS
from lb.cli import cli
from lb.commands.base import INTERRUPTED
from lb.commands.simulate import PLOT_SUFFIXES
from tests.cli_harness import says

SHORT = "seconds,requests_per_second\n0,5\n30,30\n90,5\n"


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LBCTL_HOME", str(tmp_path / "home"))
    path = tmp_path / "mine.csv"
    path.write_text(SHORT)
    return str(path)


def simulate(*args: str) -> Result:
    return CliRunner().invoke(cli, ["simulate", *args])


def document(*args: str) -> Any:
    result = simulate(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_ours_stands_beside_itself_with_cold_boots(trace: str) -> None:
    result = simulate(trace)
    assert result.exit_code == 0, result.output
    about, head, first, second, meaning = result.stdout.splitlines()
    assert about.startswith("mine.csv: 2m30s, ")
    assert "one replica serves 10.0/s, boots in 10 s; 1 to 10 replicas" in about
    assert head.split("  ")[0] == "PLANNER"
    assert first.startswith(f"{OURS}  ")
    assert second.startswith(OURS_COLD)
    assert "*" in first + second
    assert "p99 was over the objective" in meaning
    assert result.stderr == "", "no progress where nobody looks"


def test_compared_with_everybody_else(trace: str) -> None:
    found = document(trace, "--compare")
    assert [played["planner"] for played in found["results"]] == [OURS, OURS_COLD, *RIVALS]
    arrived = {played["score"]["requests_total"] for played in found["results"]}
    assert len(arrived) == 1, "all had the same requests"


def test_the_same_seed_gives_the_same_and_another_does_not(trace: str) -> None:
    assert document(trace, "--seed", "3") == document(trace, "--seed", "3")
    assert document(trace, "--seed", "3") != document(trace, "--seed", "4")


def test_series_are_there_when_asked_for(trace: str) -> None:
    assert "series" not in document(trace)["results"][0]
    assert len(document(trace, "--series")["results"][0]["series"]["ready"]) == 150


def test_speed_and_scale(trace: str) -> None:
    found = document(trace, "--speed", "2", "--scale", "3")
    assert found["seconds"] == 75
    assert found["requests_expected"] == pytest.approx(1.5 * document(trace)["requests_expected"])


def test_without_standby_and_snapshot_it_plays_once(trace: str) -> None:
    found = document(trace, "--standby", "0", "--no-snapshot")
    assert [played["planner"] for played in found["results"]] == [OURS_COLD]


def test_bounds_boot_and_objective_are_those_told(trace: str) -> None:
    bounded = ("--min", "2", "--max", "3", "--series", "--no-snapshot", "--standby", "0")
    ready = document(trace, *bounded)["results"][0]["series"]["ready"]
    assert (min(ready), max(ready)) == (2, 3)
    slow = document(trace, "--boot", "1m30s", "--no-snapshot", "--standby", "0")
    quick = document(trace, "--boot", "500ms", "--no-snapshot", "--standby", "0")
    late = [found["results"][0]["score"]["violating_seconds"] for found in (slow, quick)]
    assert late[0] > late[1]
    assert document(trace, "--objective", "250ms")["objective_p99_s"] == 0.25


def test_capacity_is_servers_by_service_time(trace: str) -> None:
    result = simulate(trace, "--service-time", "50ms", "--servers", "4")
    assert "one replica serves 80.0/s" in result.stdout


def test_rules_of_a_configuration(trace: str, tmp_path: Path) -> None:
    config = tmp_path / "lb.toml"
    config.write_text(
        "[service.web.vm]\n[service.web.scale]\nmax = 2\nlatency_p99 = '400ms'\n"
        "[service.other]\nbackends = ['127.0.0.1:9000']\n"
        "[[route]]\nservice = 'web'\n[[route]]\npath = '/other'\nservice = 'other'\n"
    )
    found = document(trace, "-c", str(config), "--series")
    assert max(found["results"][0]["series"]["ready"]) == 2
    assert found["objective_p99_s"] == 0.4
    assert "; 1 to 2 replicas; " in simulate(trace, "-c", str(config)).stdout
    wider = document(trace, "-c", str(config), "--max", "4", "--series")
    assert max(wider["results"][0]["series"]["ready"]) > 2


def test_which_service_has_to_be_clear(trace: str, tmp_path: Path) -> None:
    config = tmp_path / "lb.toml"
    config.write_text(
        "[service.a.vm]\n[service.a.scale]\nmax = 2\n[service.b.vm]\n"
        "[service.c]\nbackends = ['127.0.0.1:9000']\n"
        + "".join(f"[[route]]\npath = '/{n}'\nservice = '{n}'\n" for n in "abc")
    )
    told = says(simulate(trace, "-c", str(config)), 2)
    assert told == "which service? --service NAME; those with VMs: a, b"
    told = says(simulate(trace, "-c", str(config), "--service", "c"), 2)
    assert told == "no service c with VMs in the configuration: a, b"
    found = document(trace, "-c", str(config), "--service", "a", "--series")
    assert max(found["results"][0]["series"]["ready"]) == 2
    assert "--service needs -c" in says(simulate(trace, "--service", "a"), 2)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nothing.csv"], "nothing.csv is neither a file nor a shape: step, ramp, spike"),
        (["step", "--min", "5", "--max", "2"], "service.web.scale: min = 5 is more than max = 2"),
        (["step", "--target-cpu", "2"], "service.web.scale.target_cpu"),
        (["step", "--service-time", "20x"], "'20x' is not a duration"),
        (["step", "--boot", "-1"], "-1 is no duration"),
        (["step", "--speed", "0"], "speed = 0 is not above 0"),
        (["step", "--plot", "x.gif"], "x.gif does not end in .png, .svg, .pdf"),
        (["step", "--plot", "/no/such/x.png"], "there is no folder /no/such"),
        (["step", "--series"], "--series is for --json"),
        (["step", "--service-time", "0"], "service_s = 0 cannot be"),
        (["step", "--seed", "-1"], "--seed"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(args: list[str], words: str) -> None:
    assert words in says(simulate(*args), 2)


def test_a_file_that_is_no_trace_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("seconds,requests_per_second\n0,5\n10,many\n")
    told = says(simulate(str(path)), 2)
    assert told.startswith(f"{path}: line 3: ")
    assert "'many' is not a number" in told


@pytest.mark.parametrize("suffix", PLOT_SUFFIXES)
def test_the_plot_is_written(trace: str, tmp_path: Path, suffix: str) -> None:
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    picture = tmp_path / f"picture{suffix}"
    result = simulate(trace, "--plot", str(picture))
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"drawn: {picture}\n")
    assert picture.read_bytes().startswith(begins)


@contextmanager
def on_a_terminal(*args: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`lbctl simulate` with stderr on a terminal, and that terminal's other end."""
    ours, its = os.openpty()
    command = [sys.executable, "-m", "lb.cli", "simulate", *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its, env=os.environ)
    os.close(its)
    try:
        yield process, ours
    finally:
        process.kill()
        process.communicate()
        os.close(ours)


def read_all(terminal: int) -> str:
    """Until nobody can write to it any more."""
    parts = []
    with suppress(OSError):
        while part := os.read(terminal, 4096):
            parts.append(part)
    return b"".join(parts).decode()


def test_progress_is_shown_on_a_terminal(trace: str) -> None:
    with on_a_terminal(trace) as (process, terminal):
        shown = read_all(terminal)
        assert process.wait(20) == 0
    assert OURS_COLD in shown
    assert "%" in shown


def test_ctrl_c_ends_it_without_a_word(trace: str) -> None:
    with on_a_terminal("diurnal", "--scale", "5", "--max", "100", "--speed", "0.02") as (
        process,
        terminal,
    ):
        shown = b""
        while b"0:00:01" not in shown:  # a second into a simulation of many
            shown += os.read(terminal, 4096)
        process.send_signal(signal.SIGINT)
        rest = read_all(terminal)
        assert process.wait(20) == INTERRUPTED
        assert process.stdout is not None
        assert process.stdout.read() == b""
    assert "Traceback" not in rest
    assert "lbctl:" not in rest
