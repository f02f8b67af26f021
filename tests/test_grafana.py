"""The dashboards' files: current, read by Grafana's own types without loss, and by the rules of its
linter (https://github.com/grafana/dashboard-linter, docs/rules), in our words."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.__main__ import BOARDS as SOURCES
from grafana.__main__ import FOLDER, path, text
from grafana.board import DATASOURCE_UID, SCHEMA_VERSION, placed
from grafana.panels import Panel, Row
from guest.webapp import Webapp
from lb.metrics import Metrics
from tests.grafana_boards import BOARDS, FILES, ROOT, Asked, panels, queries
from tests.observed_history import load_tester
from tests.prometheus_server import VARIABLES

each = pytest.mark.parametrize("name", BOARDS)
every_query = pytest.mark.parametrize("asked", queries(), ids=str)

UNITS = {"reqps", "cps", "s", "percentunit", "short", "bytes", "none", "dateTimeAsIso"}
"""Of Grafana's list (packages/grafana-data/src/valueFormats/categories.ts), those that we use."""

TYPED_NOWHERE = {"titleFormat", "textFormat", "tagKeys", "useValueForTime", "step"}
"""An annotation's settings that are the Prometheus data source's own: Grafana's types leave them
open (`[key: string]: any` in packages/grafana-data/src/types/annotations.ts)."""

OURS = r"\b(?:lb|autoscaler|vm|libvirt|loadtest|guest|webapp)_\w+"

LINT: dict[str, Any] = yaml.safe_load((FOLDER / ".lint").read_text(encoding="utf-8"))


def excepted(rule: str) -> set[tuple[str, str]]:
    """(dashboard, panel) that need not keep to it."""
    entries = LINT["exclusions"].get(rule, {}).get("entries", [])
    return {(entry["dashboard"], entry["panel"]) for entry in entries}


def where(asked: Asked) -> tuple[str, str]:
    return BOARDS[asked.board]["title"], asked.panel


# --- the files -----------------------------------------------------------------------------------


def test_the_files_are_what_the_code_makes() -> None:
    assert sorted(path(board) for board in SOURCES) == FILES
    for board in SOURCES:
        assert path(board).read_text(encoding="utf-8") == text(board), "run ./run dashboards"


def test_the_dashboards_that_the_documentation_promises_are_there() -> None:
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    for board in BOARDS.values():
        assert f"**{board['title'].removeprefix('lbctl / ')}**" in page


def test_what_is_provisioned_is_what_the_dashboards_ask_for() -> None:
    folder = ROOT / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())
    (source,) = sources["datasources"]
    assert (source["uid"], source["type"]) == (DATASOURCE_UID, "prometheus")
    scraping = yaml.safe_load((ROOT / "prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraping["scrape_interval"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "lbctl.yml").read_text())["providers"]
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)


# --- Grafana's types -----------------------------------------------------------------------------


def lost(board: dict[str, Any]) -> list[str]:
    """Paths that Grafana's types do not have, or read as something else."""
    plugins.register_default_plugins()
    read = json.loads(json.dumps(Dashboard.from_json(board), cls=encoder.JSONEncoder))
    return list(_missing(board, read, ""))


def _missing(given: Any, read: Any, at: str) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            if key in read:
                yield from _missing(value, read[key], f"{at}/{key}")
            else:
                yield f"{at}/{key}"
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for number, (one, other) in enumerate(zip(given, read, strict=True)):
            yield from _missing(one, other, f"{at}/{number}")
    elif given != read:
        yield at


@each
def test_grafanas_own_types_read_everything(name: str) -> None:
    paths = lost(BOARDS[name])
    allowed = rf"/annotations/list/\d+/({'|'.join(TYPED_NOWHERE)})"
    assert [at for at in paths if not re.fullmatch(allowed, at)] == []


@pytest.mark.parametrize("kind", ["timeseries", "stat", "table", "bargauge", "state-timeline"])
def test_a_misspelt_option_would_be_found(kind: str) -> None:
    board = copy.deepcopy(BOARDS["lbctl-autoscaler"])
    panel = next(panel for panel in panels(board) if panel["type"] == kind)
    panel["options"]["legends"] = {}
    panel["fieldConfig"]["defaults"].setdefault("custom", {})
    panel["targets"][0]["legend"] = "x"
    assert {at.rpartition("/")[2] for at in lost(board)} >= {"legends", "legend"}


@each
def test_the_form_is_the_classic_one(name: str) -> None:
    board = BOARDS[name]
    assert board["schemaVersion"] == SCHEMA_VERSION == 42
    assert board["uid"] == name
    assert "spec" not in board, "that would be the second form"


# --- the linter's rules --------------------------------------------------------------------------


def variables(name: str) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in BOARDS[name]["templating"]["list"]}


@each
def test_the_data_source_is_a_variable(name: str) -> None:
    """template-datasource-rule, panel-datasource-rule"""
    source = variables(name)["datasource"]
    assert (source["type"], source["query"], source["label"]) == (
        "datasource", "prometheus", "Data source",
    )  # fmt: skip
    assert source["current"]["value"] == DATASOURCE_UID
    for panel in panels(BOARDS[name]):
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@each
@pytest.mark.parametrize("label", ["job", "instance", "service", "host"])
def test_labels_are_variables(name: str, label: str) -> None:
    """template-job-rule, template-instance-rule, template-label-promql-rule,
    template-on-time-change-reload-rule"""
    variable = variables(name)[label]
    assert variable["label"] == label.capitalize()
    assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ".+")
    assert variable["refresh"] == 2, "asked again when the time shown changes"
    assert re.fullmatch(rf"label_values\(.+, {label}\)", variable["query"]["query"])


@each
def test_every_variable_is_used_and_every_one_used_exists(name: str) -> None:
    asked = " ".join(query.expr for query in queries() if query.board == name)
    used = {found[0] or found[1] for found in re.findall(r"\$([a-zA-Z_]\w*)|\$\{(\w+)\}", asked)}
    own = {word for word in used if not word.startswith("__")}
    assert own == set(variables(name)) - {"datasource"}
    assert used <= set(VARIABLES)


@each
def test_every_panel_has_title_description_unit_and_queries(name: str) -> None:
    """panel-title-description-rule, panel-units-rule, panel-no-targets-rule"""
    titles = [panel["title"] for panel in panels(BOARDS[name])]
    assert len(titles) == len(set(titles)), "a title twice"
    for panel in panels(BOARDS[name]):
        assert panel["description"].endswith("."), panel["title"]
        assert len(panel["description"]) > 15
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["targets"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters))


@every_query
def test_every_selector_has_job_and_instance(asked: Asked) -> None:
    """target-job-rule, target-instance-rule"""
    for selector in re.findall(rf"{OURS}\{{?|\bup\{{|ALERTS\{{", asked.expr):
        assert selector.endswith("{"), f"{selector} has no matchers"
    inner = re.findall(r"\{([^{}]*)\}", asked.expr)
    assert inner
    for matchers in inner:
        assert 'job=~"$job"' in matchers
        assert 'instance=~"$instance"' in matchers


@every_query
def test_rates_are_over_the_rate_interval(asked: Asked) -> None:
    """target-rate-interval-rule"""
    ranges = set(re.findall(r"\b(?:rate|irate|increase)\([^\[]*\[([^\]]*)\]", asked.expr))
    if where(asked) in excepted("target-rate-interval-rule"):
        assert ranges == {"$__range"}
        assert asked.instant
    else:
        assert ranges <= {"$__rate_interval"}


@every_query
def test_counters_are_not_shown_bare(asked: Asked) -> None:
    """target-counter-agg-rule"""
    bare = re.sub(r"\b(?:rate|irate|increase)\((?:[^()]|\([^()]*\))*\)", "", asked.expr)
    is_bare = re.search(r"_total\b|_bucket\b|_count\b|_sum\b", bare) is not None
    assert is_bare == (where(asked) in excepted("target-counter-agg-rule"))


@each
def test_nobody_edits_what_the_next_version_overwrites(name: str) -> None:
    """uneditable-dashboard"""
    assert BOARDS[name]["editable"] is False


def test_every_exception_has_its_reason_and_its_panel() -> None:
    there = {where(asked) for asked in queries()}
    for rule, told in LINT["exclusions"].items():
        assert len(told["reason"]) > 40
        assert excepted(rule) <= there


# --- what they ask for ---------------------------------------------------------------------------


@functools.cache
def exported() -> set[str]:
    """Every metric that the proxy, the guest's application or the load tester shows."""
    app = Webapp("web-1")
    try:
        families = [*Metrics().collect(), *app.figures.collect()]
    finally:
        app.worker.close()
    names = {name for name, _, _ in load_tester(1)}
    for family in families:
        more = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        names |= {family.name + end for end in more.get(family.type, [""])}
    return names


@every_query
def test_every_metric_asked_for_is_one_that_is_exported(asked: Asked) -> None:
    names = set(
        re.findall(r"\b((?:lb|autoscaler|vm|libvirt|loadtest|guest|webapp)_\w+)\{", asked.expr)
    )
    assert names <= exported()


@each
def test_scale_events_are_marked(name: str) -> None:
    (events,) = [a for a in BOARDS[name]["annotations"]["list"] if "expr" in a]
    assert "autoscaler_last_scale_timestamp_seconds" in events["expr"]
    assert events["expr"].endswith("* 1000"), "milliseconds"
    assert (events["enable"], events["useValueForTime"]) == (True, True)


# --- where panels stand --------------------------------------------------------------------------


@each
def test_panels_do_not_overlap_and_fill_their_lines(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]
    lowest = max(y for _, y in taken)
    assert len(taken) == 24 * (lowest + 1), "a hole"


def test_panels_flow_and_headings_begin_a_line() -> None:
    wide, narrow = Panel({"title": "a"}, 16, 8), Panel({"title": "b"}, 8, 4)
    found = [part["gridPos"] for part in placed([narrow, Row("r"), wide, narrow, wide])]
    assert [(at["x"], at["y"], at["w"]) for at in found] == [
        (0, 0, 8), (0, 4, 24), (0, 5, 16), (16, 5, 8), (0, 13, 16),
    ]  # fmt: skip
