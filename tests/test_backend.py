"""One backend: its lifecycle table and the one predicate."""

from __future__ import annotations

import itertools

import pytest

from lb.backend import TRANSITIONS, Backend, Lifecycle
from lb.config_service import OutlierConfig
from lb.errors import BadTransitionError


def backend(lifecycle: Lifecycle = Lifecycle.STARTING) -> Backend:
    made = Backend("web-1", "127.0.0.1:80")
    made.lifecycle = lifecycle
    return made


@pytest.mark.parametrize(("start", "to"), list(itertools.product(Lifecycle, Lifecycle)))
def test_only_the_tables_steps_are_taken(start: Lifecycle, to: Lifecycle) -> None:
    subject = backend(start)
    if to in TRANSITIONS[start]:
        subject.move(to)
        assert subject.lifecycle is to
    else:
        with pytest.raises(BadTransitionError):
            subject.move(to)
        assert subject.lifecycle is start


def test_gone_is_the_end_and_everything_leads_there() -> None:
    assert TRANSITIONS[Lifecycle.GONE] == frozenset()
    assert all(Lifecycle.GONE in TRANSITIONS[s] for s in Lifecycle if s is not Lifecycle.GONE)


@pytest.mark.parametrize(
    ("lifecycle", "healthy"), list(itertools.product(Lifecycle, [True, False]))
)
def test_available_means_ready_healthy_and_not_ejected(lifecycle: Lifecycle, healthy: bool) -> None:
    subject = backend(lifecycle)
    subject.healthy = healthy
    well = healthy and lifecycle is Lifecycle.READY
    assert (subject.passes, subject.available, subject.ejected) == (well, well, False)
    subject.record.eject(OutlierConfig(), 5.0)
    assert (subject.passes, subject.available, subject.ejected) == (well, False, True)
    assert subject.view(now=5.0).ejected
    assert "ejected" in repr(subject)
    load = subject.load()
    assert (load.passes, load.available) == (well, False)


def test_a_view_has_every_field_of_the_contract() -> None:
    view = backend().view(now=1.0, cpu=0.5).as_dict()
    assert set(view) >= {
        "name", "address", "lifecycle", "healthy", "weight", "in_flight", "requests_total",
        "failures_total", "latency_p50_s", "latency_p99_s", "vm", "ejected",
    }  # fmt: skip
    assert view["cpu"] == 0.5
    assert view["latency_p50_s"] is None, "no request: missing is not zero"


def test_a_weight_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        Backend("x", "h:1", weight=0)
