"""One service's parts: what new settings change at once, and what they must not forget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lb.config import ProxyConfig, ServiceConfig
from lb.error_pages import ErrorPages
from lb.errors import NoneReadyError, QueueTimeoutError
from lb.metrics import Metrics
from lb.pool import Pool, Report
from lb.site import Site, manner_of
from lb.tls import TlsError

A, B = "127.0.0.1:1", "127.0.0.1:2"
PROXY = ProxyConfig()


def config(**table: Any) -> ServiceConfig:
    return ServiceConfig.model_validate(table)


def site(wanted: ServiceConfig) -> Site:
    pool = Pool.from_config("web", wanted)
    return Site("web", wanted, PROXY, pool, Metrics().service(pool), secret=b"s" * 32)


def well(found: Site, *addresses: str) -> None:
    for address in addresses:
        found.pool.observe(Report(address, address, ok=True, detail="200"))


async def test_new_settings_keep_what_was_learned() -> None:
    found = site(config(backends=[A, B], breaker={"enabled": True}))
    well(found, A, B)
    with found.pool.lease() as lease:
        lease.answered(0.25, found.pool.clock(), 200)
        busy = lease.backend
    parts = (found.line, found.budget, found.breaker, found.adaptive, found.upstream, found.pool)
    wanted = config(
        backends=[{"address": busy.address, "weight": 3}],
        policy="round_robin",
        queue={"length": 1, "max_wait": 0.01},
        retry={"attempts": 1},
        breaker={"enabled": True, "trials": 9},
        adaptive={"enabled": True, "min": 7},
        sticky={"cookie": "stay"},
    )
    pages = ErrorPages()
    found.configure(wanted, PROXY, pages)
    assert parts == (
        found.line, found.budget, found.breaker, found.adaptive, found.upstream, found.pool,
    )  # fmt: skip
    assert found.pages is pages
    assert list(found.pool) == [busy]
    assert (busy.available, busy.weight, busy.requests_total) == (True, 3, 1)
    assert busy.latency.quantiles((0.5,), found.pool.clock())[0] is not None
    assert found.line.config.length == 1
    assert found.budget.config.attempts == 1
    assert found.breaker.config.trials == 9
    assert found.adaptive.limit == 7
    found.close()
    found.close()


async def test_a_limit_that_was_switched_off_holds_nobody_back() -> None:
    on = {"enabled": True, "min": 1, "max": 1}
    found = site(config(backends=[A], adaptive=on))
    well(found, A)
    with found.pool.lease():
        with pytest.raises(QueueTimeoutError):
            await found.line.lease(max_wait=0.01)
        found.configure(config(backends=[A]), PROXY, ErrorPages())
        (await found.line.lease(max_wait=0.01)).release()
    found.close()


async def test_a_file_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    first = config(backends=[A])
    found = site(first)
    wrong = config(backends=[B], tls={"enabled": True, "ca": str(tmp_path / "no.pem")})
    with pytest.raises(TlsError, match=r"no\.pem"):
        found.configure(wrong, PROXY, ErrorPages())
    assert found.config is first
    assert [backend.address for backend in found.pool] == [A]
    with pytest.raises(NoneReadyError):
        found.pool.lease()
    with pytest.raises(TlsError, match=r"no\.pem"):
        site(wrong)
    found.close()


def test_a_sticky_client_is_known_by_its_cookie_until_the_name_changes() -> None:
    found = site(config(backends=[A], sticky={}))
    (backend,) = found.pool
    cookie = found.cookie(backend, [], b"http")
    assert cookie is not None
    fields = [(b"Cookie", cookie.partition(b";")[0])]
    assert found.preferred(fields) == A
    assert found.cookie(backend, fields, b"http") is None
    found.configure(config(backends=[A], sticky={"max_age": 60}), PROXY, ErrorPages())
    assert found.preferred(fields) == A
    found.configure(config(backends=[A], sticky={"cookie": "other"}), PROXY, ErrorPages())
    assert found.preferred(fields) is None
    found.configure(config(backends=[A]), PROXY, ErrorPages())
    assert found.preferred(fields) is None
    assert found.cookie(backend, [], b"http") is None
    found.close()


@pytest.mark.parametrize(
    ("by", "fields", "key"),
    [
        ({}, [], b"192.0.2.1"),
        ({"by": "header", "name": "X-User"}, [(b"x-user", b"ada")], b"ada"),
        ({"by": "header", "name": "X-User"}, [], b"192.0.2.1"),
        ({"by": "cookie", "name": "id"}, [(b"Cookie", b"a=b; id=7")], b"7"),
    ],
)
def test_what_a_consistent_hash_hangs_on(
    by: dict[str, str], fields: list[tuple[bytes, bytes]], key: bytes
) -> None:
    found = site(config(policy="consistent_hash", hash=by))
    assert found.key_of(fields, b"192.0.2.1") == key
    assert site(config()).key_of(fields, b"192.0.2.1") is None


def test_health_is_asked_for_as_requests_are_sent() -> None:
    plain = manner_of(config())
    assert (plain.tls, plain.greeting) == (None, b"")
    assert manner_of(config(send_proxy_protocol="v1")).greeting == b"PROXY UNKNOWN\r\n"
    greeting = manner_of(config(send_proxy_protocol="v2")).greeting
    assert greeting[12:13] == b"\x20", "LOCAL"
    manner = manner_of(config(tls={"enabled": True, "server_name": "inner.example"}))
    assert manner.tls is not None
    assert manner.server_name == "inner.example"
