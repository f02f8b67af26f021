"""Can bytes be found that we read otherwise than others do? `./run bench fuzz [--minutes N]`.

Three ways at once, from one corpus (`tests/wire_corpus.py`): the readers alone, judged by llhttp
and h11 (`readers`); the same bytes through a proxy on loopback to a backend that records
(`sockets`); and, where atheris is installed, inputs that it makes up by the branches they reach
(`coverage`).
Every input of the first two follows from a seed and a number, so `--seed S --only readers:N` tries
one again. Fails (exit code 1) where something is found, and prints it. What has run so far stands
in `bench/fuzz/README.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import inspect
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from lb import exchange, headers
from lb.wire import chunked, framing, head
from tests.proxy_harness import Proxied
from tests.wire_corpus import ANSWER_LIES, ANSWERS, BODIES, LIES, REQUESTS, cuts, drawn
from tests.wire_reading import check_answer, check_chunks, check_requests
from tests.wire_through import Recorder, check_through, recorded

MINUTES = 1.0
METHODS = ("GET", "GET", "POST", "HEAD")


@dataclass
class Run:
    way: str
    seconds: float = 0.0
    inputs: int = 0
    accepted: int = 0
    """Messages in them that were read and went on."""
    found: str = ""


def try_readers(seed: int, number: int) -> int:
    chance = random.Random(f"{seed}:{number}")
    accepted = len(check_requests(drawn(chance, REQUESTS + LIES)).read)
    accepted += check_answer(
        drawn(chance, ANSWERS + ANSWER_LIES), chance.choice(METHODS), newer=chance.random() < 0.7
    )
    body = drawn(chance, BODIES)
    check_chunks(body, cuts(chance, body))
    return accepted


def readers(seed: int, seconds: float) -> Run:
    run = Run("readers")
    began = time.monotonic()
    while run.seconds < seconds and not run.found:
        try:
            run.accepted += try_readers(seed, run.inputs)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            run.found = f"readers:{run.inputs}: {error!r}"
        run.inputs += 1
        run.seconds = time.monotonic() - began
    return run


async def try_sockets(proxy: Proxied, recorder: Recorder, seed: int, number: int) -> int:
    chance = random.Random(f"{seed}:{number}")
    data = drawn(chance, REQUESTS + LIES)
    return await check_through(proxy, recorder, data, cuts(chance, data))


async def _sockets(seed: int, seconds: float) -> Run:
    run = Run("sockets")
    began = time.monotonic()
    async with recorded() as (proxy, recorder):
        while run.seconds < seconds and not run.found:
            try:
                run.accepted += await try_sockets(proxy, recorder, seed, run.inputs)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
                run.found = f"sockets:{run.inputs}: {error!r}"
            run.inputs += 1
            run.seconds = time.monotonic() - began
    return run


def sockets(seed: int, seconds: float) -> Run:
    return uvloop.run(_sockets(seed, seconds))


def coverage(seed: int, seconds: float) -> Run:
    """libFuzzer ends the process that it runs in, so it gets one of its own."""
    run = Run("coverage")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate((*REQUESTS, *LIES, *ANSWERS, *ANSWER_LIES)):
            (Path(corpus) / str(number)).write_bytes(data)
        reader, writer = os.pipe()
        child = multiprocessing.get_context("fork").Process(
            target=_atheris, args=(corpus, seed, seconds, writer)
        )
        child.start()
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8", errors="replace") as told:
            lines = told.read().splitlines()
        child.join()
    run.seconds = time.monotonic() - began
    for line in lines:
        if line.startswith("stat::number_of_executed_units:"):
            run.inputs = int(line.rpartition(" ")[2])
    if child.exitcode:
        run.found = "coverage: " + "\n".join(lines[-30:])
    return run


def _atheris(corpus: str, seed: int, seconds: float, told: int) -> None:
    import atheris  # type: ignore[import-untyped]  # optional: pip install atheris

    os.dup2(told, 1)
    os.dup2(told, 2)

    def one(data: bytes) -> None:
        check_requests(data)
        check_answer(data, "GET", newer=True)
        check_chunks(data, [data[:7], data[7:]])

    os.chdir(corpus)  # where it leaves what it found
    for module in (chunked, exchange, framing, head, headers):
        for thing in vars(module).values():
            owned = vars(thing).values() if inspect.isclass(thing) else (thing,)
            for one_of in owned:
                if inspect.isfunction(one_of) and one_of.__module__ == module.__name__:
                    atheris.instrument_func(one_of)
    atheris.Setup(
        [
            "fuzz",
            corpus,
            f"-max_total_time={int(seconds)}",
            f"-seed={seed + 1}",
            "-max_len=2048",
            "-print_final_stats=1",
            "-verbosity=0",
        ],
        one,
    )
    atheris.Fuzz()


def measure(seed: int, seconds: float) -> list[Run]:
    ways = [readers, sockets]
    if importlib.util.find_spec("atheris") is not None:
        ways.append(coverage)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(ways), mp_context=context) as pool:
        runs: list[Future[Run]] = [pool.submit(way, seed, seconds) for way in ways]
        return [run.result() for run in runs]


def again(seed: int, only: str) -> None:
    """Try one input once more; raises what it raised."""
    way, _, number = only.partition(":")
    if way == "readers":
        try_readers(seed, int(number))
        return

    async def once() -> None:
        async with recorded() as (proxy, recorder):
            await try_sockets(proxy, recorder, seed, int(number))

    asyncio.run(once())


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench fuzz")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--seed", type=int, help="of a run that is to be repeated")
    parser.add_argument("--only", metavar="WAY:N", help="one input of that run")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**31) if given.seed is None else given.seed
    if given.only:
        again(seed, given.only)
        return
    runs = measure(seed, given.minutes * 60)
    if given.json:
        print(json.dumps({"seed": seed, "runs": [asdict(run) for run in runs]}, indent=1))
    else:
        print(f"seed {seed}")
        for run in runs:
            print(
                f"{run.way:9} {run.inputs:10} inputs in {run.seconds:6.0f} s"
                f" ({run.inputs / run.seconds:7.0f}/s), {run.accepted} messages accepted"
            )
            if run.found:
                print(f"FOUND {run.found}")
    sys.exit(1 if any(run.found for run in runs) else 0)


if __name__ == "__main__":
    main()
