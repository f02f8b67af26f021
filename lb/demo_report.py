"""A Story → a folder: one HTML page that needs nothing else, and its plots as PNG.

Draws what `demo_story` holds and adds no judgement of its own. No I/O but writing that folder.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lb.demo_story import Check, Story, activation_s, cpu_views
from loadtest.result import PhaseResult

COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea")
EVENT_COLOURS = {"scale.up": "#dc2626", "vm.ready": "#059669", "scale.down": "#7c3aed"}
EVENT_WORDS = {
    "scale.up": "one more is wanted",
    "vm.ready": "it serves",
    "scale.down": "one fewer is wanted",
}
ACT_WORDS = {
    "low": "low",
    "high": "high, one replica",
    "relief": "queue drains",
    "after": "high, two replicas",
    "calm": "low again",
}


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
            activation=activation_s(story.moments),
            made=time.strftime("%Y-%m-%d %H:%M"),
        ),
        encoding="utf-8",
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
        row("p50", lambda p: _seconds(p.latency_s.p50)),
        row("p99", lambda p: _seconds(p.latency_s.p99)),
        ("CPU of a serving replica, host's view", *(cpu(a) for a in acts)),  # type: ignore[list-item]
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
    for number, vm in enumerate(_vms(story)):
        colour = COLOURS[number % len(COLOURS)]
        for view, style, words in (("host_cores", "-", "host"), ("guest_cores", "--", "guest")):
            line = [
                (p.t, getattr(p.vms[vm], view))
                for p in story.points
                if vm in p.vms and getattr(p.vms[vm], view) is not None
            ]
            if line:
                axes.plot(
                    *zip(*line, strict=True), style, color=colour, lw=1.4, label=f"{vm}, {words}"
                )
    setting = story.setting
    if setting is not None:
        axes.axhline(setting.limit_cores, color="#6b7280", lw=0.8, ls=":")
        axes.annotate("limit", (1.0, setting.limit_cores), xycoords=("axes fraction", "data"),
                      fontsize=7, color="#6b7280", va="bottom", ha="right")  # fmt: skip
    axes.set_ylabel("cores")
    axes.legend(fontsize=7, ncols=2, loc="upper left")


def _replicas(axes: Axes, story: Story) -> None:
    t = [p.t for p in story.points]
    axes.step(t, [p.desired for p in story.points], where="post", color="#9ca3af", label="desired")
    axes.step(t, [p.ready for p in story.points], where="post", color=COLOURS[0], label="ready")
    axes.step(t, [p.booting for p in story.points], where="post", color=COLOURS[1], label="booting")
    axes.set_ylabel("replicas")
    axes.set_yticks(range(max((p.desired for p in story.points), default=1) + 2))
    axes.legend(fontsize=7, loc="upper left")


def _rate(axes: Axes, story: Story) -> None:
    if story.result is None:
        return
    t = [s.t for s in story.result.series]
    for word, colour in (("sent", "#9ca3af"), ("completed", COLOURS[0])):
        rates = [getattr(s, word) / (s.span or 1.0) for s in story.result.series]
        axes.plot(t, rates, color=colour, lw=1.2, label=word)
    if story.setting is not None:
        axes.axhline(story.setting.capacity_rps, color="#6b7280", lw=0.8, ls=":")
        axes.annotate("what one replica can serve", (1.0, story.setting.capacity_rps),
                      xycoords=("axes fraction", "data"), fontsize=7, color="#6b7280",
                      va="bottom", ha="right")  # fmt: skip
    axes.set_ylabel("requests/s")
    axes.legend(fontsize=7, loc="upper left")


def _latency(axes: Axes, story: Story) -> None:
    if story.result is None:
        return
    for word, colour in (("p50_s", COLOURS[0]), ("p99_s", COLOURS[1])):
        line = [(s.t, getattr(s, word)) for s in story.result.series if getattr(s, word)]
        if line:
            axes.plot(*zip(*line, strict=True), color=colour, lw=1.2, label=word[:3])
    axes.set_yscale("log")
    axes.set_ylabel("seconds")
    axes.legend(fontsize=7, loc="upper left")


def _errors(axes: Axes, story: Story) -> None:
    if story.result is None:
        return
    t = [s.t for s in story.result.series]
    axes.bar(t, [s.errors + s.dropped for s in story.result.series], color="#dc2626", width=0.9)
    axes.set_ylabel("failed/s")
    top = max((s.errors + s.dropped for s in story.result.series), default=0)
    axes.set_ylim(0, max(1, top))


PLOTS: tuple[tuple[str, str, Callable[[Axes, Story], None]], ...] = (
    ("cpu", "CPU of each VM, as the host and as the guest sees it", _cpu),
    ("replicas", "Replicas", _replicas),
    ("rate", "Request rate", _rate),
    ("latency", "Latency from the intended time, p50 and p99", _latency),
    ("errors", "Failed requests", _errors),
)


def _vms(story: Story) -> list[str]:
    """In the order they appeared."""
    return list(dict.fromkeys(name for point in story.points for name in point.vms))


def _frame(axes: Axes, story: Story, *, words: bool) -> None:
    """The common time axis, the acts as shades, the scale events as vertical lines."""
    for number, act in enumerate(story.starts):
        window = story.window(act)
        if window is None:
            continue
        if number % 2:
            axes.axvspan(*window, color="#f3f4f6", zorder=0)
        if words:
            axes.annotate(ACT_WORDS.get(act, act), (sum(window) / 2, 1.0), (0, 3),
                          xycoords=("data", "axes fraction"), textcoords="offset points",
                          fontsize=7, ha="center", va="bottom", color="#374151")  # fmt: skip
    for moment in story.moments:
        if moment.kind in EVENT_COLOURS and moment.t >= 0:
            axes.axvline(moment.t, color=EVENT_COLOURS[moment.kind], lw=1.0, alpha=0.9)
    axes.set_xlim(0, max((p.t for p in story.points), default=1.0))
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _save(story: Story, draw: Callable[[Axes, Story], None], path: Path) -> None:
    figure = Figure(figsize=(10, 2.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    draw(axes, story)
    _frame(axes, story, words=True)
    axes.set_xlabel("seconds since the load began")
    figure.savefig(path)


def _save_overview(story: Story, path: Path) -> None:
    """All plots under one another on one time axis: the picture that tells the story."""
    figure = Figure(figsize=(10, 11), dpi=110, layout="constrained")
    rows = figure.subplots(len(PLOTS), 1, sharex=True, height_ratios=[2.2, 1, 1.5, 1.8, 0.7])
    for number, (axes, (_, title, draw)) in enumerate(zip(rows, PLOTS, strict=True)):
        draw(axes, story)
        _frame(axes, story, words=number == 0)
        axes.set_title(title, fontsize=9, loc="left", pad=14 if number == 0 else 4)
    rows[-1].set_xlabel("seconds since the load began")
    handles: list[Any] = [
        Line2D([], [], color=colour, label=EVENT_WORDS[kind])
        for kind, colour in EVENT_COLOURS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path)


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
