"""Rate traces: what they say of each second, and what is wrong with a file that is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.simulation.trace import RateTrace, TraceError, parse_trace, read_trace, sampled

HEADER = "seconds,requests_per_second"


def parsed(*rows: str, speed: float = 1.0, scale: float = 1.0) -> RateTrace:
    return parse_trace([HEADER, *rows], speed, scale)


def test_a_rate_holds_until_the_next_row_and_the_last_as_long_as_the_step_before() -> None:
    trace = parsed("0,10", "5,20", "7,0")
    assert trace == RateTrace((0.0, 5.0, 7.0), (10.0, 20.0, 0.0), 9.0)
    assert [trace.at(second) for second in (0, 4.9, 5, 6.9, 7, 100)] == [10, 10, 20, 20, 0, 0]
    assert trace.expected == 10 * 5 + 20 * 2
    assert trace.peak == 20


def test_a_single_row_holds_for_a_second() -> None:
    assert parsed("0,10").duration_s == 1.0


def test_it_may_begin_anywhere() -> None:
    assert parsed("1000,10", "1005,20") == parsed("0,10", "5,20")


def test_a_gap_lies_on_the_line_between_what_is_known() -> None:
    trace = parsed("0,", "10,10", "20,", "40,40", "50,")
    assert trace.rates == (10.0, 10.0, 20.0, 40.0, 40.0)


def test_speed_and_scale() -> None:
    assert parsed("0,10", "60,20", speed=60, scale=3) == RateTrace((0.0, 1.0), (30.0, 60.0), 2.0)


@pytest.mark.parametrize("factors", [(0, 1), (-1, 1), (1, 0), (float("inf"), 1), (1, float("nan"))])
def test_impossible_factors_are_refused(factors: tuple[float, float]) -> None:
    with pytest.raises(TraceError, match=r"(speed|scale) = \S+ is not above 0"):
        parsed("0,10", speed=factors[0], scale=factors[1])


def test_comments_empty_lines_and_spaces_count_for_nothing() -> None:
    lines = ["# made by hand", "", " Seconds , requests_per_second", "0, 10", "", "# more", "1 ,20"]
    assert parse_trace(lines).rates == (10.0, 20.0)


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        ([], None, "the file is empty"),
        (["", "# nothing"], None, "the file is empty"),
        ([HEADER], None, "there is no row after the header"),
        (["0,10", "1,20"], 1, "the header seconds,requests_per_second is missing"),
        (["time,rate", "0,1"], 1, "the header"),
        ([HEADER, "0,10", "1,-2"], 3, "requests_per_second = -2 is negative"),
        ([HEADER, "-1,10"], 2, "seconds = -1 is negative"),
        ([HEADER, "0,fast"], 2, "requests_per_second = 'fast' is not a number"),
        ([HEADER, ",10"], 2, "seconds = '' is not a number"),
        ([HEADER, "0,inf"], 2, "is not a number to count with"),
        ([HEADER, "0,nan"], 2, "is not a number to count with"),
        ([HEADER, "0,1", "2,1", "", "2,5"], 5, "second 2 does not come after 2"),
        ([HEADER, "0,1", "2,1", "1,5"], 4, "second 1 does not come after 2"),
        ([HEADER, "0,1,2"], 2, "3 columns where 2 are wanted"),
        ([HEADER, "0"], 2, "1 columns where 2 are wanted"),
        ([HEADER, "0,", "1,"], None, "no row has a rate"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(
    lines: list[str], line: int | None, words: str
) -> None:
    with pytest.raises(TraceError) as caught:
        parse_trace(lines)
    assert caught.value.line == line
    assert words in str(caught.value)
    assert line is None or f"line {line}: " in str(caught.value)


def test_a_file_is_read_with_or_without_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"\ufeff{HEADER}\r\n0,10\r\n2,20\r\n", encoding="utf-8")
    assert read_trace(path, speed=2) == RateTrace((0.0, 1.0), (10.0, 20.0), 2.0)


def test_a_file_that_cannot_be_read_is_a_trace_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(TraceError, match="is no text"):
        read_trace(tmp_path / "binary.csv")


@pytest.mark.parametrize(
    ("starts", "rates", "duration"),
    [
        ((), (), 1.0),
        ((0.0,), (1.0, 2.0), 1.0),
        ((1.0,), (1.0,), 2.0),
        ((0.0, 0.0), (1.0, 2.0), 1.0),
        ((0.0,), (1.0,), 0.0),
        ((0.0,), (-1.0,), 1.0),
        ((0.0,), (float("inf"),), 1.0),
        ((0.0,), (1.0,), float("inf")),
    ],
)
def test_no_trace_is_made_of_nonsense(
    starts: tuple[float, ...], rates: tuple[float, ...], duration: float
) -> None:
    with pytest.raises(TraceError):
        RateTrace(starts, rates, duration)


def test_each_second_has_its_mean_rate() -> None:
    trace = RateTrace((0.0, 0.5, 2.25), (10.0, 20.0, 40.0), 3.5)
    assert trace.per_second().tolist() == pytest.approx([15.0, 20.0, 35.0, 40.0])


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=30), st.sampled_from([0.25, 1.0, 2.5]))
@settings(max_examples=50, deadline=None)
def test_seconds_add_up_to_the_whole(rates: list[float], step_s: float) -> None:
    trace = sampled(rates, step_s)
    seconds = trace.per_second()
    lengths = [min(1.0, trace.duration_s - second) for second in range(len(seconds))]
    assert float((seconds * lengths).sum()) == pytest.approx(trace.expected, abs=1e-6)
