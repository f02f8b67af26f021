"""What `bench proxy` reads, sends, compares and calls a miss. The run: `./run bench proxy`."""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from bench.parts import process_use
from bench.parts.cases import CASES, Burst, Case, read_wrk
from bench.parts.equal import EACH, unequal
from bench.parts.fast_backend import CANNED, Exchange
from bench.parts.fixed_rate import FixedRate, Latencies, answer_size, due_at, percentile
from bench.parts.machine import cpu_model, this_machine, version_in
from bench.parts.process_use import Memory, core_wait_ns, cpu_ticks, memory_of, peak_of
from bench.parts.profiled import top
from bench.parts.proxies import Ground, haproxy_config, nginx_config, our_config
from bench.parts.proxy_figures import Shot, misses, rows, table
from lb.config_file import read_text

# ── what /proc tells ─────────────────────────────────────────────────────────────────────────────


def test_cpu_time_is_user_and_system_with_that_of_children_that_ended() -> None:
    stat = "42 (a) b (c) S 1 42 42 0 -1 0 1 2 3 4 100 20 3 1 20 0 5 0 99 1000 10 0"
    assert cpu_ticks(stat) == 124


def test_memory_is_read_in_bytes() -> None:
    text = "5654-7ffd ---p 00000000 00:00 0 [rollup]\nRss:    1744 kB\nPss:     337 kB\n"
    assert memory_of(text) == Memory(1744 * 1024, 337 * 1024)
    with pytest.raises(ValueError, match="no Pss"):
        memory_of("Rss:    1744 kB\n")
    assert peak_of("VmPeak:\t  9 kB\nVmHWM:\t  8 kB\n") == 8192


def test_waiting_for_the_core_is_the_second_figure() -> None:
    assert core_wait_ns("833216 1904094 3\n") == 1904094
    assert core_wait_ns("") == 0


def test_this_process_and_its_child_are_a_family() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        child = process.pid
        assert {os.getpid(), child} <= set(process_use.family(os.getpid()))
        whole, alone = process_use.memory(os.getpid()), process_use.memory(child)
        assert whole.pss > alone.pss > 0
        assert process_use.cpu_s(os.getpid()) > 0
        assert process_use.peak_bytes(os.getpid()) > whole.pss
        process.kill()
    assert process_use.cpu_s(child) == 0, "one that is gone has used nothing"


def test_the_machine_has_a_name() -> None:
    assert cpu_model("processor: 0\nmodel name\t: AMD EPYC\nmodel name\t: other\n") == "AMD EPYC"
    assert cpu_model("")
    assert this_machine().cores == os.cpu_count()
    assert version_in("HAProxy version 2.6.12-1+deb12u4 2026/10/17") == "2.6.12"
    assert version_in("nginx version: nginx/1.22.1") == "1.22.1"
    assert version_in("nothing") == ""


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────


def test_each_case_is_one_request_for_wrk_and_for_our_client() -> None:
    assert CASES["get"].request() == b"GET /42 HTTP/1.1\r\nHost: bench.example\r\n\r\n"
    assert b"\r\nConnection: close\r\n" in CASES["new"].request()
    assert 'wrk.headers["Connection"] = "close"' in CASES["new"].wrk_script()
    post = CASES["post"].request()
    assert post.startswith(b"POST /post ")
    assert post.endswith(b"\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024)
    assert 'string.rep("x", 1024)' in CASES["post"].wrk_script()
    assert all("done(" in case.wrk_script() for case in CASES.values())


def test_only_kept_connections_with_small_answers_must_be_as_cheap_as_haproxys() -> None:
    assert {name for name, case in CASES.items() if case.most_cpu == 1.0} == {"get"}
    assert {case.most_cpu for case in CASES.values()} == {1.0, 1.25}
    assert {case.most_p99 for case in CASES.values()} == {1.5}


def test_wrks_figures_are_read_and_its_errors_void_them() -> None:
    said = "Running 1s test\nfigures 1000 2000000 150000 0 0 0 0 0\n"
    burst = read_wrk(said)
    assert (burst.requests, burst.seconds) == (1000, 2.0)
    assert burst.wrong(CASES["get"]) == ""
    assert "1 errors" in read_wrk(said.replace("0 0\n", "1 0\n")).wrong(CASES["get"])
    assert "cut" in burst.wrong(CASES["10k"])
    assert "nothing" in Burst(0, 1.0, 0, 0).wrong(CASES["get"])
    with pytest.raises(ValueError, match="no figures"):
        read_wrk("unable to connect")


# ── who is compared ──────────────────────────────────────────────────────────────────────────────


def ground(folder: Path) -> Ground:
    return Ground(folder, (9001, 9002), 1, 0, ('underscores = "drop"',))


def test_all_proxies_have_every_backend_and_least_requests(tmp_path: Path) -> None:
    on = ground(tmp_path)
    for text, policy in (
        (haproxy_config(8001, 8002, on), "balance leastconn"),
        (nginx_config(8001, 8002, on), "least_conn;"),
    ):
        assert policy in text
        assert all(f"127.0.0.1:{port}" in text for port in (8001, 8002, 9001, 9002))
        assert "{folder}" not in text


def test_our_configuration_is_one(tmp_path: Path) -> None:
    config = read_text(our_config(8002, ground(tmp_path)).replace("{port}", "8001"), tmp_path)
    assert [listen.address for listen in config.proxy.listen] == [
        "127.0.0.1:8001",
        "127.0.0.1:8002",
    ]
    assert config.proxy.underscores == "drop"
    service = config.service["web"]
    assert service.policy == "least_requests"
    assert [backend.address for backend in service.backends] == ["127.0.0.1:9001", "127.0.0.1:9002"]


def head(identifier: str = "a", without: bytes = b"", **changed: str) -> bytes:
    values = dict.fromkeys(EACH, b"x")
    values[b"x-request-id"] = identifier.encode()
    values[b"forwarded"] = b'for=127.0.0.1;host="bench.example";proto=http'
    values |= {name.encode(): value.encode() for name, value in changed.items()}
    lines = [b"GET /head HTTP/1.1"]
    lines += [name.title() + b": " + value for name, value in values.items() if name != without]
    return b"\r\n".join([*lines, b""])


def test_proxies_that_do_the_same_are_compared() -> None:
    assert unequal("one", [head("a"), head("b")]) == []


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        ([head("a"), head("b", without=b"via")], "no via"),
        ([head("a"), head("a")], "one id"),
        ([head("a", connection="close")], "no connection"),
        ([head("a", forwarded="for=127.0.0.1")], "no host"),
    ],
)
def test_one_that_does_less_is_found_out(heads: list[bytes], words: str) -> None:
    (wrong,) = unequal("one", heads)
    assert words in wrong


# ── the open-loop client, before the backend ─────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def backend(protocol: type[asyncio.Protocol] = Exchange) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def asked(case: Case, port: int) -> Latencies:
    client = FixedRate(case, port, rate=100, seconds=0.1)
    return await asyncio.to_thread(client.run, realtime=False)


@pytest.mark.parametrize("name", ["get", "10k", "1m", "new", "post"])
async def test_every_request_is_answered_once(name: str) -> None:
    async with backend() as port:
        found = await asked(replace(CASES[name], clients=4), port)
    assert found.wrong() == ""
    assert found.sent == found.answered
    assert 0 < found.p50_s <= found.p99_s <= found.worst_s


class Refusing(asyncio.Protocol):
    """Answers 503."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")


class Closing(Refusing):
    """Hangs up instead."""

    def data_received(self, data: bytes) -> None:
        self.transport.close()


class Talkative(Refusing):
    """Says more than its answer has."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(CANNED[b"/42"] + b"and more")


@pytest.mark.parametrize(
    ("protocol", "words"), [(Refusing, "503"), (Closing, "closed"), (Talkative, "longer")]
)
async def test_what_is_no_answer_voids_the_run(
    protocol: type[asyncio.Protocol], words: str
) -> None:
    async with backend(protocol) as port:
        found = await asked(replace(CASES["get"], clients=1), port)
    assert words in found.wrong()


async def test_the_backend_takes_requests_in_pieces_and_several_at_once() -> None:
    async with backend() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in (b"GET /4", b"2 HTTP/1.1\r\n\r\nGET /head HTTP/1.1\r\nX: y\r\n\r", b"\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        assert await reader.readexactly(len(CANNED[b"/42"])) == CANNED[b"/42"]
        assert (await reader.readuntil(b"X: y\r\n")).startswith(b"HTTP/1.1 200 OK")
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n12")
        writer.write(b"345GET /stream?300000 HTTP/1.1\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n5"))[-5:] == b"\r\n\r\n5"
        await reader.readuntil(b"Content-Length: 300000\r\n\r\n")
        assert len(await reader.readexactly(300000)) == 300000
        writer.close()
        await writer.wait_closed()


def test_an_answers_size_is_known_from_its_head() -> None:
    assert answer_size(b"HTTP/1.1 200 OK\r\nCONTENT-length: 3\r\n\r\nab") == 41
    assert answer_size(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n") is None
    with pytest.raises(ValueError, match="503"):
        answer_size(b"HTTP/1.1 503 Busy\r\n\r\n")


def test_the_schedule_is_even_and_lies_on_the_grid() -> None:
    assert [due_at(n, 0.5, 0.5) for n in range(1, 4)] == [0.5, 1.0, 1.5]
    # four to a tick
    assert [due_at(n, 0.25, 1.0) for n in range(1, 10)] == [1, 1, 1, 1, 2, 2, 2, 2, 3]


def test_percentiles_are_values_that_were_there() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert percentile([float(n) for n in range(100)], 0.99) == 99.0
    assert percentile([], 0.99) == 0.0


def test_too_few_answers_are_wrong() -> None:
    found = Latencies(10, 9, [], 0.1, 0.1, 0.1, 0.0, realtime=False, cpu_us=1.0)
    assert "9 answers to 10" in found.wrong()
    assert "2 errors: cut" in replace(found, errors=["cut", "cut"]).wrong()


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────


def shot(proxy: str, cpu_us: float, p99_us: float, number: int = 1, case: str = "get") -> Shot:
    return Shot(case, proxy, number, 1e6 / cpu_us, cpu_us, 1.0, 0.0, 100.0, p99_us / 2, p99_us)


def test_ratios_are_those_of_one_round_and_their_median_counts() -> None:
    shots = [
        *(shot("haproxy", 10, 100, 1), shot("ours", 9, 150, 1)),
        *(shot("haproxy", 20, 100, 2), shot("ours", 20, 150, 2)),  # a slow minute for both
        *(shot("haproxy", 10, 100, 3), shot("ours", 30, 900, 3)),
    ]
    ours = rows(shots)[1]
    assert (ours.proxy, ours.cpu_us, ours.cpu_ratio, ours.p99_ratio) == ("ours", 20, 1.0, 1.5)
    assert misses(shots) == []


@pytest.mark.parametrize(
    ("case", "cpu_us", "p99_us", "words"),
    [
        ("get", 10.0, 100, []),
        ("get", 10.04, 150, []),
        ("get", 10.1, 151, ["CPU per request is 1.01", "p99 is 1.51"]),
        ("10k", 12.5, 100, []),
        ("10k", 12.6, 100, ["CPU per request is 1.26"]),
    ],
)
def test_a_goal_is_missed_by_what_is_printed(
    case: str, cpu_us: float, p99_us: float, words: list[str]
) -> None:
    found = misses([shot("haproxy", 10, 100, case=case), shot("ours", cpu_us, p99_us, case=case)])
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


def test_a_void_shot_counts_for_nothing_and_is_said() -> None:
    void = replace(shot("haproxy", 99, 1), wrong="3 errors")
    found = misses([void, shot("ours", 1, 1)])
    assert "void: get, haproxy, round 1: 3 errors" in found
    assert sum("could not be compared" in line for line in found) == 2


def test_without_haproxy_there_is_nothing_to_miss() -> None:
    assert misses([shot("ours", 1000, 1000)]) == []


def test_the_table_begins_with_haproxy_and_ends_without_a_proxy() -> None:
    bare = Shot("get", "none", 1, rate=100.0, p50_us=10, p99_us=20)
    lines = table(
        rows([bare, shot("ours", 12, 80), shot("nginx", 9, 90), shot("haproxy", 10, 100)])
    )
    assert [line.split(" | ")[1] for line in lines[2:]] == ["haproxy", "nginx", "ours", "none"]
    assert "12.0 µs | 1.20" in lines[4]
    assert len({line.count("|") for line in lines}) == 1


def test_a_profile_is_shown_from_the_top(tmp_path: Path) -> None:
    def busy() -> int:
        at = 0
        while at < 100_000:
            at += 1
        return at

    profile = cProfile.Profile()
    profile.runcall(busy)
    profile.dump_stats(tmp_path / "found")
    (first,) = top(tmp_path / "found", lines=1)
    assert first.endswith("busy")
    assert Path(__file__).name in first
