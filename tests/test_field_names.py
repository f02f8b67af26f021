"""What names mean: the tables agree with each other and with the rule they are made by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb import field_names
from lb.field_names import FATES, FORWARDED, HOP_BY_HOP, NEVER_TRAILING, PROTECTED, fate_of, folded

names = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", fullmatch=True)


def test_nothing_is_both_hop_by_hop_and_protected() -> None:
    assert HOP_BY_HOP.isdisjoint(PROTECTED)
    assert FORWARDED <= PROTECTED
    assert NEVER_TRAILING >= HOP_BY_HOP | FORWARDED


def test_the_table_of_usual_names_says_what_the_rule_says() -> None:
    assert {name: fate_of(name) for name in FATES} == FATES
    assert FATES[b"Host"] == FATES[b"X-Request-ID"] == field_names.DROP
    assert FATES[b"ETag"] == FATES[b"Cookie"] == field_names.PASS


@given(names)
def test_a_fate_does_not_hang_on_case(name: bytes) -> None:
    assert fate_of(name) == fate_of(name.lower()) == fate_of(name.upper()) == fate_of(name.title())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"X-Forwarded-Anything", field_names.TOLD),
        (b"X_Forwarded_Anything", field_names.CONFUSABLE),
        (b"X.Forwarded.For", field_names.CONFUSABLE),
        (b"x-forwarded_for", field_names.CONFUSABLE),
        (b"Content_Length", field_names.CONFUSABLE),
        (b"X_Own", field_names.UNDERSCORED),
        (b"X-Own", field_names.PASS),
        (b"X.Own", field_names.PASS),
        (b"Proxy", field_names.DROP),
    ],
)
def test_the_fate_of_a_name(name: bytes, expected: int) -> None:
    assert fate_of(name) == expected


def test_folding_is_what_cgi_does() -> None:
    assert folded(b"X_Forwarded.For") == b"x-forwarded-for"
    assert folded(b"Accept2") == b"accept2"
