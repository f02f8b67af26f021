"""A Story → a folder: one HTML page that needs nothing else, and its plots as PNG.

Draws what `demo_story` holds and adds no judgement of its own. No I/O but writing that folder.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from lb.demo_encore import KILLED
from lb.demo_encore import rows as encore_of
from lb.demo_story import Check, Point, Story, activation_s, cpu_views, noticed_s
from loadtest.result import PhaseResult

COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea")
GREY, FAINT, SHADE = "#6b7280", "#c4c9d1", "#f3f4f6"
EVENT_COLOURS = {
    "scale.up": "#dc2626",
    "vm.ready": "#059669",
    "scale.down": "#7c3aed",
    "vm.gone": "#374151",
    KILLED: "#000000",
}
EVENT_WORDS = {
    "scale.up": "one more is wanted",
    "vm.ready": "it serves",
    "scale.down": "one fewer is wanted",
    "vm.gone": "it is gone",
    KILLED: "killed",
}
ACT_WORDS = {
    "low": "low",
    "high": "high, one replica",
    "relief": "queue drains",
    "after": "high, two replicas",
    "calm": "low again",
    "spike": "spike",
    "settle": "low",
    "prepare": "a reserve is made",
    "again": "high again",
    "failure": "a machine is killed",
    "rest": "low",
}
DPI = 130
WIDTH_IN = 10.0
LABEL_PT = 7.5


def write(story: Story, checks: Sequence[Check], out: Path) -> Path:
    """Write `report.html`, `story.json` and the plots. Returns the page's path."""
    (out / "story.json").write_text(story.to_json(), encoding="utf-8")
    pictures = []
    if story.points:
        for name, title, draw in PLOTS:
            path = out / f"{name}.png"
            _save(story, draw, path)
            pictures.append({"title": title, "data": _inline(path)})
        _save_overview(story, out / "overview.png")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lb", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    overview = _inline(out / "overview.png") if story.points else ""
    page = out / "report.html"
    page.write_text(
        environment.get_template("report.html").render(
            story=story,
            setting=story.setting,
            checks=checks,
            happened=all(check.ok for check in checks),
            overview=overview,
            pictures=pictures,
            table=before_after(story),
            moments=[m for m in story.moments if not m.kind.startswith("backend.")],
            why_host_is_higher=why_host_is_higher(story),
            noticed=noticed_s(story),
            activation=activation_s([m for m in story.moments if m.t >= 0]),
            encore=encore_rows(story),
            event_colours=EVENT_COLOURS,
            clock=_clock_words(story),
            made=time.strftime("%Y-%m-%d %H:%M"),
        ),
        encoding="utf-8",
        errors="replace",  # a message may carry bytes that were no text to begin with
    )
    return page


def before_after(story: Story) -> list[tuple[str, str, str, str, str]]:
    """Rows of: what, low, high on one replica, high on two, low again."""
    phases = [story.phase(name) for name in ("low", "high", "after", "calm")]

    def row(what: str, cell: Callable[[PhaseResult], str]) -> tuple[str, str, str, str, str]:
        cells = [cell(p) if p is not None and p.counts.intended else "–" for p in phases]
        return (what, *cells)  # type: ignore[return-value]

    def replicas(name: str) -> str:
        found = [p.ready for p in story.during(name)]
        return str(max(found)) if found else "–"

    def cpu(name: str) -> str:
        views = cpu_views(story, name)
        if views is None or story.setting is None:
            return "–"
        limit = story.setting.limit_cores
        return f"{views.host:.2f} of {limit:g} cores ({views.host / limit:.0%})"

    acts = ("low", "high", "after", "calm")
    return [
        ("replicas serving (at most)", *(replicas(a) for a in acts)),  # type: ignore[list-item]
        row("requests/s sent", lambda p: f"{p.counts.sent / max(p.end - p.start, 0.001):.1f}"),
        row("requests", lambda p: f"{p.counts.intended}"),
        row("failed", lambda p: f"{p.counts.errors + p.counts.dropped + p.counts.unfinished}"),
        row("p50", lambda p: _seconds(p.latency_s.p50) if p.latency_s.count else "–"),
        row("p99", lambda p: _seconds(p.latency_s.p99) if p.latency_s.count else "–"),
        ("CPU of a serving replica, host's view", *(cpu(a) for a in acts)),  # type: ignore[list-item]
    ]


def encore_rows(story: Story) -> list[tuple[str, str, str, str, str]]:
    """Of each act of the second half: its name, replicas, requests, failed, p99."""
    return [
        (
            ACT_WORDS[row.act],
            str(row.replicas),
            str(row.requests),
            str(row.failed),
            "–" if row.p99_s is None else _seconds(row.p99_s),
        )
        for row in encore_of(story)
    ]


def why_host_is_higher(story: Story) -> str:
    """Two sentences with the measured overhead, from the low load: there the CPU limit hardly
    throttles, and a throttled guest takes the time it was held for its own busy time."""
    views, setting = cpu_views(story, "low"), story.setting
    if views is None or setting is None:
        return "The guests' own view was not measured in this run."
    emulated = setting.domain_type == "qemu"
    share = views.overhead / views.host if views.host > 0 else 0.0
    work = "translates every guest instruction and " if emulated else ""
    return (
        f"The host counts everything QEMU does for a guest, also what no guest can see: its main"
        f" loop, the emulated disk and network, timers. Under low load a replica cost the host"
        f" {views.host:.3f} cores, of which {views.vcpu:.3f} were its virtual CPU (QEMU {work}runs"
        f" it there) and {views.overhead:.3f} ({share:.0%}) QEMU's own overhead, while the guest"
        f" itself counted {views.guest:.3f} cores busy."
    )


# --- plots


def _cpu(axes: Axes, story: Story) -> None:
    points = _shown(story)
    for number, vm in enumerate(_vms(story)):
        colour = COLOURS[number % len(COLOURS)]
        for view, words in (("host_cores", "host"), ("guest_cores", "guest")):
            # A gap where nobody had a figure: a line across it would be an invention.
            line = [_figure(getattr(p.vms.get(vm), view, None)) for p in points]
            if all(math.isnan(value) for value in line):
                continue
            style = {"lw": 1.5} if words == "host" else {"lw": 1.1, "ls": "--", "alpha": 0.8}
            label = f"{vm}, {words}"
            axes.plot(
                [p.t for p in points], line, **_dots(line), **style, color=colour, label=label
            )
    setting = story.setting
    if setting is not None:
        axes.axhline(setting.limit_cores, color=GREY, lw=1.0, ls=":", label="limit of each")
    axes.set_ylabel("cores")
    axes.set_ylim(bottom=0)


def _replicas(axes: Axes, story: Story) -> None:
    points = _shown(story)
    t = [p.t for p in points]
    for words, colour, width in (
        ("desired", FAINT, 4.5),
        ("booting", COLOURS[1], 1.5),
        ("ready", COLOURS[0], 1.5),
    ):
        line = [getattr(p, words) for p in points]
        axes.step(t, line, where="post", color=colour, lw=width, label=words)
    axes.set_ylabel("replicas")
    axes.set_ylim(-0.15, max((max(p.desired, p.ready) for p in points), default=1) + 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _rate(axes: Axes, story: Story) -> None:
    axes.set_ylabel("requests/s")
    if not _measured(axes, story):
        return
    assert story.result is not None  # noqa: S101
    t = [s.t for s in story.result.series]
    for word, colour, width in (("sent", FAINT, 3.0), ("completed", COLOURS[0], 1.3)):
        rates = [getattr(s, word) / (s.span or 1.0) for s in story.result.series]
        axes.plot(t, rates, color=colour, lw=width, label=word)
    if story.setting is not None:
        axes.axhline(
            story.setting.capacity_rps, color=GREY, lw=1.0, ls=":", label="what one can serve"
        )
    axes.set_ylim(bottom=0)


def _latency(axes: Axes, story: Story) -> None:
    axes.set_ylabel("latency")
    if not _measured(axes, story):
        return
    assert story.result is not None  # noqa: S101
    t = [s.t for s in story.result.series]
    for word, colour in (("p50_s", COLOURS[0]), ("p99_s", COLOURS[1])):
        line = [_figure(getattr(s, word) or None) for s in story.result.series]
        if not all(math.isnan(value) for value in line):
            axes.plot(t, line, **_dots(line), color=colour, lw=1.3, label=word[:3])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _errors(axes: Axes, story: Story) -> None:
    axes.set_ylabel("failed/s")
    if not _measured(axes, story):
        return
    assert story.result is not None  # noqa: S101
    failed = [s.errors + s.dropped for s in story.result.series]
    axes.bar([s.t for s in story.result.series], failed, color="#dc2626", width=1.0, align="edge")
    axes.set_ylim(0, max(1, *failed) if failed else 1)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    if not any(failed):
        _note(axes, "none")


PLOTS: tuple[tuple[str, str, Callable[[Axes, Story], None]], ...] = (
    ("cpu", "CPU of each VM, as the host and as the guest sees it", _cpu),
    ("replicas", "Replicas", _replicas),
    ("rate", "Request rate", _rate),
    ("latency", "Latency from the intended time, p50 and p99", _latency),
    ("errors", "Failed requests", _errors),
)


def _shown(story: Story) -> list[Point]:
    """What came before the load is off the axis, and must not stretch the other one."""
    return [p for p in story.points if p.t >= 0]


def _vms(story: Story) -> list[str]:
    """In the order they appeared."""
    return list(dict.fromkeys(name for point in story.points for name in point.vms))


def _figure(value: float | None) -> float:
    return math.nan if value is None else value


def _dots(line: list[float]) -> dict[str, Any]:
    """Markers for figures alone between two gaps: they have no line to be seen by."""
    padded = [math.nan, *line, math.nan]
    alone = [
        n
        for n, (before, here, after) in enumerate(zip(padded, line, padded[2:], strict=False))
        if math.isnan(before) and math.isnan(after) and not math.isnan(here)
    ]
    return {"marker": ".", "ms": 4.0, "markevery": alone} if alone else {}


def _measured(axes: Axes, story: Story) -> bool:
    """Where nothing was, the plot says so instead of showing an empty axis."""
    if story.result is not None and story.result.series:
        return True
    axes.set_yticks([])
    _note(axes, "not measured: the load test has no result")
    return False


def _note(axes: Axes, text: str) -> None:
    axes.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center",
                  fontsize=9, color=GREY, bbox={"fc": "white", "ec": "none", "pad": 4})  # fmt: skip


def _tick(seconds: float) -> str:
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"


def _clock_words(story: Story) -> str:
    """What t = 0 is."""
    return "seconds since the load began" if story.starts else "seconds since the demo began"


def _end(story: Story) -> float:
    """Of the time axis; never 0, which would be no axis."""
    return max((p.t for p in story.points if p.t > 0), default=1.0)


def _frame(axes: Axes, story: Story, *, words: bool) -> float:
    """The common time axis, the acts as shades, the scale events as vertical lines. Returns the
    height of the acts' names above the axes, in points."""
    acts = [(act, window) for act in story.starts if (window := story.window(act)) is not None]
    for number, (_, window) in enumerate(acts):
        if number % 2:
            axes.axvspan(*window, color=SHADE, lw=0, zorder=0)
    rows = _name_acts(axes, acts, _end(story)) if words else 0
    for moment in story.moments:
        if moment.kind in EVENT_COLOURS and moment.t >= 0:
            axes.axvline(moment.t, color=EVENT_COLOURS[moment.kind], lw=1.1, alpha=0.8, zorder=1)
    axes.set_xlim(0, _end(story))
    axes.grid(color="#e5e7eb", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color=GREY)
    axes.yaxis.label.set_fontsize(9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    if axes.get_legend_handles_labels()[0]:
        # beside the axes, where it can cover nothing
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.005, 1.0), frameon=False,
                    borderaxespad=0.0, handlelength=1.8)  # fmt: skip
    return rows * (LABEL_PT + 2.0)


def _name_acts(axes: Axes, acts: Sequence[tuple[str, tuple[float, float]]], end: float) -> int:
    """The acts' names above the axes, each in the lowest row where it meets no other. Returns
    how many rows that took."""
    per_point = end / (0.8 * WIDTH_IN * 72)  # the axes take about 0.8 of the width
    rows: list[float] = []
    for act, window in acts:
        text = ACT_WORDS.get(act, act)
        half = 0.3 * LABEL_PT * len(text) * per_point
        middle = min(max((window[0] + min(window[1], end)) / 2, half), max(end - half, half))
        row = next((n for n, taken in enumerate(rows) if taken < middle - half), len(rows))
        rows[row : row + 1] = [middle + half + LABEL_PT * per_point]
        axes.annotate(text, (middle, 1.0), (0, 3 + row * (LABEL_PT + 2)),
                      xycoords=("data", "axes fraction"), textcoords="offset points",
                      fontsize=LABEL_PT, ha="center", va="bottom", color="#374151",
                      annotation_clip=False)  # fmt: skip
    return len(rows)


def _explain_events(figure: Figure, story: Story) -> None:
    """A legend of the vertical lines that are there."""
    seen = {m.kind for m in story.moments if m.t >= 0}
    handles: list[Any] = [
        Line2D([], [], color=colour, lw=1.5, label=f"{kind}: {EVENT_WORDS[kind]}")
        for kind, colour in EVENT_COLOURS.items()
        if kind in seen
    ]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=len(handles),
            fontsize=8,
            frameon=False,
        )


def _save(story: Story, draw: Callable[[Axes, Story], None], path: Path) -> None:
    figure = Figure(figsize=(WIDTH_IN, 3.0), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    draw(axes, story)
    _frame(axes, story, words=True)
    axes.set_xlabel(_clock_words(story), fontsize=9)
    _explain_events(figure, story)
    figure.savefig(path)


def _save_overview(story: Story, path: Path) -> None:
    """All plots under one another on one time axis: the picture that tells the story."""
    figure = Figure(figsize=(WIDTH_IN, 11), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(hspace=0.03)  # type: ignore[union-attr,call-arg]
    rows = figure.subplots(len(PLOTS), 1, sharex=True, height_ratios=[2.2, 1, 1.5, 1.8, 0.7])
    for number, (axes, (_, title, draw)) in enumerate(zip(rows, PLOTS, strict=True)):
        draw(axes, story)
        above = _frame(axes, story, words=number == 0)
        axes.set_title(title, fontsize=9.5, fontweight="bold", loc="left", pad=6 + 1.3 * above)
    figure.align_ylabels(rows)
    rows[-1].set_xlabel(_clock_words(story), fontsize=9)
    _explain_events(figure, story)
    figure.savefig(path)


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
