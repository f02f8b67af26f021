"""Large answers: the same text, made where it keeps no request waiting."""

from __future__ import annotations

import json
import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lb.admin.bodies import as_large_json, in_pieces

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(value=values, depth=st.integers(0, 4))
def test_pieces_make_the_text_that_one_would(value: Any, depth: int) -> None:
    assert in_pieces(value, depth) == json.dumps(value, ensure_ascii=False)


def test_what_is_no_number_is_null_in_pieces_too() -> None:
    found = in_pieces({"series": {"rate": [(1, float("nan"))]}, "at": float("inf")})
    assert json.loads(found) == {"series": {"rate": [[1, None]]}, "at": None}


async def test_a_large_answer_is_made_in_another_thread() -> None:
    makers: list[int] = []

    def make() -> dict[str, str]:
        makers.append(threading.get_ident())
        return {"name": "é"}

    response = await as_large_json(make)
    assert makers
    assert threading.get_ident() not in makers
    assert response.body == b'{"name": "\xc3\xa9"}\n'
    assert (response.content_type, response.charset) == ("application/json", "utf-8")
