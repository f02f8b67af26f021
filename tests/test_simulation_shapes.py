"""The built-in loads: each is what its name says, between its base and its peak."""

from __future__ import annotations

import numpy as np
import pytest

from autoscale.simulation.shapes import (
    DAY_S,
    SHAPES,
    diurnal,
    flash_crowd,
    noise,
    ramp,
    sawtooth,
    sine,
    spike,
    square,
    step,
)

each = pytest.mark.parametrize("name", SHAPES)


def test_all_are_there() -> None:
    assert list(SHAPES) == [
        "step", "ramp", "spike", "flash-crowd", "sine", "diurnal", "sawtooth", "square", "noise",
    ]  # fmt: skip


@each
def test_each_lies_between_base_and_peak_and_lasts_as_long_as_told(name: str) -> None:
    trace = SHAPES[name](base=3.0, peak=21.0, duration_s=600.0)
    rates = trace.per_second()
    assert trace.duration_s == len(rates) == 600
    assert rates.min() >= 3.0 - 1e-9
    assert rates.max() <= 21.0 + 1e-9
    # all of them make use of what lies between
    assert rates.max() - rates.min() > 9.0


@each
def test_each_has_defaults_for_one_to_ten_replicas(name: str) -> None:
    """At 100 ms and one server a replica does 10 requests/s: at the most eight are at work."""
    trace = SHAPES[name]()
    assert 600 <= trace.duration_s <= 3600
    assert trace.peak <= 80.0
    assert trace.per_second().min() < 10.0


@each
def test_each_is_the_same_every_time(name: str) -> None:
    assert SHAPES[name]() == SHAPES[name]()


def test_step() -> None:
    rates = step(1, 9, 30).per_second()
    assert rates.tolist() == [1] * 10 + [9] * 20


def test_ramp() -> None:
    rates = ramp(0, 10, 400).per_second()
    assert rates[:100].tolist() == [0] * 100
    assert np.allclose(np.diff(rates[101:200]), 0.1)
    assert np.allclose(rates[200:300], 10)
    assert np.allclose(np.diff(rates[301:400]), -0.1)


def test_spike() -> None:
    rates = spike(1, 9, 300).per_second()
    assert np.flatnonzero(rates == 9).tolist() == list(range(100, 130))
    assert set(rates) == {1, 9}


def test_flash_crowd() -> None:
    rates = flash_crowd(0, 80, 1800).per_second()
    assert rates[:300].max() == 0
    assert rates[330:630].min() == 80
    assert rates[630 + 180] == pytest.approx(40, rel=0.01)
    assert (np.diff(rates[631:]) < 0).all()


def test_sine() -> None:
    rates = sine(0, 10, 300).per_second()
    assert np.allclose(rates[:100], rates[100:200])
    assert rates[0] < 0.1
    assert rates[50] > 9.9
    assert rates.mean() == pytest.approx(5)


def test_diurnal() -> None:
    rates = diurnal(0, 100, DAY_S).per_second()
    assert len(rates) == 86400
    assert rates.argmin() // 3600 in (3, 4)
    assert rates.argmax() // 3600 in (11, 12)
    assert rates[20 * 3600] > max(rates[18 * 3600], rates[22 * 3600])
    assert rates[0] == pytest.approx(rates[-1], abs=0.01)


def test_sawtooth() -> None:
    rates = sawtooth(0, 10, 600).per_second()
    assert np.allclose(np.diff(rates[:100]), 0.1)
    falls = np.flatnonzero(np.diff(rates) < 0)
    assert falls.tolist() == [99, 199, 299, 399, 499]
    assert (np.diff(rates)[falls] < -9).all()


def test_square() -> None:
    rates = square(1, 9, 120).per_second()
    assert rates.tolist() == ([1] * 10 + [9] * 10) * 6


def test_noise() -> None:
    rates = noise(0, 10, 10_000).per_second()
    assert rates.mean() == pytest.approx(5, abs=0.7)
    tens = rates.reshape(-1, 10)
    assert (tens == tens[:, :1]).all()
    steps = tens[:, 0] - tens[:, 0].mean()
    assert (steps[1:] * steps[:-1]).mean() / steps.var() == pytest.approx(0.7, abs=0.1)
    assert noise(seed=8) != noise(seed=9)
