"""A real Prometheus over an hour of our exporters' figures: every query of every dashboard and
every rule finds data, and what the dashboards say of that hour is what happened in it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import (
    GC_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    generate_latest,
)

from guest.webapp import Webapp
from tests.grafana_boards import BOARDS, ROOT, Asked, marks, queries
from tests.observed_history import (
    CPU_AFTER,
    CPU_BEFORE,
    GROWS_AT,
    HOSTS,
    QUICK_S,
    SLOW_S,
    STEP_S,
    History,
    Proxy,
    history,
)
from tests.prometheus_server import (
    PROMETHEUS,
    PROMTOOL,
    VARIABLES,
    Prometheus,
    backfill,
    complaints,
    filled,
    have_figures,
    running,
)

pytestmark = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None, reason="no Prometheus: ./run test installs it"
)

RULES = ROOT / "prometheus" / "rules"
STORIES = sorted((ROOT / "prometheus" / "tests").glob("*.yml"))
BEGAN = 1_750_000_000.0


@dataclass(frozen=True)
class Observed:
    """What was recorded, and who answers for it."""

    server: Prometheus
    past: History

    def rules(self) -> list[dict[str, Any]]:
        groups = self.server.ask("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("prometheus")
    past = history(BEGAN)
    backfill(past.text, folder / "data")
    config = folder / "prometheus.yml"
    config.write_text(f"rule_files: ['{RULES}/*.yml']\n", encoding="utf-8")
    with running(config, folder / "data") as server:
        yield Observed(server, past)


# --- dashboards ----------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [*queries(), *marks()], ids=str)
def test_every_query_of_every_dashboard_finds_data(observed: Observed, asked: Asked) -> None:
    query, past = filled(asked.expr), observed.past
    found = (
        observed.server.at(query, past.end)
        if asked.instant
        else observed.server.over(query, past.start, past.end, STEP_S)
    )
    assert have_figures(found), query


@pytest.mark.parametrize("name", BOARDS)
def test_every_variable_has_values(observed: Observed, name: str) -> None:
    for variable in BOARDS[name]["templating"]["list"]:
        if variable["type"] != "query":
            continue
        asked = filled(variable["query"]["query"])
        parts = re.fullmatch(r"label_values\((.+), (\w+)\)", asked)
        assert parts, asked
        found = observed.server.ask(
            f"label/{parts[2]}/values", **{"match[]": parts[1], "start": str(BEGAN - 1)}
        )
        assert found, asked
    hosts = observed.server.ask(
        "label/host/values", **{"match[]": "libvirt_up", "start": str(BEGAN - 1)}
    )
    assert set(hosts) == set(HOSTS.values())


def expression(board: str, panel: str, letter: str = "A", **variables: str) -> str:
    (found,) = [
        asked.expr
        for asked in queries()
        if (asked.board, asked.panel, asked.letter) == (board, panel, letter)
    ]
    return filled(found, {**VARIABLES, **variables})


def test_before_and_after_lie_left_and_right_of_the_event(observed: Observed) -> None:
    board, past = "lbctl-before-after", observed.past
    for word, cpu in (("before", CPU_BEFORE), ("after", CPU_AFTER)):
        bars = observed.server.at(expression(board, f"Mean CPU of each VM, {word}"), past.end)
        means = {
            (row["metric"]["vm"], row["metric"]["view"]): float(row["value"][1]) for row in bars
        }
        assert means["web-1", "host"] == pytest.approx(cpu)
        assert means["web-1", "guest"] == pytest.approx(cpu - 0.1)
        assert ("web-2", "host" if word == "after" else "none") in means or word == "before"
        curve = observed.server.over(
            expression(board, f"Requests, {word}"), past.start, past.end, STEP_S
        )
        times = [at for series in curve for at, _ in series["values"]]
        if word == "before":
            assert past.grew - 301 <= min(times) < max(times) < past.grew
        else:
            assert past.grew + 29 <= min(times) < max(times) <= past.grew + 330
    p99 = [
        observed.server.values(expression(board, "p99", letter), past.end)["web",]
        for letter in "AB"
    ]
    assert p99[0] == pytest.approx(SLOW_S, rel=0.3), "within its bucket"
    assert p99[1] == pytest.approx(QUICK_S, rel=0.4)


def test_the_figures_are_the_same_however_much_time_is_shown(observed: Observed) -> None:
    """Over a day Grafana's own step is five minutes, longer than a window."""
    day = {"__range": "86400s", "__interval": "5m", "window": "60"}
    for panel, value in (
        ("Mean CPU of each VM, before", CPU_BEFORE),
        ("Mean CPU of each VM, after", CPU_AFTER),
    ):
        query = expression("lbctl-before-after", panel, **day)
        bars = observed.server.at(query, observed.past.end)
        (host,) = [
            float(row["value"][1])
            for row in bars
            if (row["metric"]["vm"], row["metric"]["view"]) == ("web-1", "host")
        ]
        assert host == pytest.approx(value)
    for panel in ("Replicas", "Requests", "p50", "p99", "Failed"):
        for letter in "AB":
            query = expression("lbctl-before-after", panel, letter, **day)
            assert have_figures(observed.server.at(query, observed.past.end)), panel


@pytest.mark.parametrize(
    ("replicas", "turns"),
    [
        ("1 1 2 2 2 1 1 2 2 1 1 2 2 1 1", 3),
        ("1 2 3 4 5 6 7 8 8 1 1 1 1 1 1", 1),
        ("6 6 5 5 4 4 3 3 2 2 1 1 1 1 1", 0),
        ("1 2 3 4 5 6 6 6 6 6 6 6 6 6 6", 0),
    ],
)
def test_a_turn_is_a_rise_and_a_fall_as_the_alert_counts_them(
    tmp_path: Path, replicas: str, turns: int
) -> None:
    shown = 'autoscaler_desired_replicas{job="lbctl", instance="a:1", service="web"}'
    expected = [{"labels": "{}", "value": turns}]
    asked = expression("lbctl-autoscaler", "Turns")
    told = {
        "interval": "1m",
        "input_series": [{"series": shown, "values": replicas}],
        "promql_expr_test": [{"expr": asked, "eval_time": "14m", "exp_samples": expected}],
    }
    story = tmp_path / "turns.yml"
    story.write_text(json.dumps({"rule_files": [], "tests": [told]}), encoding="utf-8")
    done = subprocess.run(
        [str(PROMTOOL), "test", "rules", story], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_last_event_is_that_of_the_time_shown(observed: Observed) -> None:
    """Looked at from a time before the fleet grew, the event before it is the last one."""
    query = expression("lbctl-before-after", "Event")
    then = observed.server.at(query, observed.past.grew - 60)
    later = observed.server.at(query, observed.past.end)
    assert float(then[0]["value"][1]) == observed.past.start * 1000
    assert float(later[0]["value"][1]) == (observed.past.grew - 1) * 1000


def test_an_annotation_stands_at_the_time_of_its_event_and_not_of_a_scrape(
    observed: Observed,
) -> None:
    past = observed.past
    (asked,) = [a for a in marks() if a.board == "lbctl-overview"]
    found = observed.server.over(filled(asked.expr), past.start, past.end, 5)
    times = {float(value) for series in found for _, value in series["values"]}
    assert times == {past.start * 1000, (past.grew - 1) * 1000}


def test_services_and_hosts_are_chosen_by_their_variables(observed: Observed) -> None:
    past = observed.past

    def vms(**variables: str) -> set[str]:
        query = expression("lbctl-machines", "CPU, host's view", **variables)
        return {series["metric"]["vm"] for series in observed.server.at(query, past.end)}

    assert vms() == {"web-1", "web-2"}
    assert vms(host="left") == {"web-1"}
    assert vms(service="shop") == set()
    requests = expression("lbctl-overview", "Errors", service="shop")
    assert set(observed.server.values(requests, past.end)) == {("shop",)}


# --- exporters -----------------------------------------------------------------------------------


def proxy() -> bytes:
    shown = Proxy(BEGAN)
    shown.step(0, BEGAN)
    shown.step(GROWS_AT, BEGAN + 60)
    return shown.metrics.render()[0]


def guest() -> bytes:
    app = Webapp("web-1")
    try:
        app.figures.observe("/render", 200, 0.02)
        registry = CollectorRegistry()
        for collector in (app.figures, PROCESS_COLLECTOR, GC_COLLECTOR):
            registry.register(collector)
        return generate_latest(registry)
    finally:
        app.worker.close()


@pytest.mark.parametrize("exposition", [proxy, guest])
def test_promtool_has_nothing_to_say_about_our_metrics(exposition: Callable[[], bytes]) -> None:
    assert complaints(exposition()) == ""


def test_promtool_would_say_something() -> None:
    assert "counter" in complaints(b"# HELP x Things.\n# TYPE x counter\nx 1\n")


# --- rules ---------------------------------------------------------------------------------------


def test_the_configuration_loads_the_rules_and_they_are_sound() -> None:
    checked = subprocess.run(
        [str(PROMTOOL), "check", "config", "prometheus.yml"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    for file in RULES.glob("*.yml"):
        assert f"prometheus/rules/{file.name}" in checked.stdout


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_at_no_other_time(story: Any) -> None:
    done = subprocess.run(
        [str(PROMTOOL), "test", "rules", story], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_story_and_a_page_that_says_what_to_do(observed: Observed) -> None:
    told = "".join(story.read_text(encoding="utf-8") for story in STORIES)
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    alerts = [rule for rule in observed.rules() if rule["type"] == "alerting"]
    assert len(alerts) > 8
    for alert in alerts:
        name = alert["name"]
        fires = rf"alertname: {name}\n\s+exp_alerts: |alertname: {name}, exp_alerts"
        assert re.search(fires, told.replace("exp_alerts:\n", "exp_alerts: ")), name
        assert f"`{name}`" in page, name
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "description", "runbook"} == set(alert["annotations"])


def test_every_rule_finds_data(observed: Observed) -> None:
    """Of a rule that records, its result; of an alert, whatever it compares: it is calm itself."""
    rules, at = observed.rules(), observed.past.end
    recorded = {rule["name"]: rule["query"] for rule in rules if rule["type"] == "recording"}
    assert len(recorded) > 10
    for rule in rules:
        query = rule["query"]
        while names := [name for name in recorded if re.search(rf"{name}\b", query)]:
            for name in names:
                query = re.sub(rf"{name}\b(\{{[^}}]*\}})?", f"({recorded[name]})", query)
        if rule["type"] == "recording":
            assert have_figures(observed.server.at(query, at)), query
            continue
        assert observed.server.at(query, at) == [], f"{rule['name']} fires"
        for selector in selectors(query):
            assert have_figures(observed.server.at(selector, at)), selector


def selectors(query: str) -> set[str]:
    """Every metric in a query, with its matchers."""
    found = re.findall(r"\b((?:lb|autoscaler|libvirt|vm)_\w+|up)\b(\{[^}]*\})?", query)
    return {name + matchers for name, matchers in found}
