"""A dashboard of Grafana's classic JSON: variables, annotations, and where each panel stands.

Owns what all dashboards share. Panels flow from left to right and wrap at 24 columns, so that one
more of them is one more line of code and no arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from grafana.panels import DATASOURCE, Json, Panel, Row
from grafana.promql import OF, of_service

SCHEMA_VERSION: Final = 42
COLUMNS: Final = 24
DATASOURCE_UID: Final = "lbctl-prometheus"
"""As grafana/provisioning/datasources has it."""
TAG: Final = "lbctl"
SCRAPED: Final = '{__name__=~"lb_inflight_requests|guest_cpu_seconds_total|loadtest_target_rate"}'
"""What tells our own jobs from whatever else a Prometheus scrapes."""


@dataclass(frozen=True)
class Choice:
    """A variable with values of its own, such as "1 min" for 60; `first` is chosen at first."""

    name: str
    label: str
    values: Sequence[tuple[str, str]]
    first: int = 0
    every: str | None = None
    """What "All" stands for, where that may be chosen; it then is, at first."""

    def json(self) -> Json:
        chosen = ("All", "$__all") if self.every else self.values[self.first]
        options = [
            {"selected": pair == chosen, "text": pair[0], "value": pair[1]} for pair in self.values
        ]
        if self.every:
            options.insert(0, {"selected": True, "text": "All", "value": "$__all"})
        told: Json = {} if self.every is None else {"allValue": self.every}
        return told | {
            "current": {"selected": True, "text": chosen[0], "value": chosen[1]},
            "hide": 0,
            "includeAll": self.every is not None,
            "label": self.label,
            "multi": False,
            "name": self.name,
            "options": options,
            "query": ",".join(f"{text} : {value}" for text, value in self.values),
            "skipUrlSync": False,
            "type": "custom",
        }


@dataclass(frozen=True)
class Board:
    """A dashboard; its file is named after `uid`."""

    uid: str
    title: str
    description: str
    parts: Sequence[Panel | Row]
    choices: Sequence[Choice] = ()
    time: str = "now-1h"

    def json(self) -> Json:
        return {
            "annotations": {"list": [_built_in(), _scale_events()]},
            "description": self.description,
            "editable": False,
            "fiscalYearStartMonth": 0,
            "graphTooltip": 1,
            "links": [_others()],
            "liveNow": False,
            "panels": list(placed(self.parts)),
            "refresh": "5s",
            "schemaVersion": SCHEMA_VERSION,
            "tags": [TAG],
            "templating": {"list": [*_variables(), *(choice.json() for choice in self.choices)]},
            "time": {"from": self.time, "to": "now"},
            "timepicker": {"refresh_intervals": ["5s", "15s", "1m", "5m"]},
            "timezone": "browser",
            "title": self.title,
            "uid": self.uid,
            "version": 1,
        }


def placed(parts: Sequence[Panel | Row]) -> Iterator[Json]:
    """Panels with their numbers and places."""
    x = y = tallest = 0
    for number, part in enumerate(parts, 1):
        width, height = (COLUMNS, 1) if isinstance(part, Row) else (part.width, part.height)
        if x + width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        place = {"h": height, "w": width, "x": x, "y": y}
        if isinstance(part, Row):
            yield {"collapsed": False, "gridPos": place, "id": number, "panels": [],
                   "title": part.title, "type": "row"}  # fmt: skip
        else:
            yield {**part.json, "gridPos": place, "id": number}
        x, tallest = x + width, max(tallest, height)


def _variables() -> Iterator[Json]:
    yield {
        "current": {"selected": True, "text": "Prometheus", "value": DATASOURCE_UID},
        "hide": 0,
        "includeAll": False,
        "label": "Data source",
        "multi": False,
        "name": "datasource",
        "options": [],
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
        "type": "datasource",
    }
    yield _label("job", "Job", SCRAPED)
    yield _label("instance", "Instance", f'{SCRAPED[:-1]},job=~"$job"}}')
    yield _label("service", "Service", f"lb_inflight_requests{{{OF}}}")
    yield _label("host", "Host", f"libvirt_up{{{OF}}}")


def _label(name: str, label: str, selector: str) -> Json:
    """All values that a label has, chosen together at first."""
    return {
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": dict(DATASOURCE),
        "hide": 0,
        "includeAll": True,
        "label": label,
        "multi": True,
        "name": name,
        "options": [],
        "query": {
            "qryType": 1,
            "query": f"label_values({selector}, {name})",
            "refId": "PrometheusVariableQueryEditor-VariableQuery",
        },
        "refresh": 2,
        "regex": "",
        "skipUrlSync": False,
        "sort": 1,
        "type": "query",
    }


def _built_in() -> Json:
    return {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }


def _scale_events() -> Json:
    """The figure is the time itself, so an event stands where it happened and not at a scrape."""
    events = of_service("autoscaler_last_scale_timestamp_seconds")
    return {
        "datasource": dict(DATASOURCE),
        "enable": True,
        "expr": f"max by (service, direction) ({events}) * 1000",
        "hide": False,
        "iconColor": "purple",
        "name": "Scale events",
        "step": "5s",
        "tagKeys": "service,direction",
        "textFormat": "{{service}}",
        "titleFormat": "scale {{direction}}",
        "useValueForTime": True,
    }


def _others() -> Json:
    return {
        "asDropdown": False,
        "icon": "external link",
        "includeVars": True,
        "keepTime": True,
        "tags": [TAG],
        "targetBlank": False,
        "title": "lbctl",
        "tooltip": "The other dashboards, with the same time and variables",
        "type": "dashboards",
        "url": "",
    }
