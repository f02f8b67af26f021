"""lbctl in tests: a home of its own, an API that it finds there, and what it said."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autoscale.model import EventKind, Happening, Reason, ScaleEvent
from lb.cli import cli
from tests.fake_control import TOKEN, FakeControl, serving

ROOT = Path(__file__).parents[1]
PATIENCE_S = 20.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(TOKEN + "\n")
    (home / "token").chmod(0o600)
    monkeypatch.setenv("LBCTL_HOME", str(home))
    monkeypatch.delenv("LBCTL_ADMIN", raising=False)
    return home


@pytest.fixture
def control(home: Path) -> Iterator[FakeControl]:
    """A serving API that lbctl finds by its home folder."""
    with serving(home) as (control, _url):
        yield control


def lbctl(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


def says(result: Result, exit_code: int) -> str:
    """The one line on stderr of a command that must fail so."""
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    return result.stderr.rstrip("\n").removeprefix("lbctl: ")


def join(control: FakeControl, name: str = "web-1", service: str = "web") -> None:
    control.pools[service].apply(
        ScaleEvent(EventKind.JOIN, service, name, Reason.CPU_OVERLOAD, "127.0.0.1:4000", "local")
    )


def happen(control: FakeControl, subject: str, message: str = "it serves") -> None:
    control.journal.record(Happening("vm.ready", "web", subject, Reason.OPERATOR, message))


def unused_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


# Under a shell's `&` SIGINT is ignored, and children inherit that: Ctrl-C must work in any case.
LBCTL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from lb.cli import main
main()
"""


@contextmanager
def start(*args: str, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """lbctl as a process of its own, ended with the block at the latest."""
    with subprocess.Popen(
        [sys.executable, "-c", LBCTL, *args],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
