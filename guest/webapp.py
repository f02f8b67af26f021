"""The application every replica runs: a page with a picture, measured CPU work, health, metrics.

Stateless, and the same answer on every replica. Copied into the guest image with `work.py`, so it
imports nothing else of the project and runs with Debian 12's aiohttp 3.8 as with today's. It must
never do CPU work in the event loop: one worker thread draws and computes, first come first served,
so that `/readyz` answers while hundreds of renders wait.

Imports are part of the boot (under emulation they cost ten times what they cost here), which is
why prometheus_client is loaded at the first scrape and not before.
"""

from __future__ import annotations

import asyncio
import base64
import bisect
import contextlib
import html
import json
import os
import queue
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from aiohttp import web

from guest.work import draw_rows, palette, png, work_units

if TYPE_CHECKING:
    from prometheus_client.core import Metric

MAX_WORK = 10_000  # units: ten seconds of a host core; longer is a job for a batch system
MAX_SEED = 999_999
MAX_WAITING = 1024  # beyond this an answer is minutes away: 503 is the kinder one
PICTURE_SIZE = (320, 200)  # 50 to 100 ms of that core
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
# Python hands the interpreter lock over every 5 ms, and an answer needs several handovers. With a
# render running, the slowest of 40 `/readyz` took 34 and 24 ms (two runs); with 1 ms, 13 and 11.
SWITCH_INTERVAL_S = 0.001
CPU_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{replica}</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<style>
:root{{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}}
body{{margin:0;min-height:100vh;display:grid;place-content:center;justify-items:center;gap:1rem;
background:Canvas;color:CanvasText}}
img{{width:min(92vw,960px);aspect-ratio:{width}/{height};border-radius:14px;
box-shadow:0 8px 40px #0006}}
h1{{font-size:1.25rem;font-weight:500;margin:0}} h1 b{{font-weight:700}}
p{{margin:0;opacity:.75}} a{{color:inherit}}
</style></head><body>
<img src="data:image/png;base64,{picture}" alt="Julia set number {seed}">
<h1>Drawn for you by <b>{replica}</b></h1>
<p>Picture {seed} took {cost_ms:.0f} ms of its CPU ·
<a href="/?seed={previous}">previous</a> · <a href="/?seed={following}">next</a></p>
</body></html>
"""


# --- the worker: the one thread that spends CPU --------------------------------------------------


class BusyError(Exception):
    """So many renders wait that this one would be answered too late to matter."""


class ClientGoneError(Exception):
    """Nobody waits for this answer any more."""


class Worker:
    """One thread that runs generators to their end, first come first served.

    Work comes as an iterator so that it can be dropped between two steps: a client that hung up
    costs nothing if its turn had not come, and at most one step if it had.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.waiting = 0  # owned by the event loop: handed over and not yet answered
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def close(self) -> None:
        """End the thread after the work it already has."""
        self._jobs.put(None)
        self._thread.join()

    async def run(
        self, steps: Iterator[object], wanted: Callable[[], bool]
    ) -> tuple[list[object], float]:
        """All that `steps` yields and its CPU seconds. Raises BusyError or ClientGoneError."""
        if self.waiting >= MAX_WAITING:
            raise BusyError
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[list[object], float]] = loop.create_future()

        def settle(answer: tuple[list[object], float] | None, error: Exception | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            elif answer is not None:
                done.set_result(answer)

        def job() -> None:
            answer: tuple[list[object], float] | None = None
            error: Exception | None = None
            started = time.thread_time()
            try:
                results = []
                while wanted() and not done.cancelled():
                    try:
                        results.append(next(steps))
                    except StopIteration:
                        answer = (results, time.thread_time() - started)
                        break
                else:
                    error = ClientGoneError()
            except Exception as failure:  # noqa: BLE001  (the request's)
                error = failure
            with contextlib.suppress(RuntimeError):  # the loop ended meanwhile: nobody to tell
                loop.call_soon_threadsafe(settle, answer, error)

        self.waiting += 1
        try:
            self._jobs.put(job)
            return await done
        finally:
            self.waiting -= 1


# --- what is counted: plain numbers, folded into families when scraped ---------------------------


def cpu_seconds(stat: str, ticks_per_second: int) -> dict[str, float]:
    """Seconds by mode from the first line of /proc/stat (proc(5)); guest time is inside user."""
    fields = stat.partition("\n")[0].split()[1:]
    return {
        mode: int(ticks) / ticks_per_second for mode, ticks in zip(CPU_MODES, fields, strict=False)
    }


class Figures:
    """Counts of one replica. Written by the event loop only; a prometheus collector by shape."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.requests: dict[tuple[str, str], int] = {}  # (path, code) → count
        self.durations: dict[str, list[int]] = {}  # path → count by bucket, the last is +Inf
        self.duration_sum: dict[str, float] = {}
        self.in_flight = 0
        self.work_units = 0

    def observe(self, path: str, code: int, seconds: float) -> None:
        """Count one answered request."""
        self.requests[path, str(code)] = self.requests.get((path, str(code)), 0) + 1
        counts = self.durations.setdefault(path, [0] * (len(BUCKETS) + 1))
        counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.duration_sum[path] = self.duration_sum.get(path, 0.0) + seconds

    def start_over(self) -> None:
        """Forget what was answered: it was another replica's. What is in flight stays counted."""
        self.requests.clear()
        self.durations.clear()
        self.duration_sum.clear()
        self.work_units = 0

    def collect(self) -> Iterable[Metric]:
        """The families of one scrape, the guest's own view of its CPU included."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        requests = CounterMetricFamily(
            "webapp_requests", "Requests answered, by path and status.", labels=["path", "code"]
        )
        for labels, count in self.requests.items():
            requests.add_metric(labels, count)
        yield requests
        durations = HistogramMetricFamily(
            "webapp_request_duration_seconds",
            "Time from reading a request's head to its answer, queueing included.",
            labels=["path"],
        )
        for path, counts in self.durations.items():
            total, buckets = 0, []
            for bound, count in zip([*map(str, map(float, BUCKETS)), "+Inf"], counts, strict=True):
                total += count
                buckets.append((bound, total))
            durations.add_metric([path], buckets, self.duration_sum[path])
        yield durations
        yield GaugeMetricFamily(
            "webapp_inflight_requests", "Requests read and not yet answered.", self.in_flight
        )
        yield GaugeMetricFamily(
            "webapp_waiting_renders", "Renders queued or running.", self._worker.waiting
        )
        yield CounterMetricFamily(
            "webapp_work_units", "Units of CPU work done for /render.", self.work_units
        )
        with contextlib.suppress(OSError), open("/proc/stat") as stat:  # noqa: PTH123
            cpu = CounterMetricFamily(
                "guest_cpu_seconds", "CPU time of this machine as it sees it.", labels=["mode"]
            )
            for mode, seconds in cpu_seconds(stat.read(4096), os.sysconf("SC_CLK_TCK")).items():
                cpu.add_metric([mode], seconds)
            yield cpu


# --- HTTP ----------------------------------------------------------------------------------------


def whole_number(request: web.Request, name: str, default: int, low: int, high: int) -> int:
    """The query parameter `name`, or 400 with what is allowed."""
    text = request.query.get(name, str(default))
    # int() would also take "1_0", " 1" and other scripts' digits
    if text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high:
        return int(text)
    raise web.HTTPBadRequest(
        text=f"{name}: a whole number from {low} to {high}, not {text[:40]!r}\n"
    )


class ClientClosedRequest(web.HTTPClientError):
    """Nobody reads this answer: the code is for the figures, as nginx has it."""

    status_code = 499


class Webapp:
    """The handlers of one replica, and what they share."""

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self.worker = Worker()
        self.figures = Figures(self.worker)
        self.stopping = False
        self._busy: set[asyncio.Transport] = set()  # connections with a request being answered
        self._scrape: Callable[[], bytes] | None = None

    def application(self) -> web.Application:
        """Routes, measuring, and the header that names the replica on every answer."""

        @web.middleware
        async def measure(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            resource = request.match_info.route.resource
            path = resource.canonical if resource is not None else "other"
            started, code = time.monotonic(), 500
            connection = request.transport
            if connection is not None:
                self._busy.add(connection)
            self.figures.in_flight += 1
            try:
                response = await handler(request)
            except web.HTTPException as answer:
                code = answer.status
                raise
            else:
                code = response.status
                return response
            finally:
                self._busy.discard(connection)
                self.figures.in_flight -= 1
                self.figures.observe(path, code, time.monotonic() - started)

        async def name_replica(_request: web.Request, response: web.StreamResponse) -> None:
            response.headers["X-Replica"] = self.replica

        async def close(_app: web.Application) -> None:
            self.worker.close()

        app = web.Application(middlewares=[measure])
        app.on_response_prepare.append(name_replica)
        app.on_cleanup.append(close)
        app.router.add_get("/", self.page)
        app.router.add_get("/render", self.render)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/metrics", self.metrics)
        return app

    def renew(self, name: str, connections: Iterable[web.RequestHandler]) -> None:
        """Go on as the replica `name` after a sleep, or as a copy of another guest.

        Copies share every random state that their original had drawn, and whoever held one of
        `connections` has most likely given it up. One with a request ends with its answer.
        """
        random.seed()  # the kernel's, which the agent has just stirred; nothing else keeps any
        for connection in connections:
            connection.close()
            # 3.14 closes the transport of a busy one only
            if connection.transport is not None and connection.transport not in self._busy:
                connection.transport.close()
        if name != self.replica:
            self.replica = name
            self.figures.start_over()

    async def healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        if self.stopping:
            return web.Response(status=503, text="stopping\n")
        return web.Response(text="ready\n")

    async def render(self, request: web.Request) -> web.Response:
        """`work` units of CPU; JSON with the digest, which depends on `work` alone."""
        work = whole_number(request, "work", default=1, low=1, high=MAX_WORK)
        states, seconds = await self._compute(request, work_units(work))
        self.figures.work_units += work
        return web.json_response(
            {
                "work": work,
                "digest": f"{states[-1]:016x}",
                "replica": self.replica,
                "cpu_s": round(seconds, 6),
            }
        )

    async def page(self, request: web.Request) -> web.Response:
        """The picture number `seed`, and who drew it."""
        seed = whole_number(request, "seed", default=0, low=0, high=MAX_SEED)
        rows, seconds = await self._compute(request, draw_rows(seed, *PICTURE_SIZE))
        picture = png((row for row in rows if isinstance(row, bytes)), PICTURE_SIZE, palette(seed))
        text = PAGE.format(
            replica=html.escape(self.replica),
            picture=base64.b64encode(picture).decode(),
            width=PICTURE_SIZE[0],
            height=PICTURE_SIZE[1],
            seed=seed,
            cost_ms=seconds * 1e3,
            previous=max(0, seed - 1),
            following=min(MAX_SEED, seed + 1),
        )
        return web.Response(text=text, content_type="text/html")

    async def metrics(self, _request: web.Request) -> web.Response:
        if self._scrape is None:
            # In a thread: an emulated guest needs a second for the import, and probes go on.
            loop = asyncio.get_running_loop()
            self._scrape = await loop.run_in_executor(None, self._load_scrape)
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self._scrape(), headers=headers)

    def _load_scrape(self) -> Callable[[], bytes]:
        from prometheus_client import GC_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry
        from prometheus_client.exposition import generate_latest

        registry = CollectorRegistry()
        for collector in (self.figures, PROCESS_COLLECTOR, GC_COLLECTOR):
            registry.register(collector)
        return lambda: generate_latest(registry)

    async def _compute(
        self, request: web.Request, steps: Iterator[object]
    ) -> tuple[list[object], float]:
        """Run `steps` in the worker, for as long as the client's connection stands."""
        try:
            return await self.worker.run(steps, lambda: request.transport is not None)
        except BusyError:
            raise web.HTTPServiceUnavailable(
                text=f"{MAX_WAITING} renders are waiting\n", headers={"Retry-After": "1"}
            ) from None
        except ClientGoneError:
            raise ClientClosedRequest(reason="Client Closed Request") from None


# --- the process ---------------------------------------------------------------------------------


def tell_systemd(state: str) -> None:
    """sd_notify(3), when a service manager asked for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(state.encode(), address.replace("@", "\0", 1))


def ages() -> str:
    """Where the boot's time went, for the console of a machine whose service this is."""
    if "NOTIFY_SOCKET" not in os.environ:
        return ""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    with open("/proc/self/stat") as stat:  # noqa: PTH123
        ticks = int(stat.read().rpartition(")")[2].split()[19])  # starttime, proc(5)
    own = now - ticks / os.sysconf("SC_CLK_TCK")
    return f" {now:.1f} s after kernel start, {own:.2f} s after its own"


async def listen_for_wakes(folder: str, renew: Callable[[str], None]) -> asyncio.Server:
    """Hear the guest's agent at `folder`/wake: `{"name": …}` in a line, `ok` once it is done.

    The agent's way, because an application in a sandbox sees the host name of its own start.
    """

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            name = json.loads(await reader.readline())["name"]
            if not isinstance(name, str) or not name:
                raise TypeError("name")  # noqa: TRY301
        except (ValueError, KeyError, TypeError):
            answer = b"not a wake\n"
        else:
            renew(name)
            answer = b"ok\n"
        with contextlib.suppress(OSError):  # the agent may be gone; what is done is done
            writer.write(answer)
            await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(hear, f"{folder}/wake")


async def serve(host: str, port: int, replica: str) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight. Raises OSError: port taken."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    webapp = Webapp(replica)
    runner = web.AppRunner(webapp.application(), access_log=None)
    await runner.setup()
    wakes: asyncio.Server | None = None

    def renew(name: str) -> None:
        webapp.renew(name, runner.server.connections if runner.server is not None else ())

    try:
        site = web.TCPSite(runner, host, port, backlog=MAX_WAITING)
        await site.start()
        if folder := os.environ.get("RUNTIME_DIRECTORY"):
            wakes = await listen_for_wakes(folder, renew)
        tell_systemd("READY=1")
        print(f"webapp ready{ages()}, {replica} listens on {host}:{port}", flush=True)
        await stop.wait()
        webapp.stopping = True
        tell_systemd("STOPPING=1")
    finally:
        if wakes is not None:
            wakes.close()
        await runner.cleanup()  # stops listening, then waits up to 60 s for what is in flight


def main() -> int:
    """`webapp.py [--listen ADDRESS] [--port PORT]`; REPLICA_NAME overrides the host's name."""
    from argparse import ArgumentParser

    parser = ArgumentParser(
        description="One replica: /, /render?work=N, /healthz, /readyz, /metrics"
    )
    parser.add_argument("--listen", default=os.environ.get("WEBAPP_LISTEN", "0.0.0.0"))  # noqa: S104
    parser.add_argument("--port", type=int, default=os.environ.get("WEBAPP_PORT", "8080"))
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        replica = os.environ.get("REPLICA_NAME") or socket.gethostname()
        asyncio.run(serve(options.listen, options.port, replica))
    except OSError as error:
        where = f"{options.listen}:{options.port}"
        print(f"webapp: cannot listen on {where}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
