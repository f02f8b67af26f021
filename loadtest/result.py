"""What a load test found, as values, and their JSON. docs/loadtest.md documents each field.

Every duration is in seconds, every `t` is seconds since the start. Always holds:
`intended = completed + failed + dropped + unfinished`, for the run and for each phase.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.errors import InputError
from loadtest.stats import Distribution
from loadtest.timeline import Shift

SCHEMA = "loadtest/1"


@dataclass(frozen=True, slots=True)
class Second:
    """What happened in [t, t + span). p50 and p99 are of the answers that came in it."""

    t: float
    span: float
    phase: str
    rate: float
    intended: int
    sent: int
    completed: int
    errors: int
    dropped: int
    in_flight: int
    p50_s: float | None
    p99_s: float | None
    p90_s: float | None = None
    p99_9_s: float | None = None
    error_kinds: dict[str, int] = field(default_factory=dict)
    latency_us: str = ""
    """The histogram those percentiles are of, HdrHistogram's interchange text; empty: unknown."""


@dataclass(frozen=True, slots=True)
class Counts:
    """`errors` is `failed` plus answers of status 400 and above."""

    intended: int
    sent: int
    completed: int
    failed: int
    errors: int
    dropped: int
    unfinished: int


@dataclass(frozen=True, slots=True)
class Histograms:
    """HdrHistogram's interchange text, microseconds; these merge."""

    latency_us: str
    service_us: str
    send_lag_us: str


@dataclass(frozen=True, slots=True)
class PhaseHistograms:
    """The same of a phase."""

    latency_us: str
    service_us: str


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """One stay in a phase; a request belongs to the stay in which it was intended."""

    name: str
    start: float
    end: float
    counts: Counts
    errors: dict[str, int]
    latency_s: Distribution
    service_s: Distribution
    histograms: PhaseHistograms | None = None
    """None in files from before it was kept."""


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """What one process did of it. `core_wait_s` is how long it was ready to run and another process
    had the core (None: not known). `lost`: it died, and what it did is missing."""

    name: str
    intended: int
    sent: int
    cpu_s: float
    send_lag_p99_s: float
    send_lag_max_s: float
    core_wait_s: float | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """A phase as it was planned; `duration_s` None: until shifted."""

    name: str
    rate: float
    end_rate: float
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class PlanResult:
    """What was asked for, enough to ask for it again."""

    text: str
    arrivals: str
    seed: int
    max_in_flight: int
    timeout_s: float
    phases: list[PhasePlan]


@dataclass(frozen=True, slots=True)
class Result:
    """A whole run."""

    url: str
    method: str
    plan: PlanResult
    started_unix: float
    duration_s: float
    stopped_by: str
    counts: Counts
    reconnects: int
    connections_opened: int
    bytes_received: int
    cpu_s: float
    dropped: dict[str, int]
    errors: dict[str, int]
    status: dict[str, int]
    latency_s: Distribution
    service_s: Distribution
    send_lag_s: Distribution
    trustworthy: bool
    reasons: list[str]
    phases: list[PhaseResult]
    shifts: list[Shift]
    series: list[Second]
    histograms: Histograms
    workers: list[WorkerResult] = field(default_factory=list)
    schema: str = SCHEMA

    def to_json(self) -> str:
        """The document, one line per top-level field's first level."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str, name: str) -> Result:
        """Reads what `to_json` wrote. Raises InputError, naming the document `name`."""
        try:
            document = json.loads(text)
            if document["schema"] != SCHEMA:
                raise InputError(f"{name}: schema {document['schema']!r}, I read {SCHEMA!r}")
            return _result(document)
        except (ValueError, KeyError, TypeError, AttributeError) as wrong:
            raise InputError(f"{name}: not a load test's result ({wrong})") from wrong

    @classmethod
    def read(cls, path: Path) -> Result:
        """Reads a result file. Raises InputError."""
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as wrong:
            raise InputError(f"{path}: {wrong}") from None
        return cls.from_json(text, str(path))


def write_atomically(result: Result, path: Path) -> None:
    """The whole file or none of it. Raises OSError."""
    write_text(result.to_json() + "\n", path)


def write_text(text: str, path: Path) -> None:
    """The whole file or none of it. Raises OSError.

    Where a link leads, the file is replaced and the link stays. What is there and no file, a pipe
    or a device, is written to: a rename would put a file in its place.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, "utf-8")
        return
    file = Path(os.path.realpath(path))
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(file)


def _result(document: dict[str, Any]) -> Result:
    plan = dict(document["plan"])
    plan["phases"] = [PhasePlan(**phase) for phase in plan["phases"]]
    phases = [_phase(phase) for phase in document["phases"]]
    return Result(
        **{
            **document,
            **_distributions(document),
            "plan": PlanResult(**plan),
            "counts": Counts(**document["counts"]),
            "phases": phases,
            "shifts": [Shift(**shift) for shift in document["shifts"]],
            "series": [Second(**row) for row in document["series"]],
            "histograms": Histograms(**document["histograms"]),
            "workers": [WorkerResult(**worker) for worker in document.get("workers", ())],
        }
    )


def _phase(document: dict[str, Any]) -> PhaseResult:
    texts = document.get("histograms")
    return PhaseResult(
        **{
            **document,
            **_distributions(document),
            "counts": Counts(**document["counts"]),
            "histograms": None if texts is None else PhaseHistograms(**texts),
        }
    )


def _distributions(document: dict[str, Any]) -> dict[str, Distribution]:
    names = ("latency_s", "service_s", "send_lag_s")
    return {name: Distribution(**document[name]) for name in names if name in document}
