"""What the overload benchmark calls a miss. The run itself is `./run bench overload`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.overload import Phase, Run, misses, report


def run(p99_s: float, overload_p99_s: float, served: float) -> Run:
    return Run(
        adaptive=True,
        capacity=Phase("capacity", 368.0, 7360, 368.0, 0, 0, 0.025, p99_s),
        overload=Phase("overload", 1200.0, 7800, served, 16_000, 0, 0.06, overload_p99_s),
        doubts=[],
    )


@pytest.mark.parametrize(
    ("overload_p99_s", "served", "words"),
    [
        (0.12, 390.0, []),
        (0.13, 390.0, ["2.17 times"]),
        (0.12, 350.0, ["only 88%"]),
        (5.0, 100.0, ["83.33 times", "only 25%"]),
    ],
)
def test_slow_answers_and_too_few_of_them_are_misses(
    overload_p99_s: float, served: float, words: list[str]
) -> None:
    found = misses(400.0, [run(0.06, overload_p99_s, served)] * 3)
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


def test_nothing_accepted_is_a_miss() -> None:
    assert len(misses(400.0, [run(0.0, 0.0, 0.0)] * 3)) == 2


def test_one_bad_round_of_three_is_not() -> None:
    good, bad = run(0.06, 0.1, 390.0), run(0.06, 0.3, 300.0)
    off = replace(run(0.06, 9.0, 10.0), adaptive=False)
    assert misses(400.0, [off, good, bad, good]) == []
    assert len(misses(400.0, [off, good, bad, bad])) == 2


def test_what_the_load_tester_does_not_believe_itself_does_not_count() -> None:
    good, bad = run(0.06, 0.1, 390.0), run(0.06, 0.3, 300.0)
    doubtful = replace(bad, doubts=["send lag"])
    assert misses(400.0, [good, doubtful, doubtful, good, good]) == []
    assert "too busy" in misses(400.0, [good, doubtful, good])[0]


def test_the_report_has_a_line_for_each_load() -> None:
    text = report(400.0, [run(0.06, 0.09, 390.0)])
    assert "on        overload      1200/s     390/s  67.2%" in text
    assert "p99 overload / p99 capacity: 1.50" in text
