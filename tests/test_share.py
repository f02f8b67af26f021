"""A worker's part of the limits: together they are the whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lb.config import ProxyConfig, ServiceConfig
from lb.share import WHOLE, Share


def parts(whole: int, of: int) -> list[int]:
    return [Share(number, of).count(whole) for number in range(of)]


def test_what_is_left_over_goes_to_the_first_ones() -> None:
    assert parts(64, 3) == [22, 21, 21]
    assert parts(2, 4) == [1, 1, 1, 1]
    assert parts(0, 4) == [0, 0, 0, 0]


@given(st.integers(0, 10**6), st.integers(1, 64))
def test_the_parts_make_the_whole_and_nobody_has_nothing(whole: int, of: int) -> None:
    found = parts(whole, of)
    assert sum(found) == (max(whole, of) if whole else 0)
    assert max(found) - min(found) <= 1


def test_every_limit_that_is_counted_together_is_shared() -> None:
    share = Share(1, 4)
    service = share.service(ServiceConfig.model_validate({"max_in_flight": 10}))
    assert (service.max_in_flight, service.queue.length) == (3, ServiceConfig().queue.length // 4)
    proxy = share.proxy(ProxyConfig())
    assert proxy.upstream_connections == ProxyConfig().upstream_connections // 4
    assert proxy.limits.connections == ProxyConfig().limits.connections // 4
    assert proxy.limits.connections_per_client == ProxyConfig().limits.connections_per_client


def test_one_alone_has_the_whole() -> None:
    service, proxy = ServiceConfig(), ProxyConfig()
    assert WHOLE.service(service) == service
    assert WHOLE.proxy(proxy) == proxy
