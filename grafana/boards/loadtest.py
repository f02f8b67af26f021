"""Can this load test be trusted, and what did it find? The tester's side beside the proxy's."""

from __future__ import annotations

from typing import Final

from grafana.board import Board
from grafana.panels import RED, YELLOW, Query, Row, figure, heat, lines
from grafana.promql import RATE, VM_CPU_OF_HOST, of_service, or_nought, per_second, quantile, series

LATENCY: Final = "loadtest_request_duration_seconds"
LAG: Final = "loadtest_send_lag_seconds"


def rate(name: str) -> str:
    """Of a counter of the tester."""
    return f"sum(rate({series(name)}[{RATE}]))"


def of_tester(q: float, histogram: str) -> str:
    return f"histogram_quantile({q}, {per_second(series(f'{histogram}_bucket'), 'le')})"


BOARD: Final = Board(
    uid="lbctl-loadtest",
    title="lbctl / Load test",
    description="A running load test (`loadtest run … --metrics-listen 127.0.0.1:9901`): whether it"
    " keeps to its plan, what it measures, and what the proxy and the machines say meanwhile.",
    time="now-15m",
    parts=(
        figure(
            "Planned",
            "Requests per second that the plan asks for now.",
            "reqps",
            Query(f"sum({series('loadtest_target_rate')})", "planned"),
        ),
        figure(
            "Sent",
            "Requests per second whose bytes went out.",
            "reqps",
            Query(rate("loadtest_sent_requests_total"), "sent"),
        ),
        figure(
            "Send lag, p99",
            "How late the tester itself took up a request. Above 5 ms the run is not to be trusted:"
            " the tester was too slow, and not the tested.",
            "s",
            Query(of_tester(0.99, LAG), "p99"),
            limits={YELLOW: 0.001, RED: 0.005},
        ),
        figure(
            "Not sent",
            "Requests that were due and not sent, since the test began.",
            "short",
            Query(f"sum({series('loadtest_dropped_requests_total')})", "dropped"),
            limits={RED: 1},
        ),
        figure(
            "Failed",
            "Requests without an answer and answers of status 400 and above, since the test began.",
            "short",
            Query(
                or_nought(
                    f"sum({series('loadtest_request_errors_total')})",
                    f"sum({series('loadtest_target_rate')})",
                ),
                "failed",
            ),
            limits={RED: 1},
        ),
        figure(
            "Under way",
            "Requests sent and not yet answered.",
            "short",
            Query(f"sum({series('loadtest_inflight_requests')})", "under way"),
        ),
        Row("Does it keep to its plan?"),
        lines(
            "Rate",
            "Planned, due, sent and completed. The gap between due and completed is what waits.",
            "reqps",
            Query(f"sum({series('loadtest_target_rate')})", "planned"),
            Query(rate("loadtest_intended_requests_total"), "due"),
            Query(rate("loadtest_sent_requests_total"), "sent"),
            Query(rate("loadtest_completed_requests_total"), "completed"),
            dashed=("planned",),
        ),
        lines(
            "Send lag",
            "How late the tester took up its requests; the line is where a run ceases to be"
            " trustworthy.",
            "s",
            Query(of_tester(0.5, LAG), "p50"),
            Query(of_tester(0.99, LAG), "p99"),
            limits={RED: 0.005},
        ),
        lines(
            "Not sent, by reason",
            "Requests that were due and not sent: past `--max-in-flight` the tester drops them"
            " rather than wait unseen.",
            "reqps",
            Query(per_second(series("loadtest_dropped_requests_total"), "reason"), "{{reason}}"),
            stack=True,
        ),
        lines(
            "Failed, by kind",
            "Requests without an answer and answers of status 400 and above.",
            "reqps",
            Query(
                or_nought(
                    per_second(series("loadtest_request_errors_total"), "kind"),
                    f"sum({series('loadtest_target_rate')})",
                ),
                "{{kind}}",
            ),
            stack=True,
        ),
        Row("What does it find?"),
        lines(
            "Latency as the tester sees it, and the proxy",
            "The tester counts from the moment a request was due, the proxy from when its head was"
            " there. A gap between the two is what happened before the proxy.",
            "s",
            Query(of_tester(0.5, LATENCY), "tester p50"),
            Query(of_tester(0.99, LATENCY), "tester p99"),
            Query(quantile(0.5, "lb_request_duration_seconds"), "{{service}} p50"),
            Query(quantile(0.99, "lb_request_duration_seconds"), "{{service}} p99"),
            log=True,
        ),
        heat(
            "Latency, spread",
            "How many requests took how long, from the moment each was due.",
            "s",
            Query(per_second(series(f"{LATENCY}_bucket"), "le")),
        ),
        lines(
            "Replicas",
            "Wanted and serving meanwhile.",
            "short",
            *(
                Query(
                    f"sum by (service) ({of_service(f'autoscaler_{word}_replicas')})",
                    f"{{{{service}}}} {word}",
                )
                for word in ("desired", "ready")
            ),
            steps=True,
        ),
        lines(
            "CPU of the replicas",
            "Host CPU that each VM used meanwhile, of what it may use.",
            "percentunit",
            Query(VM_CPU_OF_HOST, "{{vm}} on {{host}}"),
            top=1,
        ),
    ),
)
