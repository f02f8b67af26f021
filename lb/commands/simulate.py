"""`lbctl simulate`: our planner on a recorded or built-in load, alone or beside its rivals.

Reads options, plays, prints. What a load, a machine or a score is stands in `autoscale.simulation`;
heavy imports wait until the command runs.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from lb.commands import render
from lb.commands.base import (
    Settings,
    WrongUsageError,
    config_option,
    json_option,
    pass_settings,
)
from lb.commands.render import Column

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from autoscale.compare import Entry, Measure, Standing
    from autoscale.decision import Decision
    from autoscale.model import Fleet
    from autoscale.rules import Rules
    from autoscale.signals import Signals
    from autoscale.simulation.planner import Planner
    from autoscale.simulation.result import Result
    from autoscale.simulation.scenario import Scenario
    from autoscale.simulation.trace import RateTrace
    from lb.config import Config
    from lb.config_service import ServiceConfig

PLOT_SUFFIXES: Final = (".png", ".svg", ".pdf")
MAX: Final = 10
"""Replicas at most, without a configuration: the built-in shapes need seven at their peak."""
SNAPSHOT_S: Final = 1.5
"""What restoring a snapshot takes; no longer than a boot."""


def _seconds(_ctx: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """`20ms`, `1m30s` or seconds, as in the configuration."""
    from lb.config_types import parse_duration

    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = float(str(parse_duration(value)))
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
    if not math.isfinite(seconds) or seconds < 0:
        raise click.BadParameter(f"{value} is no duration")
    return seconds


def _plot_path(_ctx: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Refused before minutes of simulation, not after them."""
    if path is not None and path.suffix not in PLOT_SUFFIXES:
        raise click.BadParameter(f"{path} does not end in {', '.join(PLOT_SUFFIXES)}")
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}")
    return path


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, as far as it says what is played."""

    load: str
    seed: int
    speed: float
    scale: float
    boot_s: float
    standbys: int
    snapshot: bool
    least: int | None
    most: int | None
    target_cpu: float | None
    service_s: float
    servers: int
    objective_s: float | None
    config_path: Path | None
    service: str | None


@click.command()
@click.argument("load", metavar="TRACE|SHAPE")
@click.option("--compare", is_flag=True, help="Beside it, five autoscalers as published.")
@json_option
@click.option("--series", is_flag=True, help="With --json: every second's figures too.")
@click.option(
    "--plot", "plot_path", type=click.Path(dir_okay=False, path_type=Path), callback=_plot_path,
    metavar="FILE", help="Draw it: .png, .svg or .pdf.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True)
@click.option("--speed", type=float, default=1.0, help="Play the load so many times as fast.")
@click.option("--scale", type=float, default=1.0, help="So many times its requests.")
@click.option(
    "--boot", "boot_s", callback=_seconds, default="10s", show_default=True,
    metavar="DURATION",
    help="From a launch to serving.",
)  # fmt: skip
@click.option(
    "--standby", "standbys", type=click.IntRange(0, 1000), default=1, show_default=True,
    help="Machines kept booted and suspended.",
)  # fmt: skip
@click.option("--snapshot/--no-snapshot", default=True, help="Whether one can be restored.")
@click.option("--min", "least", type=int, metavar="N", help="Fewest replicas. [default: 1]")
@click.option("--max", "most", type=int, metavar="N", help=f"Most replicas. [default: {MAX}]")
@click.option("--target-cpu", type=float, metavar="X", help="0 to 1. [default: 0.6]")
@click.option(
    "--service-time", "service_s", callback=_seconds, default="100ms", show_default=True,
    metavar="DURATION",
    help="What a request takes on a replica, on average.",
)  # fmt: skip
@click.option(
    "--servers", type=click.IntRange(1, 1000), default=1, show_default=True,
    help="Requests that a replica works on at once.",
)  # fmt: skip
@click.option(
    "--objective", "objective_s", callback=_seconds, metavar="DURATION",
    help="What p99 should stay below. [default: latency_p99 of the configuration, else 1s]",
)  # fmt: skip
@config_option
@click.option("--service", help="Whose [scale] of the configuration, where several have VMs.")
@pass_settings
def simulate(
    settings: Settings,
    /,
    *,
    compare: bool,
    as_json: bool,
    series: bool,
    plot_path: Path | None,
    **options: Any,
) -> None:
    """Play a load against the planner, on machines that are only computed.

    TRACE is a CSV file with the header seconds,requests_per_second; SHAPE one of step, ramp, spike,
    flash-crowd, sine, diurnal, sawtooth, square, noise. The rules are those of -c, else the
    defaults. Beside the planner with standbys and snapshots stands the same with cold boots only:
    the figures to compare with others, which know nothing else.
    """
    if series and not as_json:
        raise WrongUsageError("--series is for --json")
    chosen = Options(**options)
    scenario, rules = _setting(settings, chosen)
    results = _play(scenario, rules, compare=compare)
    if plot_path is not None:
        from lb.commands.simulation_plot import draw

        try:
            draw(results, plot_path)
        except OSError as error:
            raise WrongUsageError(f"{plot_path}: {error.strerror}") from error
    if as_json:
        click.echo(json.dumps(_document(scenario, results, series=series), indent=1))
        return
    _print(scenario, results)
    if plot_path is not None:
        click.echo(f"drawn: {plot_path}")


# ── what is played ───────────────────────────────────────────────────────────────────────────────


def _setting(settings: Settings, options: Options) -> tuple[Scenario, Rules]:
    """The scenario and the rules. Whatever is wrong with them is the command line's fault."""
    from autoscale.compare import settled
    from autoscale.simulation.scenario import Scenario, ScenarioError, Timing
    from autoscale.simulation.trace import TraceError
    from lb.config import ConfigError
    from lb.scale_rules import rules_of

    config = settings.config(options.config_path) if options.config_path else None
    try:
        trace = _trace(options)
        service = _service(config, options)
        rules = rules_of(service.scale, service.max_in_flight)
        scenario = Scenario(
            name=options.load if options.load in _shapes() else Path(options.load).name,
            rate=trace,
            service_s=options.service_s,
            servers=options.servers,
            min_replicas=rules.min,
            max_replicas=rules.max,
            initial_replicas=settled(trace.rates[0], options.service_s, options.servers, rules),
            max_in_flight=service.max_in_flight,
            objective_p99_s=options.objective_s or rules.latency_p99_s or 1.0,
            queue_length=service.queue.length,
            max_wait_s=service.queue.max_wait,
            timing=Timing(
                snapshot_s=min(SNAPSHOT_S, options.boot_s),
                standby_s=min(Timing().standby_s, options.boot_s),
                cold_s=options.boot_s,
            ),
            interval_s=rules.interval_s,
            standbys=options.standbys,
            snapshot=options.snapshot,
            seed=options.seed,
        )
    except (TraceError, ScenarioError, ConfigError) as error:
        raise WrongUsageError(str(error)) from error
    return scenario, rules


def _shapes() -> Sequence[str]:
    from autoscale.simulation.shapes import SHAPES

    return tuple(SHAPES)


def _trace(options: Options) -> RateTrace:
    from autoscale.simulation.shapes import SHAPES
    from autoscale.simulation.trace import TraceError, read_trace

    if options.load in SHAPES:
        return SHAPES[options.load]().scaled(options.speed, options.scale)
    path = Path(options.load)
    if not path.exists():
        raise TraceError(f"{options.load} is neither a file nor a shape: {', '.join(SHAPES)}")
    try:
        return read_trace(path, options.speed, options.scale)
    except TraceError as error:
        told = str(error)
        raise TraceError(told if options.load in told else f"{options.load}: {told}") from error


def _service(config: Config | None, options: Options) -> ServiceConfig:
    """The service of the configuration, with what the command line says instead."""
    from lb.config import parse_config

    if config is None and options.service is not None:
        raise WrongUsageError("--service needs -c, whose services it chooses from")
    name = "web"
    values: dict[str, Any] = {"vm": {}, "scale": {"max": MAX}}
    if config is not None:
        growing = {n: s for n, s in config.service.items() if s.vm is not None}
        name = _chosen(growing, options.service)
        keys = {"vm", "scale", "max_in_flight", "queue"}
        values = growing[name].model_dump(mode="json", exclude_none=True, include=keys)
    told = {"min": options.least, "max": options.most, "target_cpu": options.target_cpu}
    values["scale"] |= {key: value for key, value in told.items() if value is not None}
    return parse_config({"service": {name: values}}).service[name]


def _chosen(growing: dict[str, ServiceConfig], wanted: str | None) -> str:
    names = ", ".join(growing) or "none"
    if wanted is None:
        if len(growing) == 1:
            return next(iter(growing))
        raise WrongUsageError(f"which service? --service NAME; those with VMs: {names}")
    if wanted not in growing:
        raise WrongUsageError(f"no service {wanted} with VMs in the configuration: {names}")
    return wanted


# ── playing ──────────────────────────────────────────────────────────────────────────────────────


def _play(scenario: Scenario, rules: Rules, *, compare: bool) -> list[Result]:
    from autoscale.compare import ours, rivals
    from autoscale.simulate import simulate as play

    entries = ours(scenario, rules)
    if compare:
        entries += rivals(scenario, rules)
    with _progress(entries) as watched:
        return [play(entry.scenario, planner) for entry, planner in watched]


class _Watched:
    """A planner that tells how far its simulation is: at most ten times a second."""

    def __init__(self, planner: Planner, told: Callable[[float], None]) -> None:
        self.name = planner.name
        self._planner, self._told = planner, told
        self._next = 0.0

    def start(self, replicas: int) -> None:
        self._planner.start(replicas)

    def plan(self, signals: Signals, fleet: Fleet, now: float) -> int | Decision:
        at = time.monotonic()
        if at >= self._next:
            self._next = at + 0.1
            self._told(now)
        return self._planner.plan(signals, fleet, now)


@contextlib.contextmanager
def _progress(entries: Sequence[Entry]) -> Iterator[Iterator[tuple[Entry, Planner]]]:
    """The entries one after the other, with a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield ((entry, entry.planner) for entry in entries)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        whole = sum(entry.scenario.duration_s for entry in entries)
        task = bar.add_task("starting", total=whole)

        def each() -> Iterator[tuple[Entry, Planner]]:
            done = 0.0
            for entry in entries:
                bar.update(task, description=entry.name, completed=done)
                yield entry, _Watched(entry.planner, partial(_advance, bar, task, done))
                done += entry.scenario.duration_s

        yield each()


def _advance(bar: Progress, task: TaskID, before: float, now: float) -> None:
    bar.update(task, completed=before + now)


# ── saying ───────────────────────────────────────────────────────────────────────────────────────


def _standings(results: Sequence[Result]) -> list[Standing]:
    from autoscale.compare import standing

    return [standing(result.planner, [result.score]) for result in results]


def _print(scenario: Scenario, results: Sequence[Result]) -> None:
    from autoscale.compare import MEASURES, best, meaning

    standings = _standings(results)
    rows = [{"standing": found} for found in standings]

    def column(measure: Measure) -> Column:
        least = best(standings, measure)

        def cell(row: render.Row) -> str:
            found = row["standing"]
            mark = "*" if found.name in least else " "
            return measure.words(found) + mark

        return Column(f"{measure.title} ", cell, right=True)

    columns = (
        Column("planner", lambda row: row["standing"].name),
        *(column(measure) for measure in MEASURES),
    )
    click.echo(
        f"{scenario.name}: {render.span(scenario.duration_s)}, {scenario.rate.expected:,.0f}"
        f" requests, {scenario.rate.peak:,.1f}/s at most; one replica serves"
        f" {scenario.servers / scenario.service_s:,.1f}/s, boots in {scenario.timing.cold_s:g} s;"
        f" {scenario.min_replicas} to {scenario.max_replicas} replicas;"
        f" p99 should stay below {scenario.objective_p99_s:g} s"
    )
    render.listing(columns, rows, as_json=False, empty="")
    click.echo(meaning(standings, scenario.duration_s))


def _document(scenario: Scenario, results: Sequence[Result], *, series: bool) -> dict[str, Any]:
    from autoscale.compare import meaning

    return {
        "load": scenario.name,
        "seconds": scenario.duration_s,
        "requests_expected": scenario.rate.expected,
        "objective_p99_s": scenario.objective_p99_s,
        "seed": scenario.seed,
        "results": [result.as_dict(series=series) for result in results],
        "meaning": meaning(_standings(results), scenario.duration_s),
    }
