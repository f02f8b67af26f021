"""The guest's application over real sockets, with this machine's Python and aiohttp."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import random
import re
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDictProxy
from prometheus_client.parser import text_string_to_metric_families

from guest import webapp, work

SOURCE = Path(webapp.__file__)


@asynccontextmanager
async def serving(replica: str) -> AsyncIterator[tuple[webapp.Webapp, str]]:
    """A replica on a free loopback port, and its URL."""
    app = webapp.Webapp(replica)
    runner = web.AppRunner(app.application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield app, f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def until(reached: Callable[[], bool]) -> None:
    """Wait for a state that the application reaches by itself, 30 s at most."""
    async with asyncio.timeout(30):
        while not reached():  # noqa: ASYNC110  (a plain counter: it has no event to wait for)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def worker_busy(app: webapp.Webapp) -> AsyncIterator[None]:
    """Keep the worker at real CPU work until the block ends, so that what comes now must wait."""
    release = threading.Event()

    def burn() -> Iterator[object]:
        while not release.is_set():
            yield from work.work_units(1)

    burning = asyncio.ensure_future(app.worker.run(burn(), lambda: True))
    try:
        await until(lambda: app.worker.waiting == 1)
        yield
    finally:
        release.set()
        await burning


async def fetch(
    session: aiohttp.ClientSession, url: str, method: str = "GET"
) -> tuple[int, CIMultiDictProxy[str], str]:
    """Status, headers and text of one answer."""
    async with session.request(method, url) as answer:
        return answer.status, answer.headers, await answer.text()


async def samples(session: aiohttp.ClientSession, url: str) -> dict[tuple[str, str], float]:
    """(name, its labels' values joined) → value, of one scrape."""
    status, _, text = await fetch(session, f"{url}/metrics")
    assert status == 200
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# --- answers -------------------------------------------------------------------------------------


async def test_every_replica_gives_the_same_answer_under_its_own_name() -> None:
    async with (
        serving("web-a") as (_, one),
        serving("web-b") as (_, other),
        aiohttp.ClientSession() as session,
    ):
        answers = []
        for url in (one, other):
            async with session.get(f"{url}/render?work=2") as answer:
                body = await answer.json()
                assert answer.headers["X-Replica"] == body["replica"]
                assert body["cpu_s"] > 0
                answers.append(body)
    assert [answer["replica"] for answer in answers] == ["web-a", "web-b"]
    assert answers[0]["digest"] == answers[1]["digest"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/render?work=1", 200),
        ("/nowhere", 404),
        ("/render?work=0", 400),
        ("/render?work=10001", 400),
        ("/render?work=-1", 400),
        ("/render?work=1e3", 400),
        ("/render?work=%D9%A1", 400),
        ("/render?work=1_0", 400),
        ("/render?work=", 400),
        ("/render?work=99999999999999999999", 400),
        ("/?seed=1000000", 400),
    ],
)
async def test_status_and_replica_on_every_answer(path: str, status: int) -> None:
    async with serving("web-a") as (_, url), aiohttp.ClientSession() as session:
        answered, headers, text = await fetch(session, url + path)
    assert answered == status
    assert headers["X-Replica"] == "web-a"
    if status == 400:
        assert re.match(r"(work|seed): a whole number from \d+ to \d+, not '", text)


async def test_a_wrong_method_is_answered_with_the_name_too() -> None:
    async with serving("web-a") as (_, url), aiohttp.ClientSession() as session:
        status, headers, _ = await fetch(session, f"{url}/render?work=1", "POST")
    assert status == 405
    assert headers["X-Replica"] == "web-a"


async def test_page_names_the_replica_and_shows_its_picture() -> None:
    async with serving("<web&a>") as (_, url), aiohttp.ClientSession() as session:
        _, headers, text = await fetch(session, f"{url}/?seed=3")
    assert headers["Content-Type"].startswith("text/html")
    assert "<b>&lt;web&amp;a&gt;</b>" in text
    assert "<web&a>" not in text
    picture = re.search(r'src="data:image/png;base64,([^"]+)"', text)
    assert picture is not None
    rows = work.draw_rows(3, *webapp.PICTURE_SIZE)
    expected = work.png(rows, webapp.PICTURE_SIZE, work.palette(3))
    assert base64.b64decode(picture[1]) == expected


# --- under load ----------------------------------------------------------------------------------


async def test_readyz_answers_while_renders_wait() -> None:
    async with serving("web-a") as (app, url):
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def render() -> int:
                return (await fetch(session, f"{url}/render?work=1"))[0]

            async with asyncio.TaskGroup() as group, worker_busy(app):
                renders = [group.create_task(render()) for _ in range(300)]
                await until(lambda: app.worker.waiting == 301)
                assert (await fetch(session, f"{url}/readyz"))[0] == 200
                assert app.worker.waiting == 301  # it did not queue behind them
            assert [task.result() for task in renders] == [200] * 300
            assert app.worker.waiting == 0


async def test_renders_are_answered_first_come_first_served() -> None:
    worker = webapp.Worker()
    order: list[int] = []

    async def ask(number: int) -> None:
        await worker.run(work.work_units(1), lambda: True)
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(ask(number))
    worker.close()
    assert order == list(range(20))


async def test_a_client_that_hung_up_costs_no_work() -> None:
    async with serving("web-a") as (app, url), aiohttp.ClientSession() as session:
        host, port = url.removeprefix("http://").split(":")
        async with worker_busy(app):
            writers = []
            for _ in range(5):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(b"GET /render?work=10000 HTTP/1.1\r\nHost: x\r\n\r\n")
                writers.append(writer)
            await until(lambda: app.worker.waiting == 6)
            for writer in writers:
                writer.close()
                await writer.wait_closed()
            # answered over a later connection, so the server has read the five ends before it
            assert (await fetch(session, f"{url}/readyz"))[0] == 200
        # 50 000 units would take a minute; `until` gives up after half of that
        await until(lambda: app.worker.waiting == 0)
        assert app.figures.work_units == 0
        figures = await samples(session, url)
        assert figures["webapp_requests_total", "499,/render"] == 5


async def test_beyond_its_queue_it_says_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webapp, "MAX_WAITING", 0)
    async with serving("web-a") as (_, url), aiohttp.ClientSession() as session:
        status, headers, _ = await fetch(session, f"{url}/render?work=1")
    assert status == 503
    assert headers["Retry-After"] == "1"


async def test_work_that_fails_is_that_request_s_failure() -> None:
    worker = webapp.Worker()

    def broken() -> AsyncIterator[object]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await worker.run((broken() for _ in range(1)), lambda: True)
    states, seconds = await worker.run(work.work_units(1), lambda: True)
    assert len(states) == 1
    assert seconds > 0
    worker.close()


async def test_work_ends_between_two_steps_when_nobody_wants_it() -> None:
    worker, steps = webapp.Worker(), itertools.count()
    with pytest.raises(webapp.ClientGoneError):
        await worker.run(steps, lambda: worker.waiting < 0)
    assert next(steps) == 0
    worker.close()


# --- metrics -------------------------------------------------------------------------------------


async def test_metrics_count_what_was_answered() -> None:
    async with serving("web-a") as (_, url), aiohttp.ClientSession() as session:
        for path in ("/render?work=2", "/render?work=3", "/render?work=x", "/nowhere"):
            async with session.get(url + path):
                pass
        figures = await samples(session, url)
    assert figures["webapp_requests_total", "200,/render"] == 2
    assert figures["webapp_requests_total", "400,/render"] == 1
    assert figures["webapp_requests_total", "404,other"] == 1
    assert figures["webapp_work_units_total", ""] == 5
    assert figures["webapp_inflight_requests", ""] == 1  # the scrape itself
    assert figures["webapp_request_duration_seconds_count", "/render"] == 3
    assert figures["webapp_request_duration_seconds_bucket", "+Inf,/render"] == 3
    bounds = [key[1].split(",")[0] for key in figures if key[0].endswith("_bucket")]
    assert [float(bound) for bound in bounds[: len(webapp.BUCKETS)]] == list(webapp.BUCKETS)
    assert figures["guest_cpu_seconds_total", "user"] > 0
    assert figures["process_resident_memory_bytes", ""] > 0


async def test_metrics_have_help_and_names_in_base_units() -> None:
    async with serving("web-a") as (_, url), aiohttp.ClientSession() as session:
        await fetch(session, f"{url}/render?work=1")
        _, headers, text = await fetch(session, f"{url}/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(text))
    assert len(families) > 8
    for family in families:
        assert family.documentation, family.name
        assert not re.search(r"(milliseconds|_ms|kilobytes|percent)(_|$)", family.name)
        # promtool: only counters end in _total (the parser strips it), and never a gauge
        assert family.type == "counter" or not family.name.endswith("_total")


@given(st.lists(st.floats(0, 20), max_size=40))
def test_every_duration_is_in_one_bucket(durations: list[float]) -> None:
    figures = webapp.Figures.__new__(webapp.Figures)
    figures.requests, figures.durations, figures.duration_sum = {}, {}, {}
    for seconds in durations:
        figures.observe("/", 200, seconds)
    counts = figures.durations.get("/", [0])
    assert sum(counts) == len(durations)
    at_most_1s = sum(counts[: webapp.BUCKETS.index(1) + 1])
    assert at_most_1s == sum(seconds <= 1 for seconds in durations)


def test_cpu_seconds_come_from_the_first_line() -> None:
    stat = "cpu  100 20 300 4000 50 6 7 80 9 1\ncpu0 1 1 1 1 1 1 1 1 1 1\nbtime 5\n"
    assert webapp.cpu_seconds(stat, 100) == {
        "user": 1.0,
        "nice": 0.2,
        "system": 3.0,
        "idle": 40.0,
        "iowait": 0.5,
        "irq": 0.06,
        "softirq": 0.07,
        "steal": 0.8,
    }


# --- waking up as somebody else ------------------------------------------------------------------


async def wake(folder: Path, line: bytes) -> bytes:
    """What the application says to a line from the guest's agent, up to its end."""
    reader, writer = await asyncio.open_unix_connection(str(folder / "wake"))
    writer.write(line)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> str:
    """The head of an answer on a connection that stays open."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"Content-Length: (\d+)", head)
    assert length is not None
    await reader.readexactly(int(length[1]))
    return head


@asynccontextmanager
async def wakeable(folder: Path) -> AsyncIterator[tuple[webapp.Webapp, int]]:
    """A replica `web-a` that hears wakes at `folder`/wake, and its port."""
    app = webapp.Webapp("web-a")
    runner = web.AppRunner(app.application(), access_log=None)
    await runner.setup()
    server = runner.server
    assert server is not None
    wakes = await webapp.listen_for_wakes(
        str(folder), lambda name: app.renew(name, server.connections)
    )
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield app, runner.addresses[0][1]
    finally:
        wakes.close()
        await wakes.wait_closed()
        await runner.cleanup()


async def test_a_wake_changes_the_name_and_ends_idle_connections(tmp_path: Path) -> None:
    async with asyncio.timeout(30), wakeable(tmp_path) as (_, port):
        idle = await asyncio.open_connection("127.0.0.1", port)
        assert "X-Replica: web-a\r\n" in await asked(*idle, "/readyz")
        silent = await asyncio.open_connection("127.0.0.1", port)
        assert "X-Replica: web-a\r\n" in await asked(*idle, "/readyz")  # `silent` is accepted
        assert await wake(tmp_path, b'{"name": "web-b"}\n') == b"ok\n"
        for reader, writer in (idle, silent):
            assert await reader.read() == b""
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert "X-Replica: web-b\r\n" in await asked(reader, writer, "/readyz")
        writer.close()


async def test_a_request_in_flight_is_answered_and_its_connection_then_ends(tmp_path: Path) -> None:
    async with asyncio.timeout(30), wakeable(tmp_path) as (app, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with worker_busy(app):
            writer.write(b"GET /render?work=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: app.worker.waiting == 2)
            assert await wake(tmp_path, b'{"name": "web-b"}\n') == b"ok\n"
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"X-Replica: web-b\r\n" in answer
        assert app.figures.in_flight == 0
        writer.close()


async def test_a_copy_starts_its_counts_anew_and_a_woken_standby_does_not(tmp_path: Path) -> None:
    async with asyncio.timeout(30), wakeable(tmp_path) as (app, port):
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:
            await fetch(session, f"{url}/render?work=2")
        assert await wake(tmp_path, b'{"name": "web-a"}\n') == b"ok\n"
        assert app.figures.requests == {("/render", "200"): 1}
        assert await wake(tmp_path, b'{"name": "web-b"}\n') == b"ok\n"
        async with aiohttp.ClientSession() as session:
            await fetch(session, f"{url}/render?work=3")
            figures = await samples(session, url)
    assert figures["webapp_requests_total", "200,/render"] == 1
    assert figures["webapp_request_duration_seconds_count", "/render"] == 1
    assert figures["webapp_work_units_total", ""] == 3
    assert figures["webapp_inflight_requests", ""] == 1


def test_two_copies_draw_different_random_numbers() -> None:
    app, before = webapp.Webapp("web-a"), random.getstate()
    drawn = []
    try:
        for name in ("web-b", "web-c"):
            random.setstate(before)  # as in the guest that both are copies of
            app.renew(name, [])
            drawn.append(random.getrandbits(128))
        random.setstate(before)
        drawn.append(random.getrandbits(128))
    finally:
        random.setstate(before)
        app.worker.close()
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b'"web-b"\n',
        b'{"name": 1}\n',
        b'{"name": ""}\n',
        b"x" * 70000 + b"\n",
    ],
)
async def test_what_is_no_wake_changes_nothing(tmp_path: Path, line: bytes) -> None:
    async with asyncio.timeout(30), wakeable(tmp_path) as (app, _):
        assert await wake(tmp_path, line) == b"not a wake\n"
        assert app.replica == "web-a"
        assert await wake(tmp_path, b'{"name": "web-b"}\n') == b"ok\n", "it listens on"


# --- the process ---------------------------------------------------------------------------------


async def start(port: int, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(SOURCE),
        "--listen=127.0.0.1",
        f"--port={port}",
        env={**os.environ, "PYTHONPATH": str(SOURCE.parent.parent), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def test_sigterm_finishes_what_is_in_flight(tmp_path: Path) -> None:
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    notify.setblocking(False)
    loop, port = asyncio.get_running_loop(), free_port()
    process = await start(port, REPLICA_NAME="web-z", NOTIFY_SOCKET=str(tmp_path / "notify"))
    try:
        async with asyncio.timeout(30):
            assert await loop.sock_recv(notify, 100) == b"READY=1"
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /render?work=2000 HTTP/1.1\r\nHost: x\r\n\r\n")
            await writer.drain()
            # two seconds of work: the signal comes once it was begun and before it ends
            async with aiohttp.ClientSession() as session:
                scraped: dict[tuple[str, str], float] = {}
                while scraped.get(("webapp_waiting_renders", "")) != 1:
                    scraped = await samples(session, f"http://127.0.0.1:{port}")
            process.send_signal(signal.SIGTERM)
            assert await loop.sock_recv(notify, 100) == b"STOPPING=1"
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"X-Replica: web-z\r\n" in answer
            out, err = await process.communicate()
            writer.close()
        assert process.returncode == 0
        assert re.search(
            r"webapp ready \d+\.\d s after kernel start, \d+\.\d+ s after its own, web-z",
            out.decode(),
        )
        assert err == b""
    finally:
        notify.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await start(port)
        async with asyncio.timeout(30):
            _, err = await process.communicate()
    assert process.returncode == 1
    assert err.decode().startswith(f"webapp: cannot listen on 127.0.0.1:{port}: ")
    assert err.count(b"\n") == 1


async def test_the_process_hears_wakes_in_its_runtime_folder(tmp_path: Path) -> None:
    port = free_port()
    process = await start(port, REPLICA_NAME="web-a", RUNTIME_DIRECTORY=str(tmp_path))
    try:
        async with asyncio.timeout(30):
            assert process.stdout is not None
            assert b"webapp ready" in await process.stdout.readline()
            assert await wake(tmp_path, b'{"name": "web-b"}\n') == b"ok\n"
            async with aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{port}/render?work=1"
                _, headers, text = await fetch(session, url)
            assert headers["X-Replica"] == json.loads(text)["replica"] == "web-b"
            process.send_signal(signal.SIGTERM)
            _, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
