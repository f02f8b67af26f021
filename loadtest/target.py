"""One load test as values: what is asked of whom, when, and within which limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import InputError
from loadtest.mix import Ask, Mix, Origin
from loadtest.plan import Plan
from loadtest.timeline import Arrivals

MAX_WORKERS = 256


@dataclass(frozen=True, slots=True)
class Settings:
    """One load test. Picklable, so that another process can run it.

    `timeout` counts from the intended time, in seconds. `control` is the path of the unix socket
    to listen on for shifts, None for none. `max_seconds` ends a test that nobody finishes. With
    `mix` those requests are sent, and `url`, `method`, `headers` and `body` are only told.
    `workers` processes share the work. `metrics` is host and port for Prometheus, None for none.
    `realtime` gives the processes that send their cores before all others.
    """

    url: str
    plan: Plan
    arrivals: Arrivals = "constant"
    seed: int = 0
    max_in_flight: int = 10_000
    timeout: float = 60.0
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    control: Path | None = None
    max_seconds: float = 86_400.0
    mix: Mix | None = None
    workers: int = 1
    metrics: tuple[str, int] | None = None
    realtime: bool = False

    def __post_init__(self) -> None:
        if self.max_in_flight < 1:
            raise InputError(f"max-in-flight {self.max_in_flight}: must be at least 1")
        if not 1 <= self.workers <= MAX_WORKERS:
            raise InputError(f"workers {self.workers}: allowed is 1 to {MAX_WORKERS}")
        if self.max_in_flight < self.workers:
            raise InputError(
                f"max-in-flight {self.max_in_flight}: {self.workers} workers need one each"
            )
        if not 0 < self.timeout <= 3600:
            raise InputError(f"timeout {self.timeout:g}s: allowed is up to 1h")
        if self.max_seconds <= 0:
            raise InputError("max-duration: must be longer than nothing")
        if self.mix is None:  # refuses a bad URL, method or header now, not in mid-run
            object.__setattr__(self, "mix", self._alone())

    @property
    def requests(self) -> Mix:
        """What is sent."""
        return self.mix or self._alone()

    @property
    def target(self) -> Origin:
        """The first server asked, for most tests the only one."""
        return self.requests.origins[0]

    def _alone(self) -> Mix:
        return Mix.of([Ask(self.method, self.url, self.headers, self.body)])
