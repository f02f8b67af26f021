"""The demo: low load, high load, low again, on real virtual machines, and the proof of it.

Tells the story act by act and records what happens; it judges nothing (`demo_story` does) and
draws nothing (`demo_report`, `demo_view`). Its VMs live in a folder of their own below LBCTL_HOME,
so that those of a real service are never touched, and none is left when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import uvloop

from autoscale.fleet import VmFleet
from autoscale.model import Fleet, VmStatus
from guest import image as guest_image
from lb import demo_acts, demo_report
from lb.config import Config
from lb.demo_config import LIMIT_CORES, SERVICE, TARGET_CPU, demo_config
from lb.demo_encore import ENCORE, KILLED, checks
from lb.demo_story import Moment, Point, Setting, Story, VmPoint, verdict
from lb.demo_view import View, open_view
from lb.errors import LbError
from lb.installation import Installation
from lb.service import Balancer
from lb.tasks import cancel, spawn
from loadtest import remote
from loadtest.closed import saturate
from loadtest.errors import LoadtestError
from loadtest.plan import Plan
from loadtest.result import Result
from loadtest.target import Settings
from loadtest.worker import run_to_file

LOW, HIGH = 0.5, 1.5
"""Shares of what one replica can serve."""
CALIBRATION_CONNECTIONS = 4
COSTLY_RPS = 60.0
"""Above this rate a request is made dearer, so that the load stays small beside the VMs."""
RECORD_S = 0.5
HOPELESS = 2
"""Launches of the first replica that may fail before the demo says why and ends."""
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST_ANSWERS_S = 90.0
"""How long the load tester may wait for what is still in flight when it is told to finish."""


class StoryBroken(LbError):
    """An act did not come to its end in time."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long the acts last, in seconds."""

    calibrate: float
    low: float
    after: float
    shrink_window: float
    boot_limit: float = 120.0
    grow_limit: float = 150.0
    relief_limit: float = 180.0
    shrink_limit: float = 120.0


FULL = Pace(calibrate=8.0, low=20.0, after=25.0, shrink_window=15.0)
FAST = Pace(calibrate=5.0, low=10.0, after=12.0, shrink_window=8.0)


def run(out: Path, fast: bool, home: Path) -> int:
    """Play the story, write the report to `out`. Returns 0 where it happened, 1 where not.

    Raises LbError where it cannot begin.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        guest_image.build("webapp", home, _tell_progress)
    except OSError as error:
        raise LbError(f"cannot write to {out}: {error.strerror}: choose --out") from error
    except guest_image.ImageError as error:
        raise LbError(str(error)) from error
    with Installation(home / "demo") as installation, open_view() as view:
        teller = Teller(installation, home, FAST if fast else FULL, view)
        story = uvloop.run(teller.tell())
    found = [*verdict(story), *checks(story)]
    page = demo_report.write(story, found, out)
    view.close_with(found, page)
    return 0 if all(check.ok for check in found) else 1


def _tell_progress(what: str, _share: float) -> None:
    print(f"image: {what}", file=sys.stderr)


class Teller:
    """Plays the acts one after the other on one balancer."""

    def __init__(
        self, installation: Installation, images_home: Path, pace: Pace, view: View
    ) -> None:
        self._pace = pace
        self._view = view
        self._story = Story()
        self._installation = installation
        self._images_home = images_home
        self._opened_unix = self._began_unix = time.time()
        self._work = 1
        self._listen = _free_or_any("127.0.0.1:8080")
        self._admin = _free_or_any("127.0.0.1:9900")
        self._control = Path(tempfile.mkdtemp(prefix="lbctl-demo-")) / "load.sock"
        self._load: dict[str, Any] = {}
        self._acting: asyncio.Task[None] | None = None
        self._balancer: Balancer | None = None
        self._kills: list[Moment] = []
        """With Unix seconds as their time."""

    async def tell(self) -> Story:
        """All acts; the story so far where one broke or a signal came. Leaves nothing running:
        only the acts can be interrupted, never the cleaning up after them."""
        loop = asyncio.get_running_loop()
        for number in ENDING_SIGNALS:
            loop.add_signal_handler(number, self._interrupt)
        try:
            async with self._serving() as balancer:
                recorder = spawn(self._record(balancer), name="demo recorder")
                self._acting = spawn(self._acts(balancer), name="demo")
                await asyncio.wait([self._acting])
                if self._acting.cancelled():
                    self._story.failure = "interrupted"
                elif self._acting.exception() is not None:
                    self._story.failure = f"a bug: {self._acting.exception()!r}"
                await cancel(recorder)
                await self._collect_moments(balancer)
                self._view.act("retiring the VMs", 12)
        finally:
            for number in ENDING_SIGNALS:
                loop.remove_signal_handler(number)
            shutil.rmtree(self._control.parent, ignore_errors=True)
        return self._story

    def _interrupt(self) -> None:
        if self._acting is not None and not self._acting.done():
            self._acting.cancel()
        else:
            self._view.act("retiring the VMs: this takes some seconds", 12)

    async def _acts(self, balancer: Balancer) -> None:
        try:
            await self._boot(balancer)
            await self._calibrate(balancer)
            await self._load_acts(balancer)
        except StoryBroken as error:
            # a host whose cores others take is the likeliest cause, and the planner knows
            decision = balancer.controllers[SERVICE].decision
            notes = [note.words for note in decision.notes] if decision is not None else []
            self._story.failure = "; ".join([str(error), *notes])

    # --- acts

    async def _boot(self, balancer: Balancer) -> None:
        self._view.act("booting the first replica", 12)
        fleet = balancer.controllers[SERVICE].fleet
        await self.until(
            lambda: (
                balancer.is_ready()[0] or fleet.gate.failures >= HOPELESS or self._lost(balancer)
            ),
            self._pace.boot_limit,
            "the first replica never served",
        )
        if not balancer.is_ready()[0]:
            raise StoryBroken(await self._trouble(balancer))
        # the CPU limit is set a moment after it serves; what follows must be measured under it
        await self.until(
            lambda: self._limit_settled(balancer), 15.0, "no CPU figures of the first replica"
        )

    def _lost(self, balancer: Balancer) -> bool:
        return bool(balancer.controllers[SERVICE].unreachable)

    async def _trouble(self, balancer: Balancer) -> str:
        """The newest failure in the journal's words."""
        events = await balancer.journal.events(since_id=None, limit=100, service=None)
        told = [e.message for e in events if e.kind in ("vm.failed", "host.unreachable")]
        return told[-1] if told else "the first replica never served"

    async def _calibrate(self, balancer: Balancer) -> None:
        """What can one replica serve? The scaler is held at one meanwhile."""
        self._view.act("measuring what one replica can serve", self._pace.calibrate + 4)
        await balancer.reload(self._config(ceiling=1))
        found = await self._saturate(balancer)
        if found > COSTLY_RPS:
            self._work = max(1, round(found / 20.0))
            found = await self._saturate(balancer)
        if found <= 0:
            raise StoryBroken("the first replica answered nothing while it was measured")
        info = next(iter(balancer.host_infos.values()))
        limited = self._limited(balancer)
        self._story.setting = Setting(
            domain_type=info.domain_type,
            why=info.why,
            host_cores=info.cores,
            libvirt=info.libvirt_version,
            vcpus=1,
            limit_cores=LIMIT_CORES if limited else 1.0,
            limited=limited,
            target_cpu=TARGET_CPU,
            work=self._work,
            capacity_rps=found,
            low_rps=round(LOW * found, 1),
            high_rps=round(HIGH * found, 1),
        )
        await asyncio.sleep(3.0)  # the last requests end, and the CPU figures forget the measuring
        await balancer.reload(self._config(ceiling=2))

    async def _load_acts(self, balancer: Balancer) -> None:
        setting = self._story.setting
        assert setting is not None  # noqa: S101
        low, high = setting.low_rps, setting.high_rps
        plan = f"low={low}@trigger,high={high}@trigger,relief={high}@trigger"
        plan += f",after={high}@trigger,calm={low}@trigger"
        for act in ENCORE:
            rate = high if act in ("again", "failure") else low
            if act == "spike":
                rate = round(demo_acts.SPIKE * setting.capacity_rps, 1)
            plan += f",{act}={rate}@trigger"
        settings = Settings(
            url=self._url(balancer),
            plan=Plan.parse(plan),
            arrivals="poisson",
            seed=1,
            timeout=180.0,
            control=self._control,
            max_seconds=900.0,
        )
        async with self._load_process(settings) as result_of:
            hurry = True
            try:
                await self._play(balancer, low, high)
                hurry = False
            finally:
                # also where an act broke: the report shows how far the story came
                with contextlib.suppress(OSError, LoadtestError):
                    self._story.result = await result_of(hurry)
                    self._align(self._story.result)

    async def _play(self, balancer: Balancer, low: float, high: float) -> None:
        pace, view = self._pace, self._view
        await self.until(lambda: bool(self._load), 20.0, "the load tester never started")
        self._starts("low")
        view.act(f"low load: {low:g} requests/s on one replica", pace.low)
        await asyncio.sleep(pace.low)

        await self.shift("high")
        view.act(f"high load: {high:g} requests/s, more than one can serve", 25)
        await self.until(
            lambda: self._ready(balancer) == 2, pace.grow_limit, "no second replica came"
        )
        await self.shift("relief")
        view.act("two replicas: working off what has queued up", 40)
        await self.until(self.relieved, pace.relief_limit, "the queue never went away")

        await self.shift("after")
        view.act(f"high load: {high:g} requests/s on two replicas", pace.after)
        await asyncio.sleep(pace.after)

        await self.shift("calm")
        view.act(f"low load again: {low:g} requests/s", pace.shrink_window + 10)
        await self.until(lambda: self._alone(balancer), pace.shrink_limit, "the fleet never shrank")
        await asyncio.sleep(3.0)
        self._balancer = balancer
        await demo_acts.play(
            self,
            self._installation.home,
            pace.low / 2,
            lambda: balancer.reload(self._config(ceiling=2, quick=True)),
        )

    # --- what the second half's acts ask for

    def says(self, what: str, expected_s: float) -> None:
        self._view.act(what, expected_s)

    def killed(self, vm: str) -> None:
        message = f"the demo kills the process of {vm}, as a crash would"
        self._kills.append(Moment(time.time(), KILLED, vm, "crashed", message))

    def counts(self) -> Fleet:
        return self._fleet().counts()

    def vms(self) -> tuple[VmStatus, ...]:
        return self._fleet().statuses()

    def _fleet(self) -> VmFleet:
        assert self._balancer is not None  # noqa: S101
        return self._balancer.controllers[SERVICE].fleet

    # --- the load

    @contextlib.asynccontextmanager
    async def _load_process(
        self, settings: Settings
    ) -> AsyncIterator[Callable[[bool], Awaitable[Result]]]:
        """The load tester in a process of its own: it must not share our event loop."""
        result_file = self._control.parent / "result.json"
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=run_to_file, args=(settings, result_file), daemon=True)
        process.start()
        follower = spawn(self._follow_load(), name="demo load status")

        async def finish(hurry: bool) -> Result:
            if hurry:
                process.terminate()  # it ends with the result so far
            else:
                await asyncio.to_thread(self._ask, "PATCH", {"finish": True})
            await asyncio.to_thread(process.join, LAST_ANSWERS_S)
            return Result.read(result_file)

        try:
            yield finish
        finally:
            await cancel(follower)
            await asyncio.to_thread(_end, process)
            result_file.unlink(missing_ok=True)

    def _ask(self, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return remote.ask(self._control, method, body)

    async def _follow_load(self) -> None:
        while True:
            with contextlib.suppress(OSError, LoadtestError):
                self._load = await asyncio.to_thread(self._ask, "GET")
                self._view.load(self._load)
            await asyncio.sleep(RECORD_S)

    async def shift(self, act: str) -> None:
        try:
            await asyncio.to_thread(self._ask, "PATCH", {"phase": act})
        except (OSError, LoadtestError) as error:
            raise StoryBroken(f"the load tester cannot be shifted to {act}: {error}") from error
        self._starts(act)

    def relieved(self) -> bool:
        """The queue is gone: what is in flight is what two replicas have in work anyway."""
        setting, second = self._story.setting, self._load.get("second")
        if setting is None or second is None or second["p99_s"] is None:
            return False
        # at 75 % load a request waits for a few others: five service times, or 0.5 s
        calm = max(0.5, 5.0 / setting.capacity_rps)
        return bool(second["p99_s"] < calm and self._load["in_flight"] < setting.high_rps)

    async def _saturate(self, balancer: Balancer) -> float:
        found = await saturate(
            self._url(balancer), CALIBRATION_CONNECTIONS, self._pace.calibrate, warm_up=1.5
        )
        return found.per_second

    def _url(self, balancer: Balancer) -> str:
        return f"http://{balancer.addresses[0]}/render?work={self._work}"

    # --- the fleet

    def _config(self, ceiling: int, *, quick: bool = False) -> Config:
        return demo_config(
            self._listen, self._admin, ceiling, self._pace.shrink_window, quick=quick
        )

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[Balancer]:
        balancer = Balancer(
            self._config(ceiling=2), self._installation, images_home=self._images_home
        )
        await balancer.start()
        try:
            yield balancer
        finally:
            await balancer.stop(retire_vms=True)

    def _limited(self, balancer: Balancer) -> bool:
        return all(info.cpu_limits for info in balancer.host_infos.values())

    def _limit_settled(self, balancer: Balancer) -> bool:
        statuses = balancer.controllers[SERVICE].fleet.statuses()
        wanted = LIMIT_CORES if self._limited(balancer) else 1.0
        return any(s.signal and s.sample and s.sample.limit_cores == wanted for s in statuses)

    def _ready(self, balancer: Balancer) -> int:
        return balancer.controllers[SERVICE].fleet.counts().ready

    def _alone(self, balancer: Balancer) -> bool:
        counts = balancer.controllers[SERVICE].fleet.counts()
        return counts.ready == 1 and counts.existing == 1

    async def until(self, happened: Callable[[], object], limit_s: float, otherwise: str) -> None:
        deadline = time.monotonic() + limit_s
        while not happened():
            if time.monotonic() > deadline:
                raise StoryBroken(f"{otherwise} within {limit_s:g} s")
            await asyncio.sleep(0.1)

    # --- recording

    def _now(self) -> float:
        return time.time() - self._began_unix

    def _starts(self, act: str) -> None:
        self._story.starts[act] = self._now()

    async def _record(self, balancer: Balancer) -> None:
        while True:
            point = self._point(balancer)
            self._story.points.append(point)
            self._view.point(point, balancer.scale(SERVICE).sentence or "")
            await asyncio.sleep(RECORD_S)

    def _point(self, balancer: Balancer) -> Point:
        row, guests = balancer.scale(SERVICE), balancer.guest_cores
        vms = {
            s.name: VmPoint(
                s.state.value,
                s.signal.cpu_cores if s.signal else None,
                s.signal.vcpu_cores if s.signal else None,
                guests.get(s.name),
            )
            for s in balancer.controllers[SERVICE].fleet.statuses()
        }
        in_flight = sum(view.in_flight for view in balancer.pool()[SERVICE])
        return Point(self._now(), row.desired, row.ready, row.booting, in_flight, vms)

    async def _collect_moments(self, balancer: Balancer) -> None:
        events = await balancer.journal.events(since_id=None, limit=1000, service=None)
        told = [
            Moment(e.at - self._began_unix, e.kind, e.subject, e.reason, e.message)
            for e in events
            if e.at >= self._opened_unix  # the journal of earlier demos is kept
        ]
        told += [replace(kill, t=kill.t - self._began_unix) for kill in self._kills]
        self._story.moments = sorted(told, key=lambda moment: moment.t)

    def _align(self, result: Result) -> None:
        """t = 0 is when the load began."""
        shift = result.started_unix - self._began_unix
        story = self._story
        self._began_unix = result.started_unix
        story.starts = {act: t - shift for act, t in story.starts.items()}
        story.points = [
            Point(p.t - shift, p.desired, p.ready, p.booting, p.in_flight, p.vms)
            for p in story.points
        ]


def _end(process: BaseProcess) -> None:
    """SIGTERM, and where that does not help, SIGKILL."""
    if process.is_alive():
        process.terminate()
        process.join(10.0)
    if process.is_alive():
        process.kill()
        process.join(10.0)
    process.close()


def _free_or_any(address: str) -> str:
    """The address that README names, or any other port of its host where it is taken."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return f"{host}:0"
    return address
