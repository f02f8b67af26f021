"""Draws simulations of one load: demand against capacity, replicas, p99, and where it was too slow.

Draws what the results hold and adds no judgement of its own. No I/O but writing that picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from autoscale.simulation.result import Floats, Result

COLOURS = ("#2563eb", "#0d9488", "#d97706", "#713f12", "#9333ea", "#db2777", "#6b7280")
GREY, FAINT, RED = "#6b7280", "#e5e7eb", "#dc2626"
WIDTH_IN = 11.0
DPI = 130
BINS = 900
"""Points along the time axis: about one a pixel. A day's 86,400 seconds would be a smear."""
ROW_IN = 0.22


def draw(results: Sequence[Result], path: Path) -> None:
    """Write the picture; the format follows from the suffix. The first result is drawn on top."""
    scenario = results[0].scenario
    strips_in = 0.35 + ROW_IN * len(results)
    heights = (1.7, 1.9, 1.9, strips_in)
    figure = Figure(figsize=(WIDTH_IN, sum(heights) + 1.4), dpi=DPI, layout="constrained")
    figure.suptitle(
        f"{scenario.name}: a replica serves {scenario.servers / scenario.service_s:g}/s and boots"
        f" in {scenario.timing.cold_s:g} s",
        fontsize=11, x=0.01, ha="left",
    )  # fmt: skip
    panels = figure.subplots(4, 1, sharex=True, height_ratios=heights)
    unit_s, unit = _unit(scenario.duration_s)
    at = _times(results[0]) / unit_s
    _demand(panels[0], at, results[0])
    _replicas(panels[1], at, results)
    _p99(panels[2], at, results)
    _strips(panels[3], at, results)
    for axes in panels:
        _frame(axes)
        axes.set_xlim(0, scenario.duration_s / unit_s)
    panels[-1].set_xlabel(unit, fontsize=9, color=GREY)
    figure.savefig(path)


def _demand(axes: Axes, at: Floats, first: Result) -> None:
    scenario, series = first.scenario, first.series
    offered = _mean(series.offered_per_s)
    capacity = _mean(series.ready * (scenario.servers / scenario.service_s))
    short = offered > capacity
    if short.any():
        axes.fill_between(
            at, offered, capacity, where=short.tolist(), step="mid", color=RED, alpha=0.45, lw=0,
            label="beyond it",
        )  # fmt: skip
    words = f"capacity, {first.planner}"
    axes.step(at, capacity, where="mid", color=COLOURS[0], lw=1.6, label=words)
    axes.fill_between(at, offered, step="mid", color=FAINT, label="offered", zorder=0.5)
    axes.step(at, offered, where="mid", color=GREY, lw=1.0)
    axes.set_ylabel("requests/s")
    axes.set_ylim(bottom=0)


def _replicas(axes: Axes, at: Floats, results: Sequence[Result]) -> None:
    for number, result in reversed(list(enumerate(results))):
        line = _mean(result.series.ready)
        axes.step(at, line, where="mid", label=result.planner, **_style(number))
    axes.set_ylabel("replicas")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _p99(axes: Axes, at: Floats, results: Sequence[Result]) -> None:
    objective_s = results[0].scenario.objective_p99_s
    for number, result in reversed(list(enumerate(results))):
        line = _highest(result.series.p99_s)
        style = _style(number) | {"lw": 1.3 if number == 0 else 0.9}
        axes.plot(at, line, label=result.planner, **style)
    axes.axhline(objective_s, color="black", lw=1.0, ls="--", label="objective")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("p99")


def _strips(axes: Axes, at: Floats, results: Sequence[Result]) -> None:
    """A row for each: red where p99 was over the objective, or a request was lost."""
    width = float(at[1] - at[0]) if len(at) > 1 else 1.0
    for row, result in enumerate(results):
        violated = _highest(result.series.violated) > 0
        axes.broken_barh(
            [(float(x) - width / 2, width) for x in at[violated]], (row - 0.4, 0.8), color=RED, lw=0
        )
        axes.annotate(
            f"{result.score.violating_seconds:,} s", (1.005, row), va="center", fontsize=8,
            xycoords=("axes fraction", "data"), color=GREY, annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(results)), [result.planner for result in results], fontsize=8)
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_title("over the objective, or lost", fontsize=9, color=GREY, loc="left")


def _style(number: int) -> dict[str, Any]:
    ours = number == 0
    return {
        "color": COLOURS[number % len(COLOURS)],
        "lw": 2.0 if ours else 1.1,
        "alpha": 1.0 if ours else 0.8,
    }


def _times(result: Result) -> Floats:
    """The middles of the bins, in seconds."""
    return _mean(np.arange(len(result.series.p99_s)) + 0.5)


def _mean(values: NDArray[Any]) -> Floats:
    means: Floats = np.nanmean(_bins(values), axis=1)
    return means


def _highest(values: NDArray[Any]) -> Floats:
    """NaN where a bin has no value."""
    bins = _bins(values)
    peaks = np.max(np.where(np.isnan(bins), -np.inf, bins), axis=1)
    return np.where(np.isneginf(peaks), np.nan, peaks)


def _bins(values: NDArray[Any]) -> Floats:
    """At most BINS rows of as many seconds; the last is filled up with NaN."""
    each = max(1, -(-len(values) // BINS))
    rows = np.full((-(-len(values) // each), each), np.nan)
    rows.reshape(-1)[: len(values)] = values
    return rows


def _unit(duration_s: float) -> tuple[float, str]:
    if duration_s <= 300:
        return 1.0, "seconds"
    return (60.0, "minutes") if duration_s <= 4 * 3600 else (3600.0, "hours")


def _tick(seconds: float) -> str:
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"


def _frame(axes: Axes) -> None:
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color=GREY)
    axes.yaxis.label.set_fontsize(9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        # beside the axes, where it can cover nothing; in the order of the results
        axes.legend(handles[::-1], labels[::-1], fontsize=8, loc="upper left", frameon=False,
                    bbox_to_anchor=(1.005, 1.0), borderaxespad=0.0, handlelength=1.6)  # fmt: skip
