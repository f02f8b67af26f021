"""Runs a test as a process of its own, or as all of one: loop, file limit, garbage collector.

`run_to_file` is what `multiprocessing` (method "spawn") is given; `run_here` is the same without
a new process.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import resource
import sys
from pathlib import Path

import uvloop

from loadtest import engine
from loadtest.errors import LoadtestError
from loadtest.priority import leave_realtime, take_realtime
from loadtest.result import Result, write_atomically
from loadtest.target import Settings

log = logging.getLogger(__name__)


def run_here(
    settings: Settings,
    on_second: engine.OnSecond | None = None,
    *,
    lifeline: int | None = None,
) -> Result:
    """Runs the test on uvloop and takes the process's signals. Main thread only.

    `lifeline`: a file descriptor that becomes readable when nobody wants the test any more.
    """
    prepare_process(settings.max_in_flight)
    if settings.realtime:
        take_realtime()
        if settings.workers > 1:  # they take it themselves; adding up is not so urgent
            leave_realtime()
    try:
        with uvloop_runner() as runner:
            test = engine.run(settings, on_second, handle_signals=True, lifeline=lifeline)
            return runner.run(test)
    finally:
        if settings.realtime:  # what comes after the test, drawing a page, is not urgent
            leave_realtime()


def run_to_file(settings: Settings, path: Path) -> None:
    """A process's target: writes the JSON result to `path`, whole or not at all.

    SIGTERM ends it with the result so far. Exit code 0; 1 or 2 with a line on stderr if it
    could not run. If the parent dies the test is finished: load without an owner is an attack.
    """
    parent = multiprocessing.parent_process()
    lifeline = None if parent is None else parent.sentinel
    try:
        write_atomically(run_here(settings, lifeline=lifeline), path)
    except (LoadtestError, OSError) as wrong:
        sys.stderr.write(f"loadtest: {wrong}\n")
        sys.exit(wrong.exit_code if isinstance(wrong, LoadtestError) else 1)


def prepare_process(connections: int) -> None:
    """For as many connections at once, and no long pauses for garbage."""
    _raise_file_limit(connections)
    # What is imported by now stays; scanning it again and again would cost milliseconds of lag.
    gc.collect()
    gc.freeze()


def uvloop_runner() -> asyncio.Runner:
    """Every test's event loop."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def _raise_file_limit(connections: int) -> None:
    """Each request in flight may need a connection, each connection is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 64
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < wanted:
        log.warning("the file limit %d allows fewer than %d connections", limit, connections)
