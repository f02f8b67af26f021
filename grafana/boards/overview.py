"""Is everything well? Traffic, errors, latency, saturation at the proxy, and the fleet's size."""

from __future__ import annotations

from typing import Final

from grafana.board import Board
from grafana.panels import RED, YELLOW, Query, Row, figure, heat, lines, states
from grafana.promql import (
    ERROR_RATIO,
    REQUESTS,
    VM_CPU_OF_HOST,
    of_service,
    per_second,
    quantile,
    series,
)

LATENCY: Final = "lb_request_duration_seconds"
FIRING: Final = series("ALERTS", 'alertstate="firing"')
TESTER: Final = series("up", 'job="loadtest"')
OTHERS: Final = series("up", 'job!="loadtest"')
SIZES: Final = ("desired", "ready", "booting", "standby", "min", "max")

BOARD: Final = Board(
    uid="lbctl-overview",
    title="lbctl / Overview",
    description="Is everything well? The golden signals at the proxy and the size of the fleet.",
    parts=(
        figure(
            "Requests",
            "Requests answered each second, whatever the answer was.",
            "reqps",
            Query(f"sum({REQUESTS})", "requests"),
        ),
        figure(
            "Failed",
            "Share of the requests that got a 5xx. The alerts' objective is 0.1 % at most.",
            "percentunit",
            Query(f"max({ERROR_RATIO}) or vector(0)", "failed"),
            limits={YELLOW: 0.001, RED: 0.01},
        ),
        figure(
            "p99",
            "99 of 100 requests took no longer, waiting in the queue included. The slowest service"
            " counts.",
            "s",
            Query(f"max({quantile(0.99, LATENCY)})", "p99"),
        ),
        figure(
            "Waiting",
            "Requests in line for a backend. More than a moment's worth of them means that those"
            " that serve are too few.",
            "short",
            Query(f"sum({of_service('lb_queued_requests')})", "waiting"),
            limits={YELLOW: 1, RED: 100},
        ),
        figure(
            "Serving",
            "Replicas that serve now, and how many are wanted.",
            "short",
            Query(f"sum({of_service('autoscaler_ready_replicas')})", "ready"),
            Query(f"sum({of_service('autoscaler_desired_replicas')})", "wanted"),
            graph=False,
        ),
        figure(
            "Alerts",
            "Alerts firing now; docs/observability.md says what to do about each.",
            "short",
            Query(f"sum({FIRING}) or vector(0)", "firing"),
            limits={RED: 1},
        ),
        Row("Golden signals"),
        lines(
            "Traffic by answer",
            "Requests answered each second, by status. 499: the client hung up first.",
            "reqps",
            Query(per_second(of_service("lb_requests_total"), "code"), "{{code}}"),
            stack=True,
        ),
        lines(
            "Errors",
            "Share of requests that got a 5xx, by service.",
            "percentunit",
            Query(ERROR_RATIO, "{{service}}"),
            limits={RED: 0.001},
        ),
        lines(
            "Latency",
            "From a request's head to the last byte of its answer, waiting in the queue included.",
            "s",
            *(
                Query(quantile(q, LATENCY), f"{{{{service}}}} p{q * 100:g}")
                for q in (0.5, 0.9, 0.99)
            ),
            log=True,
        ),
        heat(
            "Latency, spread",
            "How many requests took how long. Two bands are two kinds of requests, or two kinds of"
            " replicas.",
            "s",
            Query(per_second(of_service(f"{LATENCY}_bucket"), "le")),
        ),
        lines(
            "Saturation",
            "Requests being served, and of those the ones that wait in line for a backend.",
            "short",
            Query(
                f"sum by (service) ({of_service('lb_inflight_requests')})", "{{service}} running"
            ),
            Query(f"sum by (service) ({of_service('lb_queued_requests')})", "{{service}} waiting"),
        ),
        lines(
            "CPU of the replicas",
            "Host CPU that each VM used, of what it may use: what the autoscaler looks at.",
            "percentunit",
            Query(VM_CPU_OF_HOST, "{{vm}} on {{host}}"),
            top=1,
        ),
        Row("The fleet"),
        lines(
            "Replicas",
            "How many are wanted, serve, boot, or stand by, between their bounds.",
            "short",
            *(
                Query(
                    f"sum by (service) ({of_service(f'autoscaler_{word}_replicas')})",
                    f"{{{{service}}}} {word}",
                )
                for word in SIZES
            ),
            steps=True,
            dashed=("min$", "max$"),
        ),
        lines(
            "Failures that clients did not see",
            "Requests sent once more, because a backend failed or was slow; and the failures.",
            "reqps",
            Query(per_second(of_service("lb_retries_total"), "service"), "{{service}} sent again"),
            Query(
                per_second(of_service("lb_upstream_errors_total"), "service"),
                "{{service}} failures of backends",
            ),
        ),
        states(
            "Scraped",
            "Whether Prometheus reaches the proxy, the replicas, and a load test while one runs. A"
            " replica that left is no longer listed; a red end means that it did not say goodbye.",
            {"1": ("up", "green"), "0": ("down", "red")},
            Query(f"{OTHERS} or {TESTER} == 1", "{{job}} {{vm}} {{instance}}"),
            width=24,
        ),
    ),
)
