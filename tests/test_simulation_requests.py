"""The requests of a scenario: as many as the rate says, as long as the law says, and the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.simulation.requests import Requests, Stream, stream
from autoscale.simulation.scenario import Law
from tests.simulations import flat, scenario, steps


def test_as_many_arrive_as_the_rate_says() -> None:
    """Poisson: mean and variance of the counts are the rate; gaps are exponential (cv 1)."""
    played = scenario(steps((100.0, 1000.0), (0.0, 50.0), (0.0, 50.0), (25.0, 1000.0)))
    times, _ = Requests(played).until(played.duration_s)
    counts, _ = np.histogram(times, bins=np.arange(2101.0))
    assert counts[:1000].mean() == pytest.approx(100, rel=0.01)
    assert counts[:1000].var() == pytest.approx(100, rel=0.15)
    assert counts[1000:1100].sum() == 0
    assert counts[1100:].mean() == pytest.approx(25, rel=0.02)
    gaps = np.diff(times[times < 1000])
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.02)
    assert (gaps > 0).all()


@pytest.mark.parametrize(
    ("law", "cv", "spread"),
    [
        (Law.DETERMINISTIC, 1.0, 0.0),
        (Law.EXPONENTIAL, 3.0, 1.0),
        (Law.GAMMA, 0.5, 0.5),
        (Law.GAMMA, 2.0, 2.0),
        (Law.LOGNORMAL, 0.5, 0.5),
        (Law.LOGNORMAL, 1.5, 1.5),
    ],
)
def test_work_has_the_laws_mean_and_spread(law: Law, cv: float, spread: float) -> None:
    played = scenario(flat(1000.0, 300.0), service_s=0.2, law=law, cv=cv)
    _, works = Requests(played).until(300.0)
    assert works.mean() == pytest.approx(0.2, rel=0.02)
    assert works.std() / works.mean() == pytest.approx(spread, rel=0.06, abs=1e-9)
    assert works.min() > 0


@given(
    cuts=st.lists(st.floats(0.0, 40.0), max_size=8).map(sorted),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_how_they_are_read_changes_nothing(cuts: list[float], seed: int) -> None:
    played = scenario(steps((50.0, 20.0), (5.0, 20.0)), law=Law.EXPONENTIAL, seed=seed)
    times, works = Requests(played).until(40.0)
    reader = Requests(played)
    parts = [reader.until(cut) for cut in (*cuts, 40.0)]
    for cut, (some, _) in zip((*cuts, 40.0), parts, strict=True):
        assert len(some) == 0 or some[-1] < cut
    assert np.concatenate([some for some, _ in parts]).tolist() == times.tolist()
    assert np.concatenate([some for _, some in parts]).tolist() == works.tolist()
    assert (np.diff(times) > 0).all()


def test_more_than_a_batch_is_read_as_well() -> None:
    played = scenario(flat(20_000.0, 10.0), law=Law.EXPONENTIAL)
    times, works = Requests(played).until(10.0)
    assert len(times) == len(works) == pytest.approx(200_000, rel=0.01)
    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize("given", [{"max_replicas": 3}, {"standbys": 2}, {"interval_s": 5.0}])
def test_the_machines_change_no_request(given: dict[str, Any]) -> None:
    rate = flat(30.0, 20.0)
    one, other = scenario(rate, law=Law.GAMMA, cv=2), scenario(rate, law=Law.GAMMA, cv=2, **given)
    for mine, yours in zip(Requests(one).until(20), Requests(other).until(20), strict=True):
        assert mine.tolist() == yours.tolist()


def test_another_seed_brings_others_and_no_stream_is_another() -> None:
    rate = flat(30.0, 20.0)
    first, second = (Requests(scenario(rate, seed=seed)).until(20.0)[0] for seed in (1, 2))
    assert first.tolist() != second.tolist()
    drawn = {float(stream(1, purpose, number).random()) for purpose in Stream for number in (0, 1)}
    assert len(drawn) == 2 * len(Stream)
