"""The admin API's client over time: what a follower survives, and when it gives up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lb.client import AdminClient, Json, UnreachableError


class _Scripted(AdminClient):
    """Its connections go as scripted: events, or None for a break. Time passes as it is told."""

    def __init__(self, *connections: list[float | int | None]) -> None:
        super().__init__("http://127.0.0.1:9", clock=lambda: self.now, sleep=self._pass)
        self.now = 0.0
        self._connections = list(connections)

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def _stream(self, since: int | None, service: str | None) -> Iterator[dict[str, Json] | None]:
        for step in self._connections.pop(0) if self._connections else [None]:
            if step is None:
                raise UnreachableError("nobody there")
            if isinstance(step, int):
                yield {"id": step}
            else:
                self.now += step


def test_a_quiet_stream_survives_a_restart_too() -> None:
    """14 s since the last heartbeat when it breaks; two attempts meet nobody."""
    follower = _Scripted([1, 14.0, None], [None], [None], [2]).follow(0)
    assert [next(follower)["id"] for _ in range(2)] == [1, 2]


def test_a_follower_gives_up_ten_seconds_after_the_break() -> None:
    client = _Scripted([1, 100.0, None])
    follower = client.follow(0)
    next(follower)
    with pytest.raises(UnreachableError):
        next(follower)
    assert 110 < client.now < 111
