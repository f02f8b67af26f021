"""Why are there so many? What the planner saw, what it decided, and how long that took."""

from __future__ import annotations

from typing import Final

from grafana.board import Board
from grafana.panels import RED, YELLOW, Query, Row, bars, figure, heat, lines, states, table
from grafana.promql import HOST, RATE, of_service, per_second, series

SIZES: Final = ("desired", "ready", "booting", "standby", "min", "max")
ACTIVATION: Final = "autoscaler_vm_activation_seconds"

_WANTED: Final = f"{of_service('autoscaler_desired_replicas')}[30m]"
FALLS: Final = f"resets({_WANTED})"
RISES: Final = f"(changes({_WANTED}) - {FALLS})"


def in_range(name: str, by: str) -> str:
    """How much a counter grew in the whole of the dashboard's time; for a query asked once."""
    return f"sum by ({by}) (increase({name}[$__range]))"


BOARD: Final = Board(
    uid="lbctl-autoscaler",
    title="lbctl / Autoscaler",
    description="Why there are so many replicas: signals against their targets, what each asks for,"
    " decisions by reason, and how long a new one takes.",
    parts=(
        figure(
            "Since it last grew",
            "Time since the wanted number last rose.",
            "s",
            Query(
                "time() - max("
                + of_service("autoscaler_last_scale_timestamp_seconds", 'direction="up"')
                + ")",
                "grown",
            ),
            graph=False,
        ),
        figure(
            "At its maximum",
            "Services whose load asks for more replicas than they may have.",
            "short",
            Query(
                "sum(max by (job, instance, service) ("
                + of_service("autoscaler_part_replicas")
                + ") > bool "
                + of_service("autoscaler_max_replicas")
                + ") or vector(0)",
                "services",
            ),
            limits={YELLOW: 1},
        ),
        figure(
            "Turns",
            "How often a service both grew and shrank in the last half hour; the alert says"
            " flapping at three.",
            "short",
            Query(f"max({FALLS} < {RISES} or {RISES})", "times"),
            limits={YELLOW: 2, RED: 3},
        ),
        states(
            "Mode",
            "Whether it acts, only observes, holds, or keeps an operator's number.",
            {"1": ("in force", "blue"), "0": (" ", "transparent")},
            Query(
                f"max by (service, mode) ({of_service('autoscaler_mode')})", "{{service}} {{mode}}"
            ),
            height=4,
        ),
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
            "Who asks for how many",
            "What each part of the planner asks for; the largest wins, within the bounds.",
            "short",
            Query(
                f"max by (service, part) ({of_service('autoscaler_part_replicas')})",
                "{{service}} {{part}}",
            ),
            Query(f"max by (service) ({of_service('autoscaler_max_replicas')})", "{{service}} max"),
            steps=True,
            dashed=("max$",),
        ),
        lines(
            "Signals",
            "What the planner looks at. cpu: of what the replicas may use. concurrency, queue,"
            " latency: of their limits. delay: share of the time that virtual CPUs waited for a"
            " core of the host.",
            "percentunit",
            Query(
                f"max by (service, signal) ({of_service('autoscaler_signal_ratio')})",
                "{{service}} {{signal}}",
            ),
            Query(
                "max by (service, signal) ("
                + of_service("autoscaler_signal_target_ratio", 'signal="cpu"')
                + ")",
                "{{service}} {{signal}} target",
            ),
            dashed=("target$",),
        ),
        lines(
            "Signals against their targets",
            "Each signal as a share of where it is wanted: above 1 it asks for more replicas, once"
            " it has done so for its window.",
            "percentunit",
            Query(
                "max by (service, signal) ("
                + of_service("autoscaler_signal_ratio")
                + " / "
                + of_service("autoscaler_signal_target_ratio")
                + ")",
                "{{service}} {{signal}}",
            ),
            limits={RED: 1},
        ),
        lines(
            "Forecast",
            "Replicas that the load expected by the time another could serve asks for. Empty"
            " without a forecast.",
            "short",
            Query(
                f"max by (service) ({of_service('autoscaler_forecast_replicas')})",
                "{{service}} forecast",
            ),
            Query(
                f"max by (service) ({of_service('autoscaler_desired_replicas')})",
                "{{service}} wanted",
            ),
            steps=True,
        ),
        lines(
            "Old and new",
            "Replicas of the old and of the new image while a rollout goes on; empty without one.",
            "short",
            Query(
                f"max by (service, generation) ({of_service('autoscaler_rollout_replicas')})",
                "{{service}} {{generation}}",
            ),
            steps=True,
        ),
        Row("Decisions"),
        lines(
            "Decisions by reason",
            "One decision each second; which reason stood in each, as decisions per second."
            " docs/operating.md explains each word.",
            "cps",
            Query(
                per_second(of_service("autoscaler_decisions_total"), "direction, reason"),
                "{{direction}} {{reason}}",
            ),
            stack=True,
        ),
        table(
            "Changes of size",
            "How often each reason changed the size, in the time shown.",
            "short",
            Query(
                in_range(
                    of_service("autoscaler_decisions_total", 'direction=~"up|down"'),
                    "service, direction, reason",
                )
                + " > 0",
            ),
            named={"Value": "times"},
        ),
        Row("Starting"),
        bars(
            "Activation, mean by path",
            "From the call to serving, mean of the time shown. cold: booted. snapshot: a copy of a"
            " saved guest. standby: woken.",
            "s",
            Query(
                f"{in_range(series(f'{ACTIVATION}_sum'), 'path')}"
                f" / ({in_range(series(f'{ACTIVATION}_count'), 'path')} > 0)",
                "{{path}}",
                instant=True,
            ),
        ),
        bars(
            "Activations by path",
            "How many replicas came into service by each path, in the time shown.",
            "short",
            Query(in_range(series(f"{ACTIVATION}_count"), "path"), "{{path}}", instant=True),
        ),
        heat(
            "Activation, spread",
            "How long each start took.",
            "s",
            Query(f"sum by (le) (increase({series(f'{ACTIVATION}_bucket')}[{RATE}]))"),
            width=8,
        ),
        Row("Hypervisors"),
        states(
            "Reachable",
            "Whether each hypervisor answers.",
            {"1": ("answers", "green"), "0": ("silent", "red")},
            Query(f"min by (host) ({series('libvirt_up', HOST)})", "{{host}}"),
            width=8,
        ),
        lines(
            "Calls",
            "Calls to each hypervisor, by what became of them; those hanging have not returned long"
            " after their time.",
            "cps",
            Query(
                per_second(series("autoscaler_libvirt_calls_total", HOST), "host, outcome"),
                "{{host}} {{outcome}}",
            ),
            Query(
                f"max by (host) ({series('autoscaler_libvirt_hung_calls', HOST)})",
                "{{host}} hanging now",
            ),
            width=8,
            height=6,
        ),
        states(
            "Launches",
            "Stopped: too many in a row failed, for the service as a whole or on one host.",
            {"0": ("go on", "green"), "1": ("stopped", "red")},
            Query(
                f"max by (service) ({of_service('autoscaler_launch_breaker_open')})",
                "{{service}}",
            ),
            Query(
                "max by (service, host) ("
                + of_service("autoscaler_host_launch_breaker_open", HOST)
                + ")",
                "{{service}} on {{host}}",
            ),
            width=8,
        ),
    ),
)
