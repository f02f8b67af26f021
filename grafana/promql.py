"""PromQL in the words of our metrics: what every query selects, and the expressions used often.

Owns the label matchers and the joins. It must not know what a panel is.
"""

from __future__ import annotations

from typing import Final

OF: Final = 'job=~"$job",instance=~"$instance"'
"""Whatever was scraped; every selector has these, so that two `lbctl up` are told apart."""
SERVICE: Final = 'service=~"$service"'
HOST: Final = 'host=~"$host"'
RATE: Final = "$__rate_interval"


def series(name: str, *matchers: str) -> str:
    """A selector, the matchers of the dashboard's variables included."""
    return f"{name}{{{','.join((OF, *matchers))}}}"


def of_service(name: str, *matchers: str) -> str:
    return series(name, SERVICE, *matchers)


def per_second(selector: str, by: str = "service") -> str:
    """A counter's rate, summed by labels."""
    return f"sum by ({by}) (rate({selector}[{RATE}]))"


def or_nought(expression: str, like: str) -> str:
    """0 where there is no such series, by the labels that `like` has."""
    return f"{expression} or {like} * 0"


def quantile(q: float, histogram: str, by: str = "service", *matchers: str) -> str:
    """Seconds below which the share `q` of what a histogram saw lies."""
    inner = per_second(of_service(f"{histogram}_bucket", *matchers), f"le, {by}")
    return f"histogram_quantile({q}, {inner})"


def of_vms(expression: str) -> str:
    """With the service and the host of each VM, of those that the variables select."""
    which = of_service("vm_info", HOST)
    return f"{expression} * on (job, instance, vm) group_left (service, host) {which}"


def of_domains(expression: str) -> str:
    """The same of metrics with libvirt's own word for a VM."""
    return of_vms(f'label_replace({expression}, "vm", "$1", "domain", "(.+)")')


REQUESTS: Final = per_second(of_service("lb_requests_total"))
FAILURES: Final = or_nought(per_second(of_service("lb_requests_total", 'code=~"5.."')), REQUESTS)
ERROR_RATIO: Final = f"({FAILURES}) / ({REQUESTS} > 0)"
VM_CPU: Final = of_vms(series("vm_cpu_ratio"))
VM_CPU_OF_HOST: Final = of_vms(series("vm_cpu_ratio", 'view="host"'))
