"""What the wire's readers raise is answered with a status of our own table."""

from __future__ import annotations

from lb.wire.errors import WireError


def test_it_is_a_bad_request_unless_said_otherwise() -> None:
    assert (WireError("x").status, WireError("x", 414).status) == (400, 414)
    assert str(WireError("why")) == "why"
