"""The judge: who is an outlier, for how long he is spared, and how many may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.config_service import OutlierConfig
from lb.outlier import Record, below_the_rest, fails_alone, most_ejected, speaks_against

RULES = OutlierConfig()
NOW = 1000.0


def record(answers: str, now: float = NOW) -> Record:
    """`+` a good answer, `-` a bad one, in this order, all at one moment."""
    made = Record()
    for answer in answers:
        (made.good if answer == "+" else made.bad)(now)
    return made


def alone(answers: str, *others: str, rules: OutlierConfig = RULES) -> bool:
    return fails_alone(record(answers), [record(other) for other in others], rules, NOW)


# ── failures in a row ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "against"),
    [
        (200, False), (404, False), (429, False), (499, False), (500, True), (501, False),
        (502, True), (503, True), (504, True), (505, False), (507, True), (599, True),
    ],
)  # fmt: skip
def test_which_answers_speak_against_a_backend(status: int, against: bool) -> None:
    assert speaks_against(status) is against


def test_five_in_a_row_while_the_others_do_well() -> None:
    assert alone("+++-----", "+++", "++")
    assert not alone("+++----", "+++", "++"), "four"
    assert not alone("-----+", "+++", "++"), "a good answer between"


def test_where_all_fail_alike_nobody_stands_out() -> None:
    assert not alone("-----", "-----", "----")
    assert not alone("-----", "++++++++--", "++++++++--"), "it began a moment ago, everywhere"
    assert not alone("-----", "+-+-+-", "-+-+-+"), "every other one fails anyway"


def test_half_of_the_others_are_enough() -> None:
    assert alone("-----", "-----", "+++++"), "two of three are broken"
    assert not alone("-----", "-----", "-----", "+++++"), "most fail: that is the application"


def test_of_whom_nothing_was_heard_nothing_is_known() -> None:
    assert alone("-----", "", ""), "the others may well be better"
    assert alone("-----")
    assert alone("-----", "+", "", "")
    assert not alone("-----", "--", "", "")


def test_what_was_longer_ago_than_the_window_does_not_count() -> None:
    old = record("+" * 100, NOW - 60)
    assert fails_alone(record("-----"), [old, record("++")], RULES, NOW)
    assert not fails_alone(record("-----"), [old, record("--")], RULES, NOW)


@given(st.integers(1, 20), st.lists(st.text("+-", max_size=12), max_size=5), st.text("+-"))
def test_fewer_than_so_many_in_a_row_never_suffice(
    limit: int, others: list[str], answers: str
) -> None:
    rules = OutlierConfig(consecutive_5xx=limit)
    streak = len(answers) - len(answers.rstrip("-"))
    assert not alone(answers, *others, rules=rules) or streak >= limit


@given(st.integers(1, 9), st.text("+-", max_size=30), st.integers(5, 20))
def test_equals_are_never_outliers(others: int, answers: str, streak: int) -> None:
    same = answers + "-" * streak
    assert not alone(same, *[same] * others)


# ── success rates ────────────────────────────────────────────────────────────────────────────────


def outliers(*rates: tuple[int, int], rules: OutlierConfig = RULES) -> list[int]:
    """(good, bad) answers of each → who is below the rest, by number."""
    records = [record("+" * good + "-" * bad) for good, bad in rates]
    return [n for n, _, _ in below_the_rest(list(enumerate(records)), rules, NOW)]


def test_so_far_below_the_median_of_the_others() -> None:
    assert outliers((100, 0), (100, 0), (80, 20)) == [2], "just the margin"
    assert outliers((100, 0), (100, 0), (81, 19)) == []
    assert outliers((82, 18), (82, 18), (62, 38)) == [2], "0.82 - 0.2 is less than 0.62 in binary"
    assert outliers((60, 40), (50, 50), (55, 45)) == [], "all alike"
    assert outliers((100, 0), (50, 50), (50, 50)) == [], "most are like that"
    assert outliers((90, 10), (100, 0), (10, 90), (40, 60), (95, 5)) == [2, 3], "the worst first"


def test_few_requests_are_not_compared() -> None:
    assert outliers((100, 0), (100, 0), (0, 49)) == []
    assert outliers((0, 50)) == [], "with whom?"
    assert outliers((49, 0), (0, 50)) == []
    assert outliers((50, 0), (0, 50)) == [1]


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8),
    st.floats(0.01, 1),
)
def test_the_better_half_is_never_among_them(rates: list[tuple[int, int]], margin: float) -> None:
    rules = OutlierConfig(success_margin=margin, min_requests=20)
    compared = [good / (good + bad) for good, bad in rates if good + bad >= 20]
    found = outliers(*rates, rules=rules)
    assert len(found) <= len(compared) // 2
    best = max(compared, default=0.0)
    for number in found:
        good, bad = rates[number]
        assert good / (good + bad) < best


# ── how long ─────────────────────────────────────────────────────────────────────────────────────


def eject(one: Record, at: float) -> float:
    """Ejects it, and reinstates it when its time is over. Returns how long that took."""
    length_s = one.eject(RULES, at)
    assert one.until == at + length_s
    one.reinstate(at + length_s)
    return length_s


def test_each_time_is_twice_as_long_up_to_the_most() -> None:
    one, now = Record(), NOW
    lengths = []
    for _ in range(7):
        lengths.append(eject(one, now))
        now += lengths[-1] + 1
    assert lengths == [10, 20, 40, 80, 160, 300, 300]


def test_doing_well_is_counted_in_its_favour() -> None:
    one = Record()
    assert [eject(one, NOW), eject(one, NOW + 11), eject(one, NOW + 32)] == [10, 20, 40]
    assert eject(one, NOW + 72 + 19.9) == 40, "one period done well: one step back"
    assert eject(one, NOW + 132 + 3600) == 10, "all forgotten"


def test_however_often_there_is_a_most() -> None:
    one = Record()
    assert {eject(one, NOW) for _ in range(2000)} <= {10, 20, 40, 80, 160, 300}


def test_after_an_ejection_it_starts_with_a_clean_sheet() -> None:
    one = record("+" * 10 + "-" * 90)
    eject(one, NOW)
    assert (one.until, one.streak, one.requests(NOW), one.success(NOW)) == (None, 0, 0, None)


def test_a_new_window_counts_anew() -> None:
    one = record("+++---")
    one.measure(60.0)
    assert (one.requests(NOW), one.streak) == (0, 3)
    one.good(NOW)
    assert one.requests(NOW + 50) == 1
    assert one.requests(NOW + 61) == 0


# ── how many ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("share", "healthy", "most"),
    [
        (0.5, 0, 0), (0.5, 1, 0), (0.5, 2, 1), (0.5, 3, 1), (0.5, 4, 2), (0.5, 5, 2),
        (0.1, 2, 1), (0.1, 19, 1), (0.1, 20, 2), (1.0, 2, 1), (1.0, 10, 9), (0.0, 10, 0),
    ],
)  # fmt: skip
def test_how_many_may_be_ejected(share: float, healthy: int, most: int) -> None:
    assert most_ejected(OutlierConfig(max_share=share), healthy) == most
    assert most_ejected(OutlierConfig(max_share=share, enabled=False), healthy) == 0


@given(st.floats(0, 1), st.integers(0, 1000))
def test_never_all(share: float, healthy: int) -> None:
    assert 0 <= most_ejected(OutlierConfig(max_share=share), healthy) <= max(0, healthy - 1)
