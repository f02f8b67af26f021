"""Metrics: names as promised, counters that never go down, labels that stay few."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lb.autoscaler_metrics import AutoscalerRows, ReplicaRow
from lb.balance import policy_named
from lb.config import HealthConfig
from lb.histogram import Histogram
from lb.latency import CONTRACT_BUCKETS_S
from lb.metrics import RETIRED, Metrics
from lb.pool import Pool, Report
from lb.request_metrics import RequestMetrics
from lb.vm_metrics import VmRow

# CONTRACT, "Metrics", and what stands beside it; counters appear without _total in the parsed
# families.
PROMISED = {
    *(
        f"lb_{name}"
        for name in (
            "requests", "request_duration_seconds", "upstream_duration_seconds",
            "queue_wait_seconds", "inflight_requests", "queued_requests", "backend_up",
            "backend_inflight_requests", "retries", "upstream_errors",
        )
    ),
    *(f"autoscaler_{n}_replicas" for n in ("desired", "ready", "booting", "standby", "min", "max")),
    *(
        f"autoscaler_{name}"
        for name in (
            "signal_ratio", "decisions", "last_scale_timestamp_seconds", "vm_activation_seconds",
            "part_replicas", "mode", "forecast_replicas", "forecast_error_ratio",
        )
    ),
    "vm_cpu_ratio", "vm_cpu_seconds", "vm_memory_bytes",
}  # fmt: skip


def make() -> tuple[Metrics, Pool, RequestMetrics]:
    pool = Pool("web", policy_named("least_requests"), HealthConfig(), clock=lambda: 100.0)
    metrics = Metrics()
    return metrics, pool, metrics.service(pool)


def scrape(metrics: Metrics) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    text = metrics.render()[0].decode()
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        samples.setdefault(family.name, {})
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            samples.setdefault(sample.name, {})[labels] = sample.value
    return samples


def test_every_promised_name_is_there_before_anything_happened() -> None:
    metrics, _, _ = make()
    assert set(scrape(metrics)) >= PROMISED


def test_what_a_gauge_of_replicas_is_stands_beside_it_in_words() -> None:
    metrics, _, _ = make()
    families = text_string_to_metric_families(metrics.render()[0].decode())
    helps = {f.name: f.documentation for f in families if f.name.startswith("autoscaler_")}
    told = [text for name, text in helps.items() if name.endswith("_replicas")]
    assert min(len(text.split()) for text in told) >= 5
    assert len(set(told)) == len(told)


def test_requests_are_counted_by_method_and_code() -> None:
    metrics, _, counters = make()
    counters.finished("GET", 200, 0.02, 100.0)
    counters.finished("GET", 200, 0.02, 100.0)
    counters.finished("BREW", 418, 0.3, 100.0)
    seen = scrape(metrics)
    total = seen["lb_requests_total"]
    assert total[("code", "200"), ("method", "GET"), ("service", "web")] == 2
    assert total[("code", "418"), ("method", "other"), ("service", "web")] == 1
    buckets = seen["lb_request_duration_seconds_bucket"]
    assert buckets[("le", "0.025"), ("service", "web")] == 2
    assert buckets[("le", "+Inf"), ("service", "web")] == 3
    assert len(buckets) == len(CONTRACT_BUCKETS_S) + 1
    assert seen["lb_request_duration_seconds_sum"][(("service", "web"),)] == pytest.approx(0.34)


def test_a_backend_that_leaves_takes_nothing_from_the_totals() -> None:
    metrics, pool, _ = make()
    pool.add_static("a:1")
    pool.observe(Report("a:1", "a:1", ok=True))
    with pool.lease() as lease:
        lease.answered(0.1, 100.0)
        labels = (("backend", "a:1"), ("service", "web"))
        before = scrape(metrics)
        assert before["lb_backend_up"][labels] == 1
        assert before["lb_backend_inflight_requests"][labels] == 1
        pool.remove("a:1")
        after = scrape(metrics)
    count = "lb_upstream_duration_seconds_count"
    assert sum(before[count].values()) == sum(after[count].values()) == 1
    assert after[count] == {(("backend", RETIRED), ("service", "web")): 1}
    assert labels not in after["lb_backend_up"]


def test_retries_and_upstream_errors_have_their_reason() -> None:
    metrics, _, counters = make()
    counters.retried("reset")
    counters.upstream_error("reset")
    counters.upstream_error("reset")
    seen = scrape(metrics)
    labels = (("reason", "reset"), ("service", "web"))
    assert seen["lb_retries_total"][labels] == 1
    assert seen["lb_upstream_errors_total"][labels] == 2


def test_ejections_are_counted_from_nought_by_their_grounds() -> None:
    metrics, pool, _ = make()
    for name in ("a:1", "b:1"):
        pool.add_static(name)
        pool.observe(Report(name, name, ok=True))
    for _ in range(5):
        with pool.lease(prefer="a:1") as lease:
            lease.answered(0.1, 100.0, 500)
    seen = scrape(metrics)
    assert seen["lb_backend_ejections_total"] == {
        (("reason", "consecutive_5xx"), ("service", "web")): 1,
        (("reason", "success_rate"), ("service", "web")): 0,
    }
    assert seen["lb_backend_up"][("backend", "a:1"), ("service", "web")] == 0


def test_the_autoscalers_rows_become_metrics() -> None:
    metrics, _, _ = make()
    cold = Histogram()
    cold.observe(9.5)
    rows = AutoscalerRows(
        replicas=(ReplicaRow("web", desired=2, ready=1, booting=1, standby=0, min=1, max=4),),
        parts={("web", "cpu_overload"): 2, ("web", "queue"): 3},
        modes={("web", "auto"): True, ("web", "hold"): False},
        forecasts={"web": 3},
        forecast_errors={"web": 0.04},
        signals={("web", "cpu"): 0.9, ("api", "cpu"): 0.2},
        targets={("web", "cpu"): 0.6},
        decisions={("web", "up", "cpu_overload"): 3},
        last_scale_unix_s={("web", "up"): 1_700_000_000.0},
        activations={"cold": cold.row()},
        vms=(VmRow("web-1", {"host": 0.9, "guest": 0.7}, {"vcpu": 5.0, "overhead": 1.0}, 1024),),
        breakers={"web": True, "api": False},
        host_breakers={("web", "box"): True},
        calls={("box", "ok"): 7, ("box", "timeout"): 2},
        hung_calls={"box": 1},
    )
    metrics.autoscaler(lambda: rows)
    seen = scrape(metrics)
    assert seen["autoscaler_desired_replicas"][(("service", "web"),)] == 2
    assert seen["autoscaler_part_replicas"] == {
        (("part", "cpu_overload"), ("service", "web")): 2,
        (("part", "queue"), ("service", "web")): 3,
    }
    assert seen["autoscaler_mode"] == {
        (("mode", "auto"), ("service", "web")): 1,
        (("mode", "hold"), ("service", "web")): 0,
    }
    assert seen["autoscaler_launch_breaker_open"] == {
        (("service", "web"),): 1,
        (("service", "api"),): 0,
    }
    host_breaker = seen["autoscaler_host_launch_breaker_open"]
    assert host_breaker == {(("host", "box"), ("service", "web")): 1}
    assert seen["autoscaler_libvirt_calls_total"] == {
        (("host", "box"), ("outcome", "ok")): 7,
        (("host", "box"), ("outcome", "timeout")): 2,
    }
    assert seen["autoscaler_libvirt_hung_calls"] == {(("host", "box"),): 1}
    assert seen["autoscaler_forecast_replicas"] == {(("service", "web"),): 3}
    assert seen["autoscaler_forecast_error_ratio"] == {(("service", "web"),): 0.04}
    assert seen["autoscaler_signal_ratio"] == {
        (("service", "web"), ("signal", "cpu")): 0.9,
        (("service", "api"), ("signal", "cpu")): 0.2,
    }
    assert seen["autoscaler_signal_target_ratio"] == {
        (("service", "web"), ("signal", "cpu")): 0.6,
    }
    why = (("direction", "up"), ("reason", "cpu_overload"), ("service", "web"))
    assert seen["autoscaler_decisions_total"][why] == 3
    when = (("direction", "up"), ("service", "web"))
    assert seen["autoscaler_last_scale_timestamp_seconds"][when] == 1_700_000_000.0
    assert seen["autoscaler_vm_activation_seconds_bucket"][("le", "10.0"), ("path", "cold")] == 1
    assert seen["autoscaler_vm_activation_seconds_bucket"][("le", "7.5"), ("path", "cold")] == 0
    assert seen["vm_cpu_ratio"][("view", "host"), ("vm", "web-1")] == 0.9
    assert seen["vm_cpu_seconds_total"][("part", "overhead"), ("vm", "web-1")] == 1.0
    assert seen["vm_memory_bytes"][(("vm", "web-1"),)] == 1024


def test_what_nobody_measured_is_left_out() -> None:
    metrics, _, _ = make()
    metrics.autoscaler(lambda: AutoscalerRows(vms=(VmRow("web-1"),)))
    seen = scrape(metrics)
    assert seen["vm_cpu_ratio"] == {}
    assert seen["vm_memory_bytes"] == {}


def test_lost_lines_of_the_access_log_are_counted_by_whoever_writes_it() -> None:
    metrics, _, _ = make()
    assert scrape(metrics)["lb_access_log_dropped_total"] == {(): 0}
    metrics.access_log(lambda: 7)
    assert scrape(metrics)["lb_access_log_dropped_total"] == {(): 7}


def test_a_failure_that_has_not_happened_yet_is_a_nought() -> None:
    metrics, _, counters = make()
    counters.upstream_error("reset")
    seen = scrape(metrics)
    failures = {dict(labels)["reason"]: n for labels, n in seen["lb_upstream_errors_total"].items()}
    assert failures["reset"] == 1
    assert failures["connect_failed"] == failures["body_timeout"] == 0
    again = {dict(labels)["reason"]: n for labels, n in seen["lb_retries_total"].items()}
    assert set(again) == {*failures, "hedge"}
    assert set(again.values()) == {0}


def test_what_a_failing_proxy_answers_is_a_nought_for_each_method_seen() -> None:
    metrics, _, counters = make()
    assert scrape(metrics).get("lb_requests_total", {}) == {}, "no method was seen"
    counters.finished("GET", 200, 0.02, 100.0)
    counters.finished("GET", 503, 0.02, 100.0)
    seen = scrape(metrics)["lb_requests_total"]
    assert {(dict(labels)["method"], dict(labels)["code"]): n for labels, n in seen.items()} == {
        ("GET", "200"): 1, ("GET", "503"): 1, ("GET", "500"): 0, ("GET", "502"): 0,
        ("GET", "504"): 0,
    }  # fmt: skip


def test_each_way_to_another_size_is_there_before_it_was_gone() -> None:
    metrics, _, _ = make()
    row = ReplicaRow("web", desired=1, ready=1, booting=0, standby=0, min=1, max=4)
    told = {("web", "up", "cpu_overload"): 1, ("web", "none", "steady"): 9}
    metrics.autoscaler(lambda: AutoscalerRows(replicas=(row,), decisions=told))
    seen = {
        (dict(labels)["direction"], dict(labels)["reason"]): number
        for labels, number in scrape(metrics)["autoscaler_decisions_total"].items()
    }
    assert seen["up", "cpu_overload"] == 1
    assert seen["none", "steady"] == 9
    assert seen["up", "from_zero"] == seen["down", "idle"] == 0
    assert ("down", "cpu_overload") not in seen
    assert ("none", "at_max") not in seen, "what happens each second needs no nought"
