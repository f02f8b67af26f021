"""The picture of a comparison: what is in it, whatever the results are like."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from autoscale.simulation.result import Result
from lb.commands.simulation_plot import BINS, _highest, _mean, draw
from tests.standings import result


def drawn(tmp_path: Path, *results: Result) -> str:
    """The SVG's comments: matplotlib writes each text there as it was given."""
    path = tmp_path / "picture.svg"
    draw(results, path)
    ElementTree.parse(path)  # noqa: S314 — our own
    return path.read_text(encoding="utf-8")


def test_everybody_is_in_it_with_his_seconds(tmp_path: Path) -> None:
    text = drawn(tmp_path, result("ours", late=(5, 6, 7)), result("Knative KPA", late=(5,)))
    for word in ("ours", "Knative KPA", "capacity, ours", "objective", "offered", "3 s", "1 s"):
        assert f"<!-- {word} -->" in text
    assert "<!-- beyond it -->" not in text, "the load never was"


def test_seconds_without_a_request_leave_gaps(tmp_path: Path) -> None:
    quiet = result("ours")
    quiet.series.p99_s[:] = np.nan
    drawn(tmp_path, quiet)


@pytest.mark.parametrize("seconds", [1, 2, 299, 5 * 3600])
def test_any_length(tmp_path: Path, seconds: int) -> None:
    unit = {1: "seconds", 2: "seconds", 299: "seconds", 18000: "hours"}[seconds]
    assert f"<!-- {unit} -->" in drawn(tmp_path, result("ours", seconds))


def test_a_day_is_folded_and_no_peak_is_lost() -> None:
    values = np.zeros(86400)
    values[12345] = 7.0
    assert len(_highest(values)) <= BINS
    assert _highest(values).max() == 7.0
    assert _mean(np.full(86399, 2.0)).tolist() == [2.0] * len(_mean(np.full(86399, 2.0)))
    assert np.isnan(_highest(np.full(3, np.nan))).all()
