"""What the WebSocket benchmark makes of its runner's reports. The run itself needs PyPI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.autobahn import Found, misses, report, results

FINE = {f"1.1.{number}": "OK, close OK" for number in range(1, 600)}


def test_the_same_results_are_no_miss_whatever_they_are() -> None:
    assert misses(Found(FINE, FINE, 30, 30), quick=False) == []
    failing = {**FINE, "7.9.5": "FAILED, close WRONG CODE"}
    both = Found(failing, failing, 30, 30)
    assert misses(both, quick=False) == []
    assert "the server itself fails 7.9.5: FAILED, close WRONG CODE" in report(both)


def test_a_case_that_ends_otherwise_is_a_miss() -> None:
    one = Found(FINE, {**FINE, "1.1.2": "OK, close UNCLEAN"}, 30, 30)
    assert misses(one, quick=False) == [
        "case 1.1.2: OK, close OK directly, OK, close UNCLEAN through the proxy"
    ]


def test_a_case_that_was_not_run_is_a_miss() -> None:
    less = {case: verdict for case, verdict in FINE.items() if case != "1.1.7"}
    assert misses(Found(FINE, less, 30, 30), quick=False) == [
        "case 1.1.7: OK, close OK directly, not run through the proxy"
    ]


def test_a_suite_of_few_cases_is_not_the_suite() -> None:
    few = dict(list(FINE.items())[:299])
    assert misses(Found(few, few, 30, 30), quick=True) == ["only 299 cases were run"]


def test_what_stays_open_is_a_miss() -> None:
    assert misses(Found(FINE, FINE, 30, 31), quick=False) == ["31 files are open, 30 were before"]


def test_results_are_read_from_the_runners_report(tmp_path: Path) -> None:
    verdict = {"behavior": "OK", "behaviorClose": "WRONG CODE", "duration": 3}
    (tmp_path / "index.json").write_text(json.dumps({"a server": {"1.1.1": verdict}}))
    assert results(tmp_path, "") == {"1.1.1": "OK, close WRONG CODE"}
    with pytest.raises(SystemExit, match="no report: nobody listens"):
        results(tmp_path / "none", "nobody listens")
