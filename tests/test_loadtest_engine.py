"""The engine over real loopback sockets before small scripted servers.

Nothing here depends on speed: a server that must be slow waits for an event, not for a time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest import engine
from loadtest.closed import saturate
from loadtest.connect import Address
from loadtest.connection import Exchange
from loadtest.engine import LoadTest
from loadtest.errors import InputError, ShiftError
from loadtest.plan import Plan
from loadtest.pool import MOST_OPENING, ConnectionPool
from loadtest.result import Counts, Result, Second
from loadtest.stats import Tally
from loadtest.target import Settings
from tests.loadtest_servers import OK, Peer, Script, always_ok, refusing_url, serving


def settings(url: str, plan: str = "steady=200@200ms", **others: Any) -> Settings:
    return Settings(url, Plan.parse(plan), **{"timeout": 30.0, **others})


def where(made: Settings) -> list[Address]:
    return [Address(origin.host, origin.port) for origin in made.requests.origins]


async def run(
    script: Script,
    plan: str = "steady=200@200ms",
    on_second: Callable[[Second], None] | None = None,
    **others: Any,
) -> Result:
    async with serving(script) as url:
        result = await engine.run(settings(url, plan, **others), on_second)
    check(result)
    return result


def check(result: Result) -> None:
    """What always holds: every request has exactly one fate, and the sums agree."""
    parts = [phase.counts for phase in result.phases]
    for counts in (result.counts, *parts):
        assert counts.intended == sum(
            (counts.completed, counts.failed, counts.dropped, counts.unfinished)
        )
        assert counts.sent <= counts.intended - counts.dropped
    for field in dataclasses.fields(Counts):
        whole = getattr(result.counts, field.name)
        assert whole == sum(getattr(part, field.name) for part in parts)
    for name in ("intended", "sent", "completed", "errors", "dropped"):
        assert sum(getattr(row, name) for row in result.series) == getattr(result.counts, name)
    assert sum(result.status.values()) == result.counts.completed
    assert sum(result.errors.values()) == result.counts.errors
    assert sum(result.dropped.values()) == result.counts.dropped
    assert Result.from_json(result.to_json(), "x") == result


# ── the open loop ────────────────────────────────────────────────────────────────────────────────


async def test_a_fast_server_gets_exactly_the_plan() -> None:
    result = await run(always_ok, "low=100@200ms,high=300@200ms")
    assert result.counts == Counts(80, 80, 80, 0, 0, 0, 0)
    assert [(phase.name, phase.counts.completed) for phase in result.phases] == [
        ("low", 20),
        ("high", 60),
    ]
    assert result.status == {"200": 80}
    assert result.latency_s.count == result.service_s.count == result.send_lag_s.count == 80
    assert result.stopped_by == "plan"
    assert len(Tally.decode(result.histograms.latency_us)) == 80
    assert [shift.phase for shift in result.shifts] == ["low", "high"]
    assert [(row.phase, row.rate) for row in result.series] == [("high", 300)]


async def test_a_server_that_answers_nobody_does_not_hold_up_sending() -> None:
    # It answers only when all 40 have arrived: a closed loop would wait for ever.
    everybody = asyncio.Event()
    arrived = 0

    async def patient(peer: Peer) -> None:
        nonlocal arrived
        await peer.request()
        arrived += 1
        if arrived == 40:
            everybody.set()
        await everybody.wait()
        await peer.answer(OK)
        await always_ok(peer)

    result = await run(patient)
    assert result.counts.completed == 40
    assert result.connections_opened == 40
    # The first was due 39/200 s before the last left, and its latency says so.
    assert result.latency_s.max >= 39 / 200


async def test_latency_counts_from_the_intended_time_and_a_late_tester_says_so() -> None:
    stalled = False

    def stall(_: Second) -> None:
        nonlocal stalled
        if not stalled:
            time.sleep(0.3)  # the whole process stands still, as if the machine were overloaded
            stalled = True

    result = await run(always_ok, "steady=100@1500ms", stall)
    assert result.counts.completed == 150
    # 30 requests were due in the 300 ms; the last tenth of the latencies shows it.
    assert result.latency_s.p99 >= 0.2
    assert result.send_lag_s.p99 >= 0.2
    assert not result.trustworthy
    assert "send lag p99" in result.reasons[0]


async def test_past_max_in_flight_requests_are_dropped_and_counted() -> None:
    gate = asyncio.Event()

    async def gated(peer: Peer) -> None:
        while True:
            await peer.request()
            await gate.wait()
            await peer.answer(OK)

    # The first row is complete after a second, the plan after a tenth of one.
    result = await run(gated, "steady=500@100ms", lambda _: gate.set(), max_in_flight=5)
    assert result.counts == Counts(50, 5, 5, 0, 0, 45, 0)
    assert result.dropped == {"max_in_flight": 45}


async def test_connections_are_reused() -> None:
    async def once(peer: Peer) -> None:
        await always_ok(peer)

    result = await run(once, "slow=20@500ms")
    assert result.counts.completed == 10
    assert result.connections_opened <= 10
    assert result.reconnects == 0


async def test_a_late_tester_opens_no_storm_of_connections() -> None:
    class Answers:
        completed = failures = 0

        def sent(self, exchange: Exchange) -> None:
            pass

        def answered(self, exchange: Exchange, status: int) -> None:
            self.completed += 1
            if self.completed == 400:
                done.set()

        def failed(self, exchange: Exchange, kind: str) -> None:
            self.failures += 1

    for late in (False, True):
        done, answers = asyncio.Event(), Answers()
        async with serving(always_ok) as url:
            mix = settings(url).requests
            pool = ConnectionPool(
                Address(mix.origins[0].host, mix.origins[0].port),
                answers,
                clock=time.monotonic,
                connect_timeout=30.0,
                late=lambda late=late: late,  # type: ignore[misc]
            )
            for _ in range(400):
                pool.send(Exchange(0.0, 0, mix.requests[0]))
            assert pool.opening == (MOST_OPENING if late else 400)
            async with asyncio.timeout(30):
                await done.wait()
            await pool.close()
        assert (answers.completed, answers.failures) == (400, 0)


async def test_a_late_tester_gives_each_its_fate_before_nobody() -> None:
    class Failures:
        count = 0

        def sent(self, exchange: Exchange) -> None:
            pass

        def answered(self, exchange: Exchange, status: int) -> None:
            pass

        def failed(self, exchange: Exchange, kind: str) -> None:
            assert kind == "refused"
            self.count += 1
            if self.count == 250:
                done.set()

    done, mix = asyncio.Event(), settings(refusing_url()).requests
    address = Address(mix.origins[0].host, mix.origins[0].port)
    pool = ConnectionPool(
        address, Failures(), clock=time.monotonic, connect_timeout=30.0, late=lambda: True
    )
    for _ in range(250):
        pool.send(Exchange(0.0, 0, mix.requests[0]))
    async with asyncio.timeout(30):
        await done.wait()
    await pool.close()


# ── answers of every shape ───────────────────────────────────────────────────────────────────────

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([OK], id="length"),
        pytest.param([OK[:9], OK[9:30], OK[30:]], id="in-pieces"),
        pytest.param([CHUNKED, b"2\r\nok\r\n", b"0\r\n\r\n"], id="chunked"),
        pytest.param([b"HTTP/1.1 204 No Content\r\n\r\n"], id="no-content"),
        pytest.param([b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", OK], id="early-hints"),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n" + OK], id="continue-in-one"),
    ],
)
async def test_an_answer_that_keeps_the_connection(pieces: list[bytes]) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(*pieces)

    result = await run(script, "slow=50@200ms")
    assert result.counts.completed == 10
    assert result.errors == {}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nuntil the end", id="close-delimited"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", id="close-empty"),
        pytest.param(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), id="close-length"),
    ],
)
async def test_an_answer_that_ends_with_the_connection(answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(answer)

    result = await run(script, "slow=50@200ms")
    assert result.counts.completed == 10
    assert result.connections_opened == 10
    assert result.errors == {}


async def test_head_answers_have_a_length_but_no_body() -> None:
    async def script(peer: Peer) -> None:
        while True:
            assert (await peer.request()).startswith(b"HEAD / ")
            await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")

    result = await run(script, "slow=50@200ms", method="HEAD")
    assert result.counts.completed == 10


async def test_error_statuses_are_answers_and_errors() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    result = await run(script, "slow=50@200ms")
    assert result.counts == Counts(10, 10, 10, 0, 10, 0, 0)
    assert result.errors == {"http_503": 10}


# ── faults ───────────────────────────────────────────────────────────────────────────────────────


async def garbage(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"220 mail.test ESMTP\r\n\r\n")
    await peer.request()


async def endless_head(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"HTTP/1.1 200 OK\r\n", *[b"X-Filler: " + b"x" * 9000 + b"\r\n"] * 12)
    await peer.request()


async def truncated(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\nhalf")


async def truncated_chunks(peer: Peer) -> None:
    await peer.request()
    await peer.answer(CHUNKED + b"50\r\nhalf")


async def wordless(peer: Peer) -> None:
    await peer.request()


async def resetting(peer: Peer) -> None:
    await peer.request()
    peer.reset()


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (garbage, "bad_response"),
        (endless_head, "bad_response"),
        (truncated, "closed"),
        (truncated_chunks, "closed"),
        (wordless, "closed"),
        (resetting, "reset"),
    ],
)
async def test_a_broken_answer_is_counted_by_kind(script: Script, kind: str) -> None:
    result = await run(script, "slow=50@200ms")
    assert result.counts == Counts(10, 10, 0, 10, 10, 0, 0)
    assert result.errors == {kind: 10}
    assert result.latency_s.count == 0


async def test_nobody_listens() -> None:
    result = await engine.run(settings(refusing_url(), "slow=50@200ms"))
    check(result)
    assert result.counts == Counts(10, 0, 0, 10, 10, 0, 0)
    assert result.errors == {"refused": 10}


async def test_a_timeout_is_counted_and_its_time_is_a_latency() -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.request()

    result = await run(silent, "slow=50@200ms", timeout=0.4)
    assert result.counts == Counts(10, 10, 0, 10, 10, 0, 0)
    assert result.errors == {"timeout": 10}
    assert result.latency_s.p50 >= 0.4
    assert result.service_s.count == 0


async def test_a_server_that_closes_idle_connections_costs_no_error() -> None:
    async def closing(peer: Peer) -> None:
        await peer.request()
        await peer.answer(OK)  # keep-alive by its head, and then closed all the same

    result = await run(closing, "slow=100@300ms")
    assert result.counts.completed == 30
    assert result.errors == {}
    assert result.connections_opened >= 30


async def closes_on_second_request(peer: Peer) -> None:
    """As if it had closed the idle connection just before the request arrived."""
    await peer.request()
    await peer.answer(OK)
    await peer.request()
    peer.reset()


async def test_a_request_on_a_connection_just_closed_goes_out_once_more() -> None:
    result = await run(closes_on_second_request, "slow=20@500ms")
    assert result.counts == Counts(10, 10, 10, 0, 0, 0, 0)
    assert result.reconnects > 0


async def test_but_not_if_twice_would_be_once_too_many() -> None:
    result = await run(closes_on_second_request, "slow=20@500ms", method="POST")
    assert result.reconnects == 0
    assert set(result.errors) == {"reset"}


async def test_unasked_bytes_on_an_idle_connection_cost_only_the_connection() -> None:
    async def chatty(peer: Peer) -> None:
        await peer.request()
        await peer.answer(OK + OK)
        await peer.request()

    result = await run(chatty, "slow=20@500ms")
    assert result.counts.completed == 10
    assert result.errors == {}
    assert result.connections_opened == 10


async def test_a_name_that_does_not_resolve_stops_before_the_first_request() -> None:
    with pytest.raises(InputError, match=r"host 'no-such-host\.invalid' does not resolve"):
        await engine.run(settings("http://no-such-host.invalid/"))


# ── steering ─────────────────────────────────────────────────────────────────────────────────────


async def steered(plan: str, steer: Callable[[LoadTest], None]) -> Result:
    """Runs a test against a fast server and steers it after its first row."""
    async with serving(always_ok) as url:
        made = settings(url, plan)
        rows: list[Second] = []

        def first_row(row: Second) -> None:
            rows.append(row)
            if len(rows) == 1:
                steer(test)

        test = LoadTest(made, where(made), first_row)
        result = await test.run()
    check(result)
    return result


async def test_a_triggered_phase_ends_by_a_shift() -> None:
    def steer(test: LoadTest) -> None:
        test.shift("high", "control")
        with pytest.raises(ShiftError):
            test.shift("nowhere", "control")
        status = test.status()
        assert status["phase"] == "high"
        assert status["state"] == "running"
        assert json.dumps(status)

    result = await steered("low=20@trigger,high=100@200ms", steer)
    assert [phase.name for phase in result.phases] == ["low", "high"]
    assert result.phases[0].end >= 1.0
    assert abs(result.phases[1].counts.intended - 20) <= 1
    assert result.shifts[1].cause == "control"
    assert result.shifts[1].t == result.phases[1].start


async def test_finish_lets_the_answers_come_in() -> None:
    result = await steered("low=50@trigger", lambda test: test.finish())
    assert result.stopped_by == "finish"
    assert result.counts.completed == result.counts.intended > 0


async def test_a_new_rate() -> None:
    def steer(test: LoadTest) -> None:
        test.set_rate(0.0, "control")
        test.set_rate(1000.0, "control")
        test.step(1, "signal")

    result = await steered("low=20@trigger,end=50@100ms", steer)
    assert [shift.rate for shift in result.shifts] == [20, 0, 1000, 50]


async def test_an_interrupt_ends_with_what_there_is() -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.request()

    async with serving(silent) as url:
        made = settings(url, "low=20@trigger")
        test = LoadTest(made, where(made))
        asyncio.get_running_loop().call_later(0.3, test.interrupt)
        asyncio.get_running_loop().call_later(0.4, test.interrupt)
        result = await test.run()
    check(result)
    assert result.stopped_by == "interrupt"
    assert result.counts.completed == 0
    assert result.counts.unfinished == result.counts.intended > 0


async def test_it_ends_at_max_seconds() -> None:
    result = await run(always_ok, "low=20@trigger", max_seconds=0.3)
    assert result.stopped_by == "max_duration"


# ── the closed loop ──────────────────────────────────────────────────────────────────────────────


async def test_saturate_counts_what_came_back() -> None:
    async with serving(always_ok) as url:
        found = await saturate(url, connections=3, seconds=0.3, warm_up=0.05)
    assert found.completed > 0
    assert found.failed == 0
    assert found.per_second == pytest.approx(found.completed / found.seconds)
    assert 0 < found.mean_service_s <= 0.4


async def test_saturate_before_nobody() -> None:
    found = await saturate(refusing_url(), connections=2, seconds=0.2)
    assert found.completed == 0
    assert found.failed >= 2
    assert found.per_second == 0


async def test_a_result_of_something_else_is_refused(tmp_path: Path) -> None:
    for text in ("[]", "{}", "{", '{"schema": "loadtest/9"}', '{"schema": "loadtest/1"}'):
        with pytest.raises(InputError, match=r"^x: "):
            Result.from_json(text, "x")
    with pytest.raises(InputError, match="none"):
        Result.read(tmp_path / "none")
