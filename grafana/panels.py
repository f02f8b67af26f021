"""Panels of Grafana's classic JSON: each a function that says what a reader needs, and no more.

Every panel has a title, a description, a unit and the dashboard's own data source; what is the same
in all of them stands here once. Where a panel stands is the board's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]

DATASOURCE: Final[Mapping[str, str]] = {"type": "prometheus", "uid": "${datasource}"}
LETTERS: Final = "ABCDEFGHIJKL"

GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"


@dataclass(frozen=True)
class Query:
    """One query of a panel. `instant`: one point, at the end of the dashboard's time."""

    expr: str
    legend: str = ""
    instant: bool = False
    format: str = "time_series"

    def target(self, letter: str) -> Json:
        return {
            "datasource": dict(DATASOURCE),
            "editorMode": "code",
            "expr": self.expr,
            "format": self.format,
            "instant": self.instant,
            "legendFormat": self.legend or "__auto",
            "range": not self.instant,
            "refId": letter,
        }


@dataclass(frozen=True)
class Panel:
    """A panel and its size; `width` of 24 columns, `height` in rows of 30 pixels."""

    json: Json
    width: int
    height: int


@dataclass(frozen=True)
class Row:
    """A heading over the panels that follow."""

    title: str


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 12,
    height: int = 8,
    stack: bool = False,
    steps: bool = False,
    log: bool = False,
    limits: Mapping[str, float] | None = None,
    dashed: Sequence[str] = (),
    top: float | None = None,
) -> Panel:
    """Curves over time. `steps`: the figure holds until the next one. `limits`: lines across, by
    colour. `dashed`: series whose name matches these patterns."""
    custom: Json = {
        "drawStyle": "line",
        "fillOpacity": 25 if stack else 8,
        "lineInterpolation": "stepAfter" if steps else "linear",
        "lineWidth": 1,
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stack else "none"},
    }
    if log:
        custom["scaleDistribution"] = {"log": 10, "type": "log"}
    defaults: Json = {"custom": custom, "unit": unit}
    if not log:
        defaults["min"] = 0
    if top is not None:
        custom["axisSoftMax"] = top
    if limits:
        custom["thresholdsStyle"] = {"mode": "dashed"}
        defaults["thresholds"] = thresholds(limits)
    overrides = [_dashes(pattern) for pattern in dashed]
    options = {
        "legend": {"calcs": ["mean", "max"], "displayMode": "table", "placement": "bottom",
                   "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }  # fmt: skip
    return _panel(
        "timeseries", title, description, defaults, options, queries, width, height, overrides
    )


def figure(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    limits: Mapping[str, float] | None = None,
    width: int = 4,
    height: int = 4,
    decimals: int | None = None,
    graph: bool = True,
) -> Panel:
    """Large numbers: the last of each query, coloured by `limits` (colour → from here on)."""
    defaults: Json = {"thresholds": thresholds({GREEN: 0.0, **(limits or {})}), "unit": unit}
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {
        "colorMode": "value" if limits else "none",
        "graphMode": "area" if graph else "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    }
    return _panel("stat", title, description, defaults, options, queries, width, height)


def bars(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    height: int = 8,
) -> Panel:
    """The last figure of each series as a bar."""
    defaults: Json = {"min": 0, "thresholds": thresholds({BLUE: 0.0}), "unit": unit}
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "valueMode": "color",
    }
    return _panel("bargauge", title, description, defaults, options, queries, width, height)


def states(
    title: str,
    description: str,
    words: Mapping[str, tuple[str, str]],
    *queries: Query,
    width: int = 12,
    height: int = 6,
) -> Panel:
    """What holds from when to when; `words`: value → (word, colour)."""
    mapped = {
        value: {"color": colour, "index": number, "text": word}
        for number, (value, (word, colour)) in enumerate(words.items())
    }
    defaults: Json = {
        "custom": {"fillOpacity": 70, "lineWidth": 0},
        "mappings": [{"options": mapped, "type": "value"}],
        "unit": "none",
    }
    options = {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.85,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return _panel("state-timeline", title, description, defaults, options, queries, width, height)


def table(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    hidden: Sequence[str] = (),
    named: Mapping[str, str] | None = None,
    width: int = 12,
    height: int = 8,
) -> Panel:
    """The labels and the last figure of each series; `named`: what a column is called instead."""
    defaults: Json = {"custom": {"align": "auto", "cellOptions": {"type": "auto"}}, "unit": unit}
    options = {"cellHeight": "sm", "showHeader": True}
    asked = [Query(q.expr, q.legend, instant=True, format="table") for q in queries]
    made = _panel("table", title, description, defaults, options, asked, width, height)
    arranged = {
        "excludeByName": dict.fromkeys(("Time", "job", "instance", *hidden), True),
        "indexByName": {},
        "renameByName": dict(named or {}),
    }
    steps = [{"id": "organize", "options": arranged}]
    if len(queries) > 1:
        steps.insert(0, {"id": "merge", "options": {}})
    made.json["transformations"] = steps
    return made


def heat(
    title: str, description: str, unit: str, query: Query, width: int = 12, height: int = 8
) -> Panel:
    """A histogram over time: the darker, the more."""
    asked = Query(query.expr, "{{le}}", format="heatmap")
    defaults: Json = {
        "custom": {"scaleDistribution": {"type": "linear"}},
        "unit": unit,
    }
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"exponent": 0.5, "fill": "dark-orange", "mode": "scheme", "reverse": False,
                  "scale": "exponential", "scheme": "Oranges", "steps": 64},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }  # fmt: skip
    return _panel("heatmap", title, description, defaults, options, [asked], width, height)


def thresholds(limits: Mapping[str, float]) -> Json:
    """Colours from a value on; whatever is below all of them has the first one's, or none."""
    steps = [{"color": colour, "value": value} for colour, value in limits.items()]
    lowest: Json = {"color": "transparent", "value": None}
    if steps[0]["value"] == 0:
        lowest = {**steps.pop(0), "value": None}
    return {"mode": "absolute", "steps": [lowest, *steps]}


def _dashes(pattern: str) -> Json:
    style = {"dash": [8, 6], "fill": "dash"}
    return {
        "matcher": {"id": "byRegexp", "options": pattern},
        "properties": [
            {"id": "custom.lineStyle", "value": style},
            {"id": "custom.fillOpacity", "value": 0},
        ],
    }


def _panel(
    kind: str,
    title: str,
    description: str,
    defaults: Json,
    options: Json,
    queries: Sequence[Query],
    width: int,
    height: int,
    overrides: Sequence[Json] = (),
) -> Panel:
    made = {
        "datasource": dict(DATASOURCE),
        "description": description,
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "options": options,
        "targets": [q.target(letter) for q, letter in zip(queries, LETTERS, strict=False)],
        "title": title,
        "type": kind,
    }
    return Panel(made, width, height)
