"""How fast and how punctual is the load tester? `./run bench loadtest [--json]`.

A local nginx with one worker on one core; on another, in turn, `wrk`, `hey` and `autocannon` and
our own tester: at 20,000 requests a second, and at a third of what wrk reached. How much of a lag
is the machine's doing is measured beside it: by an empty event loop that keeps the same schedule
just before, and by how long the kernel let others have the tester's core meanwhile. Rounds in which
either is much do not count; to have the core for itself, the tester runs with `--realtime` where
that is allowed, and once without to show the difference. Medians of three rounds. Fails (exit code
1) where at 20,000/s the p99 of the send lag is above 1 ms or not all was answered, or where a third
of wrk's rate is not reached in the plan's time or the tester calls that run not trustworthy; also
where the machine was too busy to say. Needs nginx, wrk and two cores (else exit code 2); the other
two are left out where they are not installed (`npm install --global autocannon`).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

from bench.parts.loadtest_peers import Peer, read_autocannon, read_hey, read_wrk
from loadtest.engine import COALESCE_S
from loadtest.priority import take_realtime
from loadtest.result import Result
from loadtest.stats import Distribution, Tally
from loadtest.timer import WakeUp
from loadtest.worker import prepare_process, uvloop_runner

RATE = 20_000
CONNECTIONS = 64
SECONDS = 3
ROUNDS = 3
MOST_ROUNDS = 5
MOST_LAG_S = 0.001
# With an empty loop later than this there is no millisecond left to keep to.
MOST_BARE_LAG_S = 0.0005
# Of the time: every hundredth request is late when others have the core for a hundredth.
MOST_CORE_WAIT = 0.01
LEAST_OF_WRK = 1 / 3
LEAST_ANSWERED = 0.99

NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid;
error_log {folder}/errors warn; worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 60s;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 "forty-two bytes are all there is in here.\\n"; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Ours:
    """Our tester at one rate; times in seconds, rates per second."""

    wanted: float
    answered: float
    """Without errors."""
    bare_lag_p99_s: float
    lag_p99_s: float
    lag_max_s: float
    service_p99_s: float
    cpu_share: float
    """Of its core."""
    core_wait: float
    """For how much of the time it was ready to run and others had its core."""
    realtime: bool
    trustworthy: bool
    """By its own judgement."""

    @property
    def undisturbed(self) -> bool:
        """Was the machine quiet enough for a millisecond to mean something?"""
        return self.bare_lag_p99_s <= MOST_BARE_LAG_S and self.core_wait <= MOST_CORE_WAIT


@dataclass(frozen=True, slots=True)
class Round:
    """Everything once, one after the other."""

    wrk: Peer
    hey: Peer | None
    autocannon: Peer | None
    punctual: Ours
    """At `RATE`."""
    fast: Ours
    """At a third of wrk's rate."""
    shared: Ours | None
    """At `RATE` without `--realtime`; None where the others are without it too."""

    @property
    def counts(self) -> bool:
        return self.punctual.undisturbed


# ── what is run ──────────────────────────────────────────────────────────────────────────────────


def pinned(core: int, *words: str) -> list[str]:
    return ["taskset", "-c", str(core), *words]


@contextmanager
def nginx(core: int) -> Iterator[str]:
    """An nginx of our own on a free port; gives its URL."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
        chosen.close()
        config = Path(folder) / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, port=port))
        words = pinned(core, program("nginx"), "-p", folder, "-c", str(config))
        words += ["-e", f"{folder}/errors"]
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)  # noqa: S603
        try:
            url = f"http://127.0.0.1:{port}/"
            _await_answer(url)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def program(name: str) -> str:
    """Its path; nginx stands where not everybody looks."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    return found or ""


def output(words: Sequence[str], **environment: str) -> str:
    done = subprocess.run(  # noqa: S603
        words, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"loadtest: {words[3]} failed: {done.stderr.strip()[:200]}")
    return done.stdout


def run_wrk(core: int, url: str) -> Peer:
    words = ("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", url)
    return read_wrk(output(pinned(core, *words)))


def run_hey(core: int, url: str) -> Peer | None:
    """Its rate limit is per connection, and limits from above only."""
    if not program("hey"):
        return None
    each = RATE / CONNECTIONS
    words = ("hey", "-c", str(CONNECTIONS), "-q", f"{each:g}", "-z", f"{SECONDS}s", url)
    return read_hey(output(pinned(core, *words), GOMAXPROCS="1"))


def run_autocannon(core: int, url: str) -> Peer | None:
    if not program("autocannon"):
        return None
    words = ("autocannon", "-R", str(RATE), "-c", str(CONNECTIONS), "-d", str(SECONDS), "-j", url)
    return read_autocannon(output(pinned(core, program(words[0]), *words[1:])))


def run_ours(core: int, url: str, rate: float, *, realtime: bool) -> Ours:
    options = ["--realtime"] if realtime else []
    words = (sys.executable, "-m", "bench.loadtest", f"--bare={rate}", *options)
    bare = json.loads(output(pinned(core, *words)))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "result.json"
        output(
            pinned(
                core, sys.executable, "-m", "loadtest", "run", url, "--rate", f"{rate:.0f}",
                "--duration", f"{SECONDS}s", "--quiet", "--json", str(file),
                "--control", f"{folder}/control", *options,
            )
        )  # fmt: skip
        result = Result.read(file)
    return ours_of(result, rate, float(bare["p99"]), realtime=realtime)


def ours_of(result: Result, rate: float, bare_lag_p99_s: float, *, realtime: bool) -> Ours:
    """A tester that cannot keep up sends all the same, later: what it answered is divided by the
    time that took. One that has a moment to spare is not rewarded for it."""
    counts = result.counts
    seconds = max(SECONDS, result.duration_s)
    return Ours(
        wanted=round(rate),
        answered=(counts.completed - (counts.errors - counts.failed)) / seconds,
        bare_lag_p99_s=bare_lag_p99_s,
        lag_p99_s=result.send_lag_s.p99,
        lag_max_s=result.send_lag_s.max,
        service_p99_s=result.service_s.p99,
        cpu_share=result.cpu_s / result.duration_s,
        core_wait=(result.workers[0].core_wait_s or 0.0) / result.duration_s,
        realtime=realtime,
        trustworthy=result.trustworthy,
    )


def bare_loop(rate: float, seconds: float) -> Distribution:
    """The lag of an event loop that keeps our schedule and has nothing to do."""

    async def keep() -> Tally:
        lags = Tally()
        over = asyncio.Event()
        began = time.monotonic()
        taken = 0

        def wake() -> None:
            nonlocal taken
            now = time.monotonic() - began
            while (due := (taken + 0.5) / rate) <= now:
                lags.record(now - due)
                taken += 1
            if now >= seconds:
                over.set()
            else:
                timer.arm(max(due - now, COALESCE_S))

        timer = WakeUp(asyncio.get_running_loop(), wake)
        wake()
        await over.wait()
        timer.close()
        return lags

    prepare_process(1)
    with uvloop_runner() as runner:
        return runner.run(keep()).summary()


def _await_answer(url: str) -> None:
    patience = time.monotonic() + 10
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()  # noqa: S310
        except OSError:
            if time.monotonic() > patience:
                raise SystemExit("loadtest: nginx does not answer") from None
            time.sleep(0.05)
        else:
            return


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────


def measure(server_core: int, client_core: int) -> list[Round]:
    """Rounds until three count, five at most. Who begins changes from round to round."""
    rounds: list[Round] = []
    realtime = may_take_realtime()
    ours = partial(run_ours, client_core, realtime=realtime)
    with nginx(server_core) as url:
        while len(rounds) < MOST_ROUNDS and sum(found.counts for found in rounds) < ROUNDS:
            wrk = run_wrk(client_core, url)
            steps: list[Callable[[], Ours | Peer | None]] = [
                partial(ours, url, RATE),
                partial(ours, url, wrk.per_s * LEAST_OF_WRK),
                partial(run_hey, client_core, url),
                partial(run_autocannon, client_core, url),
                partial(run_ours, client_core, url, RATE, realtime=False) if realtime else _nothing,
            ]
            order = range(5) if len(rounds) % 2 == 0 else range(4, -1, -1)
            found = {number: steps[number]() for number in order}
            rounds.append(
                Round(wrk, found[2], found[3], found[0], found[1], found[4])  # type: ignore[arg-type]
            )
    return rounds


def _nothing() -> None:
    return None


def may_take_realtime() -> bool:
    """Tried in a process of its own."""
    words = [sys.executable, "-c", "from loadtest.priority import take_realtime as t; t()"]
    return not subprocess.run(words, stderr=subprocess.DEVNULL, check=False).returncode  # noqa: S603


def misses(rounds: Sequence[Round]) -> list[str]:
    """What the rounds that count fell short of, in the median."""
    counted = [found for found in rounds if found.counts]
    if len(counted) < ROUNDS:
        return [
            f"only {len(counted)} of {len(rounds)} rounds can be judged: in the others an empty"
            f" loop was later than {MOST_BARE_LAG_S * 1000:g} ms (p99), or others had the core for"
            f" more than {MOST_CORE_WAIT:.0%} of the time: this machine is too busy"
        ]
    missed = []
    lag = median(found.punctual.lag_p99_s for found in counted)
    if lag > MOST_LAG_S:
        missed.append(f"at {RATE}/s the p99 of the send lag is {lag * 1000:.2f} ms, more than 1 ms")
    for words, parts in (
        (f"{RATE}/s", [found.punctual for found in counted]),
        ("a third of wrk's rate", [found.fast for found in counted]),
    ):
        share = median(part.answered / part.wanted for part in parts)
        if share < LEAST_ANSWERED:
            missed.append(f"of {words} only {share:.1%} was answered")
    doubted = sum(not found.fast.trustworthy for found in counted)
    if 2 * doubted > len(counted):
        missed.append(
            f"at a third of wrk's rate {doubted} of {len(counted)} runs are not to be trusted"
        )
    return missed


def report(rounds: Sequence[Round]) -> str:
    lines = [
        "tool                asked      answered  p99 latency  send lag p99 (bare loop)        max"
        "  CPU  core not free"
    ]
    for number, found in enumerate(rounds, start=1):
        lines.append(f"round {number}{'' if found.counts else ' (machine too busy: not counted)'}")
        lines.append(_peer("wrk", "as fast as", found.wrk))
        parts = (found.punctual, found.fast, found.shared)
        lines += [_ours(part) for part in parts if part is not None]
        for name in ("hey", "autocannon"):
            peer: Peer | None = getattr(found, name)
            lines.append(_peer(name, f"{RATE}/s", peer) if peer else f"{name:14}  not installed")
    counted = [found for found in rounds if found.counts] or list(rounds)
    ratio = median(found.fast.answered / found.wrk.per_s for found in counted)
    lag = median(found.punctual.lag_p99_s for found in counted)
    bare = median(found.punctual.bare_lag_p99_s for found in counted)
    lines.append(
        f"median: {ratio:.2f} of wrk's rate kept open-loop; send lag p99 at {RATE}/s"
        f" {lag * 1000:.2f} ms, of which an empty loop has {bare * 1000:.2f} ms"
    )
    return "\n".join(lines)


def _ours(part: Ours) -> str:
    return (
        f"{'loadtest':14} {part.wanted:8.0f}/s  {part.answered:10.0f}/s"
        f"  {part.service_p99_s * 1000:8.2f} ms"
        f"  {part.lag_p99_s * 1000:9.2f} ms ({part.bare_lag_p99_s * 1000:5.2f} ms)"
        f"  {part.lag_max_s * 1000:7.2f} ms  {part.cpu_share:4.0%}"
        f"  {part.core_wait:.1%}{' (realtime)' if part.realtime else ''}"
    )


def _peer(name: str, asked: str, peer: Peer) -> str:
    p99 = "" if peer.p99_s is None else f"{peer.p99_s * 1000:8.2f} ms"
    return f"{name:14} {asked:>10}  {peer.per_s:10.0f}/s  {p99}"


def cores() -> tuple[int, int]:
    """One for the server, one for the tools."""
    ours = sorted(os.sched_getaffinity(0))
    wanting = [name for name in ("nginx", "wrk", "taskset") if not program(name)]
    if wanting or len(ours) < 2:
        what = f"install {', '.join(wanting)}" if wanting else "it needs two cores"
        print(f"loadtest: cannot measure: {what}", file=sys.stderr)
        sys.exit(2)
    return ours[-1], ours[0]


def main() -> None:
    wanted = sys.argv[1:]
    if wanted and wanted[0].startswith("--bare="):
        if wanted[1:]:
            take_realtime()
        # What run_ours asks of a process of its own.
        print(json.dumps(asdict(bare_loop(float(wanted[0].partition("=")[2]), 1.0))))
        return
    if wanted not in ([], ["--json"]):
        raise SystemExit("usage: ./run bench loadtest [--json]")
    rounds = measure(*cores())
    missed = misses(rounds)
    if wanted:
        rows = [{**asdict(found), "counts": found.counts} for found in rounds]
        print(json.dumps({"rounds": rows, "missed": missed}, indent=1))
    else:
        print(report(rounds))
        for line in missed or ["targets met"]:
            print(line)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
