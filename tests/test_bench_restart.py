"""The measurement of a restart: which answer is the first, and what becomes of a process that gives
none. With machines: `tests/e2e/test_restart.py`."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from bench.parts.restart import CONFIG, first_answer
from bench.parts.up import free_port
from lb.config_file import read_text


class Starting(BaseHTTPRequestHandler):
    """A proxy that has nobody yet, breaks a connection, and serves from then on."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.asked == 2:
            return
        self.send_response(503 if self.asked == 1 else 200)
        self.send_header("X-Replica", f"web-{self.asked}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


@contextmanager
def waiting(code: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def port() -> Iterator[int]:
    Starting.asked = 0
    with HTTPServer(("127.0.0.1", 0), Starting) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_the_first_answer_is_the_first_of_200_and_says_by_whom(port: int) -> None:
    with waiting("input()") as process:
        assert first_answer(process, port, 20)[1] == "web-3"


def test_a_process_that_ends_is_not_waited_for() -> None:
    with waiting("raise SystemExit(3)") as process, pytest.raises(SystemExit, match="with 3"):
        first_answer(process, free_port(), 60)


def test_patience_ends() -> None:
    with waiting("input()") as process, pytest.raises(SystemExit, match=r"within 0\.05 s"):
        first_answer(process, free_port(), 0.05)


def test_what_is_served_is_a_configuration(tmp_path: Path) -> None:
    service = read_text(CONFIG.format(port=8080), tmp_path).service["web"]
    assert (service.scale.min, service.scale.max) == (1, 1)
