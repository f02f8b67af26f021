"""The process's parts folded into rows: for the admin API, and for `/metrics`.

Reads, never changes; no I/O. `service` owns the parts and hands them over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from autoscale.contention import CONTENDED, delay_of
from autoscale.controller import Controller
from autoscale.decision import Decision, Number
from autoscale.host import Contact, Domain, HostInfo
from autoscale.launches import Pause
from autoscale.model import Reason, VmStatus
from autoscale.rules import Contention, Mode, Rules
from lb.admin.control import HostRow, ScaleRow, VmRow
from lb.autoscaler_metrics import AutoscalerRows, ReplicaRow
from lb.decisions import DecisionLog
from lb.histogram import HistogramRow
from lb.rollout_words import holds_against
from lb.site import Site
from lb.vm_metrics import VmFacts
from lb.vm_metrics import VmRow as VmMetrics

NO_CALLS: Final = Contact()


def scale_row(
    service: str, controller: Controller | None, log: DecisionLog, now: float = 0.0
) -> ScaleRow:
    """A service's size, and why. Without VMs everything is 0. `now`: Unix seconds."""
    if controller is None:
        return ScaleRow(service, 0, 0, 0, 0, 0, 0, 0)
    counts, decision, rules = controller.fleet.counts(), log.newest, controller.rules
    turnover, configured = controller.fleet.turnover, controller.fleet.shape.image
    order = rules.override
    if order is not None and not order.holds(log.newest_at or 0.0):
        order = None  # as the last decision found: nobody need take back what has run out
    return ScaleRow(
        service=service,
        desired=decision.desired if decision else counts.active,
        ready=counts.ready,
        booting=counts.booting,
        standby=counts.standby,
        draining=counts.draining,
        min=rules.min,
        max=rules.max,
        reason=decision.reason.value if decision else None,
        sentence=decision.sentence if decision else None,
        decided_at=log.newest_at,
        mode=(order or rules).mode.value,
        to=order.to if order else None,
        until=order.until if order else None,
        ordered=order is not None,
        wanted=decision.wanted if decision else None,
        parts=tuple(part.as_dict() for part in decision.parts) if decision else (),
        guards=tuple(guard.as_dict() for guard in decision.guards) if decision else (),
        pauses=tuple(pause_row(service, pause, now) for pause in controller.fleet.pauses()),
        image=turnover.image(configured),
        image_held=holds_against(service, turnover.rollout, configured) or None,
    )


def pause_row(service: str, pause: Pause, now: float) -> Mapping[str, str | int | float | None]:
    """Launches that wait; `now` and `until` are Unix seconds, None where one may be tried now."""
    return {
        "service": service,
        "host": pause.host,
        "failures": pause.failures,
        "breaker": "open" if pause.is_open else "closed",
        "until": round(now + pause.wait_s, 1) if pause.wait_s else None,
        "why": pause.why,
    }


def readiness(sites: Mapping[str, Site]) -> tuple[bool, str]:
    """May traffic be sent to a process that serves these, by service; and why not, or why."""
    asleep = []
    for name, site in sites.items():
        if site.pool.available:
            continue
        if site.config.scale.min or not site.takes_requests:
            return False, f"service {name} has no backend that serves"
        asleep.append(name)
    if asleep:
        return True, f"every service serves; at zero until a request comes: {', '.join(asleep)}"
    return True, "every service has a backend that serves"


def vm_row(status: VmStatus, image_name: str | None = None) -> VmRow:
    """`image_name`: of the image that it was started from, None where that is not known."""
    signal, sample = status.signal, status.sample
    limit = sample.limit_cores if sample else None
    return VmRow(
        name=status.name,
        service=status.service,
        state=status.state.value,
        libvirt_state=status.power,
        host=status.host,
        address=status.address,
        age_s=round(status.age_s, 1),
        cpu_host_ratio=signal.utilisation if signal else None,
        cpu_vcpu_ratio=signal.vcpu_cores / limit if signal and limit else None,
        memory_bytes=sample.memory_bytes if sample else None,
        image=status.generation[:12] or None,
        image_name=image_name,
        role=status.role,
        path=status.path.value,
        protected=status.protected,
    )


def stray_row(host: str, domain: Domain) -> VmRow:
    """A VM of ours that no service of the configuration owns."""
    return VmRow(
        name=domain.name,
        service=domain.identity.service,
        state="stray",
        libvirt_state=domain.power.value,
        host=host,
        memory_bytes=domain.sample.memory_bytes if domain.sample else None,
        image=domain.identity.generation[:12] or None,
        role=domain.identity.role,
        protected=domain.identity.protected,
    )


def host_row(
    name: str,
    uri: str,
    info: HostInfo | None,
    error: str | None,
    vms: Collection[VmStatus] = (),
    contact: Contact = NO_CALLS,
    pauses: Mapping[str, Pause] = MappingProxyType({}),
    now: float = 0.0,
) -> HostRow:
    """A host as it is now, with all `vms` there; `pauses` of launches there, by service; `now`:
    Unix seconds."""
    silent = contact.silent_s
    replicas = [vm for vm in vms if vm.role == "replica"]
    return HostRow(
        name=name,
        uri=info.uri if info else uri,
        reachable=info is not None and error is None,
        domain_type=info.domain_type if info else None,
        cores=info.cores if info else None,
        libvirt_version=info.libvirt_version if info else None,
        replicas=len(replicas),
        standbys=len(vms) - len(replicas),
        error=error,
        silent_since=None if silent is None else round(now - silent, 1),
        hung_calls=contact.hanging,
        held_by=contact.holder or None,
        pauses=tuple(pause_row(service, pause, now) for service, pause in pauses.items()),
    )


def autoscaler_rows(
    controllers: Mapping[str, Controller],
    logs: Mapping[str, DecisionLog],
    activations: Mapping[str, HistogramRow],
    guest_cores: Mapping[str, float],
    contacts: Mapping[str, Contact] = MappingProxyType({}),
    hosts_up: Mapping[str, bool] = MappingProxyType({}),
) -> AutoscalerRows:
    """Everything the autoscaler shows at one instant."""
    statuses = [s for c in controllers.values() for s in c.fleet.statuses()]
    newest = {name: log.newest for name, log in logs.items() if log.newest is not None}
    replicas = []
    modes: dict[tuple[str, str], bool] = {}
    signals: dict[tuple[str, str], float] = {}
    targets: dict[tuple[str, str], float] = {}
    for name, controller in controllers.items():
        row = scale_row(name, controller, logs[name])
        replicas.append(
            ReplicaRow(name, row.desired, row.ready, row.booting, row.standby, row.min, row.max)
        )
        modes.update({(name, mode.value): row.mode == mode.value for mode in Mode})
        own = [status for status in statuses if status.service == name]
        told = signal_ratios(
            logs[name].newest, own, row.ready + row.booting, controller.rules.queue_drain_s
        )
        signals.update({(name, signal): ratio for signal, ratio in told.items()})
        held = signal_targets(controller.rules)
        targets.update({(name, signal): ratio for signal, ratio in held.items()})
    forecasts = {name: _numbers(decision, Reason.FORECAST) for name, decision in newest.items()}
    return AutoscalerRows(
        replicas=tuple(replicas),
        hosts_up=hosts_up,
        parts={
            (name, part.reason.value): part.asks
            for name, decision in newest.items()
            for part in decision.parts
        },
        modes=modes,
        forecasts=_each(forecasts, "would"),
        forecast_errors=_each(forecasts, "error"),
        signals=signals,
        targets=targets,
        decisions={
            (name, direction, reason): number
            for name, log in logs.items()
            for (direction, reason), number in log.counts.items()
        },
        last_scale_unix_s={
            (name, direction): unix_s
            for name, log in logs.items()
            for direction, unix_s in log.last_scale_unix_s.items()
        },
        activations=activations,
        breakers={name: c.fleet.gate.is_open for name, c in controllers.items()},
        host_breakers={
            (name, pause.host): pause.is_open
            for name, controller in controllers.items()
            for pause in controller.fleet.pauses()
            if pause.host is not None
        },
        calls={
            (host, outcome): number
            for host, contact in contacts.items()
            for outcome, number in contact.calls.items()
        },
        hung_calls={host: contact.hanging for host, contact in contacts.items()},
        rollouts={
            (name, word): number
            for name, controller in controllers.items()
            for word, number in _rollout(controller).items()
        },
        vms=tuple(_vm_metrics(s, guest_cores.get(s.name)) for s in statuses),
    )


def _rollout(controller: Controller) -> Mapping[str, int]:
    rollout = controller.fleet.turnover.rollout
    if rollout is None or not rollout.goes_on:
        return {}
    new, old = controller.fleet.new_and_old()
    return {"new": len(new), "old": len(old)}


def signal_ratios(
    decision: Decision | None, statuses: Iterable[VmStatus], active: int, queue_drain_s: float
) -> dict[str, float]:
    """What each signal of one service says, 1 being its limit; those without a figure are left out.

    cpu: mean utilisation of the VMs that serve. delay: their mean run-queue delay. concurrency:
    running requests of each of the `active` replicas ÷ their target. queue: the time it takes to
    drain ÷ `queue_drain_s`. latency: p99 ÷ its objective.
    """
    serving = [s.signal for s in statuses if s.signal is not None and s.state == "ready"]
    running, line, latency = (
        _numbers(decision, reason) for reason in (Reason.CONCURRENCY, Reason.QUEUE, Reason.LATENCY)
    )
    target = _figure(running, "target")
    found = {
        "cpu": sum(s.utilisation for s in serving) / len(serving) if serving else None,
        "delay": delay_of(serving),
        "concurrency": _ratio(_figure(running, "in_flight"), target and target * active),
        "queue": _ratio(_figure(line, "drain_s"), queue_drain_s),
        "latency": _ratio(_figure(latency, "p99_s"), _figure(latency, "target_s")),
    }
    return {signal: ratio for signal, ratio in found.items() if ratio is not None}


def signal_targets(rules: Rules) -> dict[str, float]:
    """What each signal is held against; those that nothing follows from are left out."""
    targets = {"cpu": rules.target_cpu, "concurrency": 1.0, "queue": 1.0}
    if rules.latency_p99_s is not None:
        targets["latency"] = 1.0
    if rules.host_contention is Contention.HOLD:
        targets["delay"] = CONTENDED
    return targets


def _numbers(decision: Decision | None, reason: Reason) -> Mapping[str, Number]:
    """Those of one part of it; empty where it has no such part."""
    parts = decision.parts if decision is not None else ()
    return next((part.numbers for part in parts if part.reason is reason), {})


def _figure(numbers: Mapping[str, Number], key: str) -> float | None:
    figure = numbers.get(key)
    return figure if isinstance(figure, int | float) else None


def _ratio(figure: float | None, limit: float | None) -> float | None:
    return figure / limit if figure is not None and limit else None


def _each(numbers: Mapping[str, Mapping[str, Number]], key: str) -> dict[str, float]:
    """This figure by service, where there is one."""
    figures = {name: _figure(known, key) for name, known in numbers.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}


def _vm_metrics(status: VmStatus, guest_cores: float | None) -> VmMetrics:
    signal, sample = status.signal, status.sample
    facts = VmFacts(
        service=status.service,
        host=status.host,
        role=status.role,
        path=status.path.value,
        state=status.state.value,
    )
    if sample is None:
        return VmMetrics(status.name, facts=facts)
    ratios = {}
    if signal is not None:
        ratios["host"] = signal.utilisation
        ratios["vcpu"] = signal.vcpu_cores / sample.limit_cores
    if guest_cores is not None:
        ratios["guest"] = guest_cores / sample.limit_cores
    return VmMetrics(
        vm=status.name,
        cpu_ratio=ratios,
        cpu_seconds={"vcpu": sample.vcpu_s, "overhead": max(0.0, sample.cpu_s - sample.vcpu_s)},
        cpu_time_seconds=sample.cpu_s,
        memory_bytes=sample.memory_bytes,
        facts=facts,
        limit_cores=sample.limit_cores,
        vcpus=sample.vcpus,
        delay_seconds=sample.vcpu_delay_s,
        most_memory_bytes=sample.most_memory_bytes or None,
    )
