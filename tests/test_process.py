"""`lbctl up` as a process: what its signals do, and what another lbctl may ask of it."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lb.process import FILES

PATIENCE_S = 30.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lbctl(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lb.cli", *args],
        env={**os.environ, "LBCTL_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@contextlib.contextmanager
def up(home: Path, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Serving; ended by SIGTERM, which must go well."""
    log = home / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "lb.cli", "up", "-c", str(path)],
            env={**os.environ, "LBCTL_HOME": str(home)},
            stderr=stderr,
            text=True,
        )
    try:
        until(lambda: "serving at" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def text(port: int, page: str) -> str:
    return f"""
[proxy]
listen = "127.0.0.1:{port}"
[admin]
listen = "127.0.0.1:0"
[service.web.error_pages]
default = "{page}"
"""


def body(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


def test_signals_and_config_apply_put_a_configuration_in_force(tmp_path: Path) -> None:
    home, path, port = tmp_path / "home", tmp_path / "lb.toml", free_port()
    home.mkdir()
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(name)
    path.write_text(text(port, "one.txt"))
    with up(home, path) as process:
        assert body(port) == b"one"

        path.write_text(text(port, "two.txt"))
        process.send_signal(signal.SIGHUP)
        until(lambda: body(port) == b"two")

        path.write_text(text(port, "none.txt"))
        process.send_signal(signal.SIGHUP)
        until(lambda: "refused, nothing changed" in (home / "log").read_text())
        assert body(port) == b"two"
        refused = lbctl(home, "config", "apply")
        assert refused.returncode == 2
        assert "none.txt: no such file or directory" in refused.stderr

        other = tmp_path / "other.toml"
        other.write_text(text(port, "one.txt"))
        looked = lbctl(home, "config", "apply", "--dry-run", "-c", str(other))
        assert looked.returncode == 0, looked.stderr
        assert body(port) == b"two"
        applied = lbctl(home, "config", "apply", "-c", str(other))
        assert applied.returncode == 0, applied.stderr
        assert applied.stdout == looked.stdout.replace(
            "it could be applied; nothing was changed", "applied"
        )
        assert body(port) == b"one"
        happened = lbctl(home, "events").stdout
        assert happened.count("config.applied") == 2
        assert "config.refused" in happened


def test_a_configuration_that_names_what_is_not_there_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    path.write_text(text(0, "none.txt"))
    ended = lbctl(tmp_path / "home", "up", "-c", str(path))
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"service.web.error_pages.default: cannot read {tmp_path}/none.txt" in ended.stderr


def test_it_may_open_as_many_files_as_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    path.write_text(text(0, "lb.toml"))
    with up(tmp_path, path) as process:
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        unlimited = resource.RLIM_INFINITY
        assert soft in (unlimited, hard) or soft >= FILES
        assert soft == unlimited or soft >= min(FILES, FILES if hard == unlimited else hard)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_told(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "lb.toml"
    path.write_text(
        '[proxy]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n[service.web]\n'
    )
    with up(tmp_path, path) as process:
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0


def test_told_twice_it_cuts_what_is_running(tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as backend:
        address = f"127.0.0.1:{backend.getsockname()[1]}"
        path.write_text(
            f'[proxy]\nlisten = "127.0.0.1:{port}"\nshutdown_grace = "1h"\n'
            f'[admin]\nlisten = "127.0.0.1:0"\n[service.web]\nbackends = ["{address}"]\n'
            'none_available = "try_anyway"\n[service.web.health]\ninterval_down = "1h"\n'
        )
        backend.settimeout(PATIENCE_S)
        with up(tmp_path, path) as process:
            probe, _ = backend.accept()
            with probe:
                probe.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            until(lambda: "ready" in (tmp_path / "log").read_text())
            with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
                client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
                asked, _ = backend.accept()
                with asked:
                    process.send_signal(signal.SIGTERM)
                    until(lambda: "stopping" in (tmp_path / "log").read_text())
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(PATIENCE_S) == 0
        assert "GET /slow" in (tmp_path / "log").read_text()
