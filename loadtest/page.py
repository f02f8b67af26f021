"""Results as one HTML page that needs nothing else: figures in tables, curves as inline SVG.

Draws what a `Result` holds and judges nothing. No I/O.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from loadtest.report import COUNTED, compared, duration
from loadtest.result import Result
from loadtest.stats import Tally, upper_us

_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2")
_LEAST_SPAN_S = 0.2
_GREY, _FAINT = "#6b7280", "#c4c9d1"
Named = Sequence[tuple[str, Result]]


def to_html(named: Named) -> str:
    """One run in full, or several: compared with the first, then each in full."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loadtest", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    return environment.get_template("report.html").render(
        runs=[
            {
                "name": name,
                "result": result,
                "figures": [(title, show(figure(result))) for title, figure, show in COUNTED],
                "plots": [(title, _svg(draw, result)) for title, draw in _PLOTS],
            }
            for name, result in named
        ],
        comparison=compared(named) if len(named) > 1 else None,
        percentiles=_svg(_percentiles, named),
    )


def _svg(draw: Callable[[Axes, Any], None], what: Any) -> str:
    # Text stays text: smaller, and it can be searched. No metadata: no foreign addresses.
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "1"}):
        figure = Figure(figsize=(9.5, 2.6))
        axes = figure.subplots()
        # The same for all, so that the same second is at the same place.
        figure.subplots_adjust(left=0.08, right=0.84, bottom=0.18, top=0.95)
        draw(axes, what)
        axes.grid(color="#e5e7eb", lw=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8, color=_GREY)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            # Files have long names, and those curves leave a corner free.
            if draw is _percentiles:
                axes.legend(fontsize=8, frameon=False, loc="lower right")
            else:
                axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        out = io.StringIO()
        figure.savefig(
            out,
            format="svg",
            metadata={"Creator": None, "Date": None, "Format": None, "Type": None},
        )
    text = out.getvalue()
    return text[text.index("<svg") :]


def _rates(axes: Axes, result: Result) -> None:
    # What is left after the last whole second is too short for a rate.
    rows = [row for row in result.series if row.span > _LEAST_SPAN_S] or result.series
    t = [row.t for row in rows]
    shown = (("intended", _FAINT, 4.0), ("sent", _COLOURS[1], 1.6), ("completed", _COLOURS[0], 1.2))
    for name, colour, width in shown:
        values = [getattr(row, name) / (row.span or 1.0) for row in rows]
        axes.plot(t, values, color=colour, lw=width, label=name)
    _shifts(axes, result)
    axes.set_ylabel("requests/s", fontsize=9)
    axes.set_ylim(0, 1.1 * max(axes.get_ylim()[1], 0.1))


def _latencies(axes: Axes, result: Result) -> None:
    t = [row.t for row in result.series]
    names = ("p50_s", "p90_s", "p99_s", "p99_9_s")
    for name, colour in zip(names, _COLOURS, strict=False):
        # A gap where nobody had a figure; zero has no place on this axis.
        values = [getattr(row, name) or math.nan for row in result.series]
        if not all(math.isnan(value) for value in values):
            words = name.removesuffix("_s").replace("_", ".")
            axes.plot(t, values, color=colour, lw=1.2, marker=".", ms=2.5, label=words)
    _shifts(axes, result)
    _seconds(axes)


def _errors(axes: Axes, result: Result) -> None:
    bottom = [0.0] * len(result.series)
    kinds = [*result.errors, *(f"dropped: {reason}" for reason in result.dropped)]
    for number, kind in enumerate(kinds):
        values = [
            row.dropped if kind.startswith("dropped: ") else row.error_kinds.get(kind, 0)
            for row in result.series
        ]
        colour = _COLOURS[(number + 4) % len(_COLOURS)]
        t = [row.t for row in result.series]
        axes.bar(t, values, bottom=bottom, width=1.0, align="edge", color=colour, label=kind)
        bottom = [a + b for a, b in zip(bottom, values, strict=True)]
    axes.set_ylabel("a second", fontsize=9)
    axes.set_ylim(0, max(1.0, *bottom) if bottom else 1.0)
    if not kinds:
        axes.annotate("none", (0.5, 0.5), xycoords="axes fraction", color=_GREY, ha="center")


def _percentiles(axes: Axes, named: Named) -> None:
    """Latency against 1/(1 − share): each step to the right is a digit more of nines."""
    for (name, result), colour in zip(named, _COLOURS * len(named), strict=False):
        counts = Tally.decode(result.histograms.latency_us).counts
        whole = sum(counts.values())
        seen = 0
        x, y = [], []
        for bucket in sorted(counts):
            seen += counts[bucket]
            # The last has nothing above it: half a request stands for that.
            x.append(whole / max(whole - seen, 0.5))
            y.append(max(upper_us(bucket), 1) / 1e6)
        axes.step(x, y, where="pre", color=colour, lw=1.3, label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _share(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("percentile", fontsize=9)
    _seconds(axes)


_PLOTS: tuple[tuple[str, Callable[[Axes, Any], None]], ...] = (
    ("Rate", _rates),
    ("Latency from the intended time", _latencies),
    ("Errors and drops", _errors),
)


def _shifts(axes: Axes, result: Result) -> None:
    for shift in result.shifts[1:]:
        axes.axvline(shift.t, color=_GREY, lw=0.8, ls=":")
    axes.set_xlabel("seconds since the start", fontsize=9)


def _seconds(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _share(odds: float) -> str:
    return f"{100 * (1 - 1 / odds):.10g} %" if odds >= 1 else ""
