"""An open-loop load on a real `lbctl up`, in a process of its own: every answer is recorded.

Open: requests go out at their times whether or not the ones before were answered, as users do. So
it ends by `finish`, by its owner's death, or by itself after `LONGEST`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loadtest.result import Result
from tests.e2e.machine import BIN, until

LONGEST = "6m"
LAST_ANSWERS_S = 120.0


class Load:
    """A running load test, its phases entered when somebody says so."""

    def __init__(
        self, url: str, phases: dict[str, float], folder: Path, more: Sequence[str] = ()
    ) -> None:
        """`phases`: requests per second by name; the first one begins at once. `more`: options."""
        self._control = folder / "load.sock"
        self._result = folder / "load.json"
        plan = ",".join(f"{name}={rate:.1f}@trigger" for name, rate in phases.items())
        self._process = subprocess.Popen(
            [
                *(BIN / "loadtest", "run", url, "--quiet"),
                *("--plan", plan, "--arrivals", "poisson", "--seed", "4"),
                *("--timeout", f"{LAST_ANSWERS_S:g}s", "--max-duration", LONGEST),
                *("--control", self._control, "--json", self._result),
                *more,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def shift(self, phase: str) -> None:
        self._tell(phase)

    def finish(self) -> Result:
        """Send nothing more, wait for the answers still due."""
        self._tell("--finish")
        self._process.wait(LAST_ANSWERS_S + 10)
        return Result.read(self._result)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)

    def _tell(self, what: str) -> None:
        until(self._control.exists, 20, "the load tester never started")
        subprocess.run(
            [BIN / "loadtest", "shift", what, "--control", self._control],
            check=True,
            capture_output=True,
            timeout=30,
        )


@contextmanager
def loading(
    url: str, phases: dict[str, float], folder: Path, more: Sequence[str] = ()
) -> Iterator[Load]:
    """A load that is gone afterwards, whatever happened."""
    load = Load(url, phases, folder, more)
    try:
        yield load
    finally:
        load.close()
