"""What is taken in at one instant, whatever is done about it."""

from __future__ import annotations

from typing import Any

import pytest

from autoscale.model import Fleet, Path, Reason, Signal, Way
from autoscale.outlook import Outlook, look
from autoscale.rules import Forecasting, Rules
from autoscale.signals import Signals
from autoscale.state import State
from tests.planning import COLD, NOW, Story, plain

STANDBY = Way(Path.STANDBY, 0.05, 1)


def signal(vm: str, delay: float | None, age_s: float = 0.0, used: float = 0.9) -> Signal:
    return Signal(vm, NOW - age_s, used, used, used, delay, 1.0)


def seen(signals: Signals, rules: Rules | None = None, fleet: Fleet | None = None) -> Outlook:
    count = len(signals.serving)
    fleet = fleet or Fleet("web", ready=count, existing=count, ways=COLD)
    rules = rules or plain()
    return look(signals, fleet, State.start(count, rules), rules, NOW, count)[0]


# ── contention ───────────────────────────────────────────────────────────────────────────────────


def contended(
    *guests: tuple[str, float | None, float], hosts: tuple[str, ...] = ("a", "b")
) -> float | None:
    """The delay it tells of. `guests`: host, delay, age of the sample."""
    names = [f"web-{i}" for i in range(len(guests))]
    signals = Signals(
        cpu={n: signal(n, delay, age) for n, (_, delay, age) in zip(names, guests, strict=True)},
        serving=tuple(names),
        host_of={n: host for n, (host, _, _) in zip(names, guests, strict=True)},
        hosts=hosts,
    )
    guards = seen(signals).contended
    if not guards:
        return None
    (guard,) = guards
    assert guard.reason is Reason.HOST_CONTENDED
    delay = guard.numbers["delay"]
    assert isinstance(delay, float)
    return delay


def test_where_every_host_is_full_the_least_full_is_told_of() -> None:
    assert contended(("a", 0.6, 0), ("a", 0.4, 0), ("b", 0.3, 0)) == pytest.approx(0.3)
    assert contended(("b", 0.6, 0), ("a", 0.4, 0), ("a", 0.3, 0)) == pytest.approx(0.35)


def test_one_host_with_room_is_enough() -> None:
    assert contended(("a", 0.6, 0), ("b", 0.1, 0)) is None
    assert contended(("a", 0.6, 0)) is None, "nobody of ours is on b, so nothing speaks against it"
    assert contended(("a", 0.6, 0), ("b", None, 0)) is None


def test_on_one_that_does_not_answer_nobody_can_start() -> None:
    assert contended(("a", 0.6, 0), ("b", 0.0, 60), hosts=("a",)) == pytest.approx(0.6)


def test_what_was_a_minute_ago_says_nothing_of_now() -> None:
    assert contended(("a", 0.0, 0), ("a", 0.9, 60), hosts=("a",)) is None
    assert contended(("a", 0.6, 0), ("b", 0.6, 60)) is None


def test_without_any_host_nothing_is_said() -> None:
    assert contended(("a", 0.9, 0), hosts=()) is None


# ── what is learned while nothing is done ────────────────────────────────────────────────────────


def test_a_floor_is_the_higher_of_schedule_and_forecast() -> None:
    outlook = seen(Signals())._replace(rules=plain(forecast=Forecasting.ACT))
    assert outlook.floor is None
    part = outlook.parts[0]
    schedule = part._replace(reason=Reason.SCHEDULE, asks=2)
    forecast = part._replace(reason=Reason.FORECAST, asks=3)
    assert outlook._replace(parts=(part, schedule, forecast)).floor is forecast
    silent = forecast._replace(asks=0)
    assert outlook._replace(parts=(part, silent)).floor is None, "only observed"


def test_it_is_blind_where_somebody_serves_and_nobody_is_heard_of() -> None:
    assert seen(Signals(serving=("web-0",))).blind
    assert not seen(Signals()).blind
    assert not seen(Signals({"web-0": signal("web-0", None)}, ("web-0", "web-1"))).blind


def test_idle_is_who_has_had_nothing_to_do_since() -> None:
    story = Story(plain(0))
    busy: list[dict[str, Any]] = [{"in_flight": 1}, {"queued": 1}, {"elsewhere": 1}]
    since: list[float | None] = []
    for work in ({}, {}, *busy, {}, {}):
        story.tick(0.0, **work)
        since.append(story.state.idle_since)
    assert since == [NOW + 1, NOW + 1, None, None, None, NOW + 6, NOW + 6]


def test_what_is_not_known_is_not_learned_for_the_forecast() -> None:
    story = Story(plain(forecast=Forecasting.OBSERVE))
    story.ticks(3, 0.5)
    before = story.state.forecast
    assert before is not None
    story.ticks(3, None)
    assert story.state.forecast == before
    story.tick(0.5)
    assert story.state.forecast != before


def test_another_season_is_learned_anew_and_none_is_forgotten() -> None:
    story = Story(plain(forecast=Forecasting.OBSERVE))
    story.ticks(3, 0.5)
    story.rules = plain(forecast=Forecasting.OBSERVE, season_s=7200.0)
    story.tick(0.5)
    assert story.state.forecast is not None
    assert story.state.forecast.season_s == 7200.0
    story.rules = plain()
    story.tick(0.5)
    assert story.state.forecast is None


@pytest.mark.parametrize("trouble", [{"unavailable": 1}, {}])
def test_where_nobody_knows_how_much_there_is_to_do_the_window_holds_all(
    trouble: dict[str, Any],
) -> None:
    """One that is unavailable, or one without a sample: for a whole window after it is back."""
    story = Story(plain(shrink_window_s=20.0), replicas=2)
    story.ticks(30, 0.1, 0.1)
    story.state = story.state._replace(desired=2)
    if trouble:
        story.tick(0.1, **trouble)
    else:
        story.tick(0.1, None)
    assert all(story.tick(0.1, 0.1).desired == 2 for _ in range(19))


def test_what_a_trial_won_is_not_lost_to_missing_samples() -> None:
    """Half of the work is not seen for a while: that is not half of the work."""
    story = Story(plain(latency_p99_s=0.5))
    story.ticks(20, 0.4, p99_s=0.9)
    story.ticks(60, 0.2, 0.2, p99_s=0.3)
    story.ticks(90, 0.2, None, p99_s=0.3)
    assert story.ticks(120, 0.2, 0.2, p99_s=0.3).desired == 2


def test_an_objective_that_was_taken_back_leaves_nothing_behind() -> None:
    story = Story(plain(latency_p99_s=0.5))
    assert story.ticks(20, 0.4, p99_s=0.9).desired == 2
    story.rules = plain()
    story.tick(0.2, 0.2, p99_s=0.9)
    story.rules = plain(latency_p99_s=0.5)
    assert story.tick(0.2, 0.2, p99_s=0.3).reason is not Reason.LATENCY
    assert story.ticks(90, 0.2, 0.2, p99_s=0.3).desired == 1


def test_levels_to_remember_are_as_few_as_replicas() -> None:
    """A queue of a million asks for no more than could ever be followed."""
    story = Story(plain(high=3))
    for count in range(50):
        story.tick(0.9, in_flight=count * 1000)
    assert all(len(flight.steps) <= 5 for flight in story.state.pace.up)


def test_the_forecast_is_of_what_comes_in_where_a_queue_shows_it_is_too_much() -> None:
    """CPU says 1 of one replica; 60 a second come, where one answers 20."""
    calm = Story(plain(forecast=Forecasting.OBSERVE))
    flooded = Story(plain(forecast=Forecasting.OBSERVE))
    for _ in range(5):
        calm.tick(1.0)
        flooded.tick(1.0, queued=5, arrivals=60.0)
    assert calm.state.forecast != flooded.state.forecast


def test_a_lead_is_that_of_the_slowest_way() -> None:
    """What is known ahead must be ready in time, also where no standby is left."""
    story = Story(plain(forecast=Forecasting.ACT, season_s=600.0), ways=(STANDBY, *COLD))
    for _ in range(1300):
        decision = story.load(0.5)
    (forecast,) = [part for part in decision.parts if part.reason is Reason.FORECAST]
    assert forecast.numbers["lead_s"] == 11.0
    assert forecast.numbers["demand"] == pytest.approx(0.5)
    assert (forecast.asks, forecast.numbers["would"]) == (1, 1)
