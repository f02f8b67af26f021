"""Which backend is the odd one out? What each gets, how it answers, and what is done about it."""

from __future__ import annotations

from typing import Final

from grafana.board import Board
from grafana.panels import Query, Row, lines, states, table
from grafana.promql import (
    VM_CPU_OF_HOST,
    of_service,
    per_second,
    quantile,
    series,
)

LISTED: Final = 'backend!="(retired)"'
UPSTREAM: Final = "lb_upstream_duration_seconds"
OPEN: Final = {"0": ("closed", "green"), "1": ("open", "red")}

BOARD: Final = Board(
    uid="lbctl-backends",
    title="lbctl / Backends",
    description="Which backend is the odd one out, and what the proxy does about it.",
    parts=(
        states(
            "May get requests",
            "Ready, checks pass, not ejected. A backend that left is no longer listed.",
            {"1": ("yes", "green"), "0": ("no", "red")},
            Query(
                f"max by (service, backend) ({of_service('lb_backend_up')})",
                "{{service}} {{backend}}",
            ),
        ),
        states(
            "Circuit breaker",
            "Open: too many requests to the service failed, so it gets none, or trials only.",
            OPEN,
            Query(f"max by (service) ({of_service('lb_breaker_open')})", "{{service}}"),
        ),
        Row("What each gets"),
        lines(
            "Requests",
            "Requests answered by each backend; with equal weights and equal machines the curves"
            " lie on each other.",
            "reqps",
            Query(
                per_second(of_service(f"{UPSTREAM}_count", LISTED), "service, backend"),
                "{{service}} {{backend}}",
            ),
            stack=True,
        ),
        lines(
            "Running",
            "Requests running on each backend now.",
            "short",
            Query(
                f"sum by (service, backend) ({of_service('lb_backend_inflight_requests')})",
                "{{service}} {{backend}}",
            ),
        ),
        lines(
            "CPU of those that are VMs",
            "Host CPU used, of what each may use. Uneven here and even in requests: the requests"
            " differ, or the hosts do.",
            "percentunit",
            Query(VM_CPU_OF_HOST, "{{vm}} on {{host}}"),
            top=1,
        ),
        lines(
            "Line",
            "Requests that wait for a backend, and how many a service may run at once where"
            " `adaptive` finds that itself.",
            "short",
            Query(f"sum by (service) ({of_service('lb_queued_requests')})", "{{service}} waiting"),
            Query(f"max by (service) ({of_service('lb_concurrency_limit')})", "{{service}} limit"),
        ),
        Row("How each answers"),
        lines(
            "p50",
            "Half of the requests took no longer, from the sending to a backend to the last byte of"
            " its answer.",
            "s",
            Query(quantile(0.5, UPSTREAM, "service, backend", LISTED), "{{service}} {{backend}}"),
            log=True,
        ),
        lines(
            "p99",
            "99 of 100 requests took no longer, from the sending to a backend to the last byte of"
            " its answer.",
            "s",
            Query(quantile(0.99, UPSTREAM, "service, backend", LISTED), "{{service}} {{backend}}"),
            log=True,
        ),
        lines(
            "Wait for a backend",
            "How long requests stood in line before they were sent.",
            "s",
            *(
                Query(quantile(q, "lb_queue_wait_seconds"), f"{{{{service}}}} p{q * 100:g}")
                for q in (0.5, 0.99)
            ),
        ),
        lines(
            "Failures",
            "Failures of backends, by kind (docs/operating.md lists them).",
            "reqps",
            Query(per_second(of_service("lb_upstream_errors_total"), "reason"), "{{reason}}"),
            stack=True,
        ),
        lines(
            "Sent again",
            "Requests sent once more, by why. Each is a failure, or a slow answer, that no client"
            " saw.",
            "reqps",
            Query(per_second(of_service("lb_retries_total"), "reason"), "{{reason}}"),
            stack=True,
        ),
        lines(
            "Ejections",
            "Backends taken out for a while, because requests failed there while the others did"
            " better.",
            "cps",
            Query(
                per_second(of_service("lb_backend_ejections_total"), "service, reason"),
                "{{service}} {{reason}}",
            ),
        ),
        table(
            "Backends now",
            "Requests running on each.",
            "short",
            Query(f"sum by (service, backend) ({of_service('lb_backend_inflight_requests')})"),
            named={"Value": "running"},
        ),
        lines(
            "Clients",
            "Connections of clients to the proxy, tunnels such as WebSockets, and connections"
            " closed at once each second because there were too many.",
            "short",
            Query(f"sum({series('lb_client_connections')})", "connections"),
            Query(f"sum({of_service('lb_tunnels')})", "tunnels"),
            Query(
                per_second(series("lb_client_connections_refused_total"), "job"),
                "refused each second",
            ),
        ),
    ),
)
