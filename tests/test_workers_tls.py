"""TLS with several workers: each ends it, with the certificate that is in force."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lb.address import split_address
from lb.config import Config
from tests.proxy_harness import until
from tests.test_reload import named
from tests.test_tls import trusting
from tests.test_workers import arrived, running, with_workers
from tests.tls_harness import Authority, Pair


def encrypted(backend: str, pair: Pair) -> Config:
    tls = {"certificates": [{"cert": str(pair.cert), "key": str(pair.key)}]}
    listen = [
        {"address": "127.0.0.1:0", "tls": "on"},
        {"address": "127.0.0.2:0", "tls": "off"},
    ]
    return with_workers(2, proxy={"listen": listen, "tls": tls}, web=[backend])


async def asked(address: str, authority: Authority) -> tuple[int, bytes]:
    """(the certificate's serial number, the answer's body), over a new connection."""
    host, port = split_address(address)
    reader, writer = await asyncio.open_connection(host, port, ssl=trusting(authority))
    try:
        serial = int(writer.get_extra_info("ssl_object").getpeercert()["serialNumber"], 16)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return serial, (await reader.read()).partition(b"\r\n\r\n")[2]
    finally:
        writer.close()
        await writer.wait_closed()


async def test_each_worker_ends_it_and_all_take_a_renewed_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("one", "one.example.org")
    async with (
        named("a") as (a,),
        running(tmp_path / "home", encrypted(a.address, pair)) as balancer,
    ):
        await until(lambda: balancer.is_ready()[0])
        (address, _) = balancer.addresses
        answers = [await asked(address, authority) for _ in range(24)]
        assert {body for _, body in answers} == {b"a"}
        (old,) = {serial for serial, _ in answers}
        await until(lambda: sum(arrived(balancer)) >= 24)
        assert min(arrived(balancer)) > 0, "both had some of them"

        authority.issue("one", "one.example.org")  # renewed, in the same files
        await balancer.reload(encrypted(a.address, pair))
        await until(lambda: balancer._lead.peers[0].applied == balancer._lead.version)
        before = arrived(balancer)
        (new,) = {serial for serial, _ in [await asked(address, authority) for _ in range(24)]}
        assert new != old
        await until(lambda: sum(arrived(balancer)) >= sum(before) + 24)
        assert all(now > then for now, then in zip(arrived(balancer), before, strict=True))
