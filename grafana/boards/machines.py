"""What does each machine do? Utilisation, saturation and errors of every VM, seen from three sides.

The method is Brendan Gregg's USE, https://www.brendangregg.com/usemethod.html.
"""

from __future__ import annotations

from typing import Final

from grafana.board import Board
from grafana.panels import RED, YELLOW, Query, Row, lines, states, table
from grafana.promql import (
    HOST,
    RATE,
    VM_CPU_OF_HOST,
    of_domains,
    of_service,
    of_vms,
    or_nought,
    per_second,
    series,
)


def view(word: str, description: str) -> tuple[str, str, Query]:
    expression = of_vms(series("vm_cpu_ratio", f'view="{word}"'))
    return f"CPU, {word}'s view", description, Query(expression, "{{vm}} on {{host}}")


VIEWS: Final = (
    view("host", "All CPU that the host spent for the VM, of what it may use. What counts here is"
         " what the autoscaler acts on."),
    view("vcpu", "What its virtual CPUs used of that. The rest of the host's view is QEMU's own:"
         " its main loop, disk and network."),
    view("guest", "What the guest itself counts as busy, of the same. It cannot see what it had to"
         " wait for: held at its limit it takes the waiting for its own work."),
)  # fmt: skip

OF_HOST: Final = series("vm_cpu_ratio", 'view="host"')

BOARD: Final = Board(
    uid="lbctl-machines",
    title="lbctl / Virtual machines",
    description="What each machine does: utilisation, saturation and errors, and its CPU as the"
    " host, its virtual CPUs and the guest see it.",
    parts=(
        table(
            "Machines now",
            "Each VM, what it is there for (replica, standby, template), by which path it came, its"
            " state, and its CPU as the host sees it.",
            "percentunit",
            Query(of_service("vm_info", HOST)),
            Query(f"max by (vm) ({OF_HOST})"),
            hidden=("__name__", "Value #A"),
            named={"Value #B": "CPU"},
            width=24,
            height=6,
        ),
        Row("Utilisation"),
        *(
            lines(title, description, "percentunit", query, width=8, top=1)
            for title, description, query in VIEWS
        ),
        lines(
            "Cores used, by part",
            "Host cores that the VMs use: their virtual CPUs, and QEMU's own overhead.",
            "short",
            Query(of_vms(f"rate({series('vm_cpu_seconds_total')}[{RATE}])"), "{{vm}} {{part}}"),
            stack=True,
        ),
        lines(
            "Memory",
            "Of the host, as far as the guest has touched it; dashed what the guest was given.",
            "bytes",
            Query(of_vms(series("vm_memory_bytes")), "{{vm}} used"),
            Query(of_domains(series("libvirt_domain_info_maximum_memory_bytes")), "{{vm}} given"),
            dashed=("given$",),
        ),
        lines(
            "Guests' CPU by mode",
            "As the guests count it themselves: busy CPUs, all guests together.",
            "short",
            Query(
                per_second(
                    of_service("guest_cpu_seconds_total", HOST, 'mode!~"idle|iowait"'), "mode"
                ),
                "{{mode}}",
            ),
            stack=True,
        ),
        lines(
            "Work",
            "Requests that the application in each guest answered, as it counts them.",
            "reqps",
            Query(per_second(of_service("webapp_requests_total", HOST), "vm"), "{{vm}}"),
            stack=True,
        ),
        Row("Saturation"),
        lines(
            "Waiting for a core",
            "Share of the time that virtual CPUs could have run and had no core of the host. From a"
            " quarter on another replica there would make it worse.",
            "percentunit",
            Query(
                of_domains(f"rate({series('libvirt_domain_vcpu_delay_seconds_total')}[{RATE}])"),
                "{{vm}} on {{host}}",
            ),
            limits={YELLOW: 0.25},
        ),
        lines(
            "Headroom",
            "Host cores that each VM may use, less what it uses.",
            "short",
            Query(
                of_vms(
                    f"({series('vm_cpu_limit_cores')} - sum by (job, instance, vm)"
                    f" (rate({series('vm_cpu_seconds_total')}[{RATE}])))"
                ),
                "{{vm}} on {{host}}",
            ),
        ),
        lines(
            "Queues in the guests",
            "Renders that wait or run in each guest's application.",
            "short",
            Query(of_service("webapp_waiting_renders", HOST), "{{vm}}"),
        ),
        lines(
            "Host CPU against requests",
            "CPU seconds that the host spends for one request: what a request costs. It rises where"
            " a replica is new, or its host is crowded.",
            "s",
            Query(
                f"sum by (vm) ({VM_CPU_OF_HOST} * on (job, instance, vm) group_left ()"
                f" {series('vm_cpu_limit_cores')}) / on (vm)"
                f" ({per_second(of_service('webapp_requests_total', HOST), 'vm')} > 0)",
                "{{vm}}",
            ),
        ),
        Row("Errors"),
        lines(
            "Answers of the guests that are errors",
            "5xx of the application in each guest.",
            "reqps",
            Query(
                or_nought(
                    per_second(of_service("webapp_requests_total", HOST, 'code=~"5.."'), "vm"),
                    per_second(of_service("webapp_requests_total", HOST), "vm"),
                ),
                "{{vm}}",
            ),
        ),
        states(
            "Guests answer",
            "Whether Prometheus reaches each guest's own metrics.",
            {"1": ("up", "green"), "0": ("down", "red")},
            Query(of_service("up", HOST), "{{vm}} on {{host}}"),
            height=8,
        ),
        lines(
            "Calls that failed",
            "Calls to the hypervisors that did not end well, and those that hang.",
            "cps",
            Query(
                per_second(
                    series("autoscaler_libvirt_calls_total", HOST, 'outcome!="ok"'), "host, outcome"
                ),
                "{{host}} {{outcome}}",
            ),
            Query(
                f"max by (host) ({series('autoscaler_libvirt_hung_calls', HOST)})",
                "{{host}} hanging now",
            ),
            limits={RED: 1},
        ),
        states(
            "Hypervisors",
            "Whether each answers.",
            {"1": ("answers", "green"), "0": ("silent", "red")},
            Query(f"min by (host) ({series('libvirt_up', HOST)})", "{{host}}"),
            height=8,
        ),
    ),
)
