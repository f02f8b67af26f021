"""A result is told as JSON, whole and without what JSON does not know."""

from __future__ import annotations

import json

from autoscale.simulate import simulate
from autoscale.simulation.result import Series
from tests.simulations import Script, scenario, steps


def test_it_is_json() -> None:
    played = scenario(steps((5.0, 5.0), (0.0, 5.0)), initial_replicas=0, min_replicas=0)
    result = simulate(played, Script({0: 0, 3: 2}))
    told = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert told["planner"] == "script"
    assert (told["scenario"], told["seed"], told["seconds"]) == ("test", 1, 10.0)
    assert told["score"]["requests_total"] == int(result.series.arrived.sum())
    assert told["changes"] == [{"at": 3.0, "before": 0, "after": 2, "why": ""}]
    assert set(told["ending"]) == {"served", "lost", "running", "waiting"}
    assert set(told["series"]) == set(Series.__dataclass_fields__)
    assert all(len(values) == 10 for values in told["series"].values())
    # nobody arrives in the last seconds, and nobody serves at all
    assert told["series"]["p99_s"][9] is None
    assert told["series"]["utilisation"][0] is None
    assert told["series"]["violated"][0] is True


def test_the_series_may_be_left_out() -> None:
    result = simulate(scenario(steps((5.0, 2.0))), Script({0: 1}))
    assert set(result.as_dict()) - set(result.as_dict(series=False)) == {"series"}
