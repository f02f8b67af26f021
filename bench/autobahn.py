"""Is a WebSocket the same through the proxy? `./run bench autobahn [--quick] [--json]`.

Autobahn's test suite against a WebSocket server, once directly and once through `lbctl up`: each
case must end alike. The suite itself needs Python 2 (its newest release on PyPI still does); kosoku
on PyPI runs its case files, all 517 of them, on a runner of its own. It is installed into a virtual
environment that lives as long as the benchmark. `--quick` leaves out the 216 cases of compression
(12.*, 13.*), which take most of the time and look to the proxy like any other frame.

Fails (exit code 1) where a case ends otherwise with the proxy than without, where one does not run,
or where the proxy holds a connection after it. That the server (aiohttp's) itself fails a case is
told, and is no failure of the proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import venv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.parts.backend import Backend
from bench.parts.up import lbctl_up

RUNNER = "kosoku==0.1.0"
LEAST_CASES = {False: 500, True: 300}
"""By `--quick`: fewer have run than the suite has, where the runner changed under us."""
AT_ONCE = 2
WHOLE_S = 1200.0
"""For one run of the suite."""
COMPRESSION = ("12.*", "13.*")

CONFIG = """
hypervisor = []
[proxy]
listen = "127.0.0.1:{port}"
[admin]
listen = "127.0.0.1:0"
[service.web]
backends = ["BACKEND"]
"""

Results = dict[str, str]
"""How each case ended: its verdict and that on the closing handshake."""


@dataclass(frozen=True, slots=True)
class Found:
    direct: Results
    proxied: Results
    files_before: int
    files_after: int


# ── the suite ────────────────────────────────────────────────────────────────────────────────────


async def install(folder: Path) -> Path:
    """The suite's runner in a virtual environment of its own. Raises SystemExit."""
    await asyncio.to_thread(venv.create, folder, with_pip=True)
    pip = await asyncio.create_subprocess_exec(
        folder / "bin" / "python", "-m", "pip", "install", "--quiet",
        "--disable-pip-version-check", RUNNER,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await pip.communicate()
    if pip.returncode:
        raise SystemExit(f"autobahn: {RUNNER} cannot be installed: {said.decode()[-1000:]}")
    return folder / "bin" / "kosoku"


async def suite(runner: Path, port: int, reports: Path, *, quick: bool) -> Results:
    """One run against this port. Its exit code only tells that a case failed."""
    less = [word for case in COMPRESSION for word in ("-x", case)] if quick else []
    process = await asyncio.create_subprocess_exec(
        runner, "-p", str(AT_ONCE), "-o", reports, *less, f"127.0.0.1:{port}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WHOLE_S):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise SystemExit(f"autobahn: a run took more than {WHOLE_S:g} s") from None
    return results(reports, said.decode())


def results(reports: Path, said: str) -> Results:
    """What the runner's report says of each case."""
    index = reports / "index.json"
    if not index.exists():
        raise SystemExit(f"autobahn: the runner made no report: {said[-1000:]}")
    (agent,) = json.loads(index.read_text()).values()
    return {
        case: f"{verdict['behavior']}, close {verdict['behaviorClose']}"
        for case, verdict in agent.items()
    }


async def run(*, quick: bool) -> Found:
    with tempfile.TemporaryDirectory(prefix="autobahn-") as name, Backend() as backend:
        folder = Path(name)
        runner = await install(folder / "venv")
        await backend.listening()
        direct = await suite(runner, backend.port, folder / "direct", quick=quick)
        async with lbctl_up(CONFIG.replace("BACKEND", backend.address)) as up:
            await up.all_ready()
            files_before = up.files()
            proxied = await suite(runner, up.port, folder / "proxied", quick=quick)
            for _ in range(100):
                if up.files() <= files_before:
                    break
                await asyncio.sleep(0.1)
            return Found(direct, proxied, files_before, up.files())


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────


def misses(found: Found, *, quick: bool) -> list[str]:
    missed = [
        f"case {case}: {found.direct.get(case, 'not run')} directly,"
        f" {found.proxied.get(case, 'not run')} through the proxy"
        for case in sorted({*found.direct, *found.proxied}, key=_in_order)
        if found.direct.get(case) != found.proxied.get(case)
    ]
    if len(found.proxied) < LEAST_CASES[quick]:
        missed.append(f"only {len(found.proxied)} cases were run")
    if found.files_after > found.files_before:
        missed.append(f"{found.files_after} files are open, {found.files_before} were before")
    return missed


def _in_order(case: str) -> tuple[int, ...]:
    return tuple(int(part) for part in case.split("."))


def report(found: Found) -> str:
    lines = []
    for name, ended in (("directly", found.direct), ("through the proxy", found.proxied)):
        counts = Counter(verdict.partition(",")[0] for verdict in ended.values())
        told = ", ".join(f"{number} {verdict}" for verdict, number in counts.most_common())
        lines.append(f"{len(ended)} cases {name}: {told}")
    lines += [
        f"the server itself fails {case}: {verdict}"
        for case, verdict in sorted(found.direct.items(), key=lambda item: _in_order(item[0]))
        if verdict.startswith("FAILED")
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench autobahn")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    found = asyncio.run(run(quick=wanted.quick))
    missed = misses(found, quick=wanted.quick)
    if wanted.json:
        cases = {"direct": found.direct, "proxied": found.proxied}
        print(json.dumps({**cases, "missed": missed}, indent=1))
    else:
        print(report(found))
        for line in missed or ["target met: each case ends alike"]:
            print(line)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
