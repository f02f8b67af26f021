"""What contradicts itself in a scenario is refused, by its name."""

from __future__ import annotations

from typing import Any

import pytest

from autoscale.model import Path
from autoscale.simulation.scenario import Faults, Law, ScenarioError, Timing
from tests.simulations import flat, scenario


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"min_replicas": 5, "max_replicas": 4}, "5 to 4 replicas"),
        ({"min_replicas": -1}, "-1 to 10 replicas"),
        ({"min_replicas": 0, "max_replicas": 0, "initial_replicas": 0}, "0 to 0 replicas"),
        ({"initial_replicas": 11}, "11 replicas at the start"),
        ({"servers": 0}, "servers must be 1"),
        ({"standbys": -1}, "standbys and queue_length"),
        ({"queue_length": -1}, "queue_length"),
        ({"service_s": 0.0}, "service_s = 0"),
        ({"objective_p99_s": -1.0}, "objective_p99_s = -1"),
        ({"interval_s": 0.0}, "interval_s = 0"),
        ({"interval_s": float("nan")}, "interval_s = nan"),
        ({"law": Law.GAMMA, "cv": 0.0}, "law = deterministic"),
        ({"cv": -1.0}, "cv = -1"),
        ({"overhead_cores": -0.1}, "overhead_cores"),
        ({"timing": Timing(cold_s=-1)}, "cold_s = -1"),
        ({"timing": Timing(drain_s=float("inf"))}, "drain_s = inf"),
        ({"faults": Faults(failing_boots=1.5)}, "failing_boots = 1.5 is no probability"),
        ({"faults": Faults(missing_samples=-0.5)}, "missing_samples = -0.5"),
        ({"faults": Faults(deaths_per_hour=-1)}, "deaths_per_hour"),
    ],
)
def test_contradictions(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError, match="test: ") as caught:
        scenario(flat(1.0, 10.0), **given)
    assert words in str(caught.value)


def test_it_lasts_as_long_as_its_trace() -> None:
    assert scenario(flat(1.0, 12.5)).duration_s == 12.5


def test_the_ways_a_replica_can_come() -> None:
    timing = Timing(standby_s=0.1, snapshot_s=2.0, cold_s=20.0)
    one = scenario(flat(1.0, 10.0), timing=timing, standbys=1, snapshot=True)
    assert one.ways == (Path.STANDBY, Path.SNAPSHOT, Path.COLD)
    assert [one.seconds_of(way) for way in one.ways] == [0.1, 2.0, 20.0]
    assert scenario(flat(1.0, 10.0)).ways == (Path.COLD,)
