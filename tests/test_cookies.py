"""Reading Cookie fields: several fields, several cookies, several of one name, and rubbish."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.cookies import cookie_values

Fields = list[tuple[bytes, bytes]]


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ([], []),
        ([(b"Cookie", b"a=1")], [b"1"]),
        ([(b"cookie", b"b=2; a=1; c=3")], [b"1"]),
        ([(b"COOKIE", b"b=2;a=1")], [b"1"]),
        ([(b"Cookie", b"a=1; a=2"), (b"Cookie", b"a=3")], [b"1", b"2", b"3"]),
        ([(b"Cookie", b"a=x=y==")], [b"x=y=="]),
        ([(b"Cookie", b"\ta = 1 ;")], [b"1"]),
        ([(b"Cookie", b'a="1"')], [b'"1"']),
        ([(b"Cookie", b"a=")], [b""]),
        ([(b"Cookie", b"a")], []),
        ([(b"Cookie", b"aa=1; A=2; xa=3; =a")], []),
        ([(b"Set-Cookie", b"a=1"), (b"Cookie2", b"a=1")], []),
    ],
)
def test_values_of_one_name(fields: Fields, values: list[bytes]) -> None:
    assert list(cookie_values(fields, b"a")) == values


@given(st.lists(st.tuples(st.sampled_from([b"Cookie", b"X"]), st.binary(max_size=40))))
def test_whatever_stands_there_it_is_read_or_passed_over(fields: Fields) -> None:
    assert all(b";" not in value for value in cookie_values(fields, b"a"))
