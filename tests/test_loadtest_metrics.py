"""What Prometheus reads of a running test, and that its own tool finds nothing wrong with it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import urllib.request
from asyncio import to_thread
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadtest.errors import InputError
from loadtest.listen import parse_listen
from loadtest.metrics import BUCKETS_S, exposition, serve_metrics
from loadtest.result import Counts
from loadtest.stats import Tally
from loadtest.status import Figures
from tests.test_loadtest_cli import ended, running, start


def tally(*values: float) -> Tally:
    counted = Tally()
    for value in values:
        counted.record(value)
    return counted


class Test:
    __test__ = False

    def figures(self) -> Figures:
        return Figures(
            counts=Counts(100, 90, 80, 5, 8, 10, 5),
            in_flight=5,
            errors={"http_503": 3, "timeout": 5},
            dropped={"max_in_flight": 10},
            rate=50.0,
            latency=tally(0.0005, 0.001, 0.003, 20.0),
            lag=tally(0.0001, 0.0002, 0.0004, 0.0009),
            active=5,
            idle=1,
        )


def samples(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f"{{{k}={v}}}" for k, v in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_contracts_names_and_values() -> None:
    found = samples(exposition(Test()).decode())
    assert found["loadtest_intended_requests_total"] == 100
    assert found["loadtest_sent_requests_total"] == 90
    assert found["loadtest_completed_requests_total"] == 80
    assert found["loadtest_dropped_requests_total{reason=max_in_flight}"] == 10
    assert found["loadtest_request_errors_total{kind=http_503}"] == 3
    assert found["loadtest_target_rate"] == 50
    assert found["loadtest_inflight_requests"] == 5
    assert found["loadtest_request_errors_total{kind=refused}"] == 0  # its first burst has a rate
    lag = "loadtest_send_lag_seconds"
    assert found[f"{lag}_count"] == 4
    bounds = ("0.0001", "0.00025", "0.0005", "0.001")
    assert [found[f"{lag}_bucket{{le={bound}}}"] for bound in bounds] == [1, 2, 3, 4]
    duration = "loadtest_request_duration_seconds"
    assert found[f"{duration}_bucket{{le=0.001}}"] == 2
    assert found[f"{duration}_bucket{{le=0.005}}"] == 3
    assert found[f"{duration}_bucket{{le=10}}"] == 3
    assert found[f"{duration}_bucket{{le=+Inf}}"] == found[f"{duration}_count"] == 4
    assert found[f"{duration}_sum"] == pytest.approx(20.0045, rel=0.001)
    assert len([name for name in found if f"{duration}_bucket" in name]) == len(BUCKETS_S) + 1


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exposition(Test()), capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_running_test_is_scraped(tmp_path: Path, workers: str) -> None:
    async with serve_metrics(Test(), "127.0.0.1", 0) as free:
        pass
    options = ("--rate", "50", "--workers", workers, "--metrics-listen", f"127.0.0.1:{free}")
    async with running(tmp_path / "c.sock", *options) as (process, _):
        url = f"http://127.0.0.1:{free}/metrics"
        answer = await to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
        process.send_signal(signal.SIGINT)
        assert (await ended(process))[0] == 0
    found = samples(answer)
    assert found["loadtest_completed_requests_total"] > 0
    assert found["loadtest_send_lag_seconds_count"] > 0
    assert found["loadtest_target_rate"] == 50


async def test_a_port_that_is_taken_is_told_before_the_first_request() -> None:
    async with serve_metrics(Test(), "127.0.0.1", 0) as port:
        with pytest.raises(InputError, match="address already in use"):
            async with serve_metrics(Test(), "127.0.0.1", port):
                pass


def test_where_to_listen() -> None:
    assert parse_listen("[::1]:99") == ("::1", 99)
    assert parse_listen(":99") == ("127.0.0.1", 99)
    for bad in ("99", "x:", "x:y", "x:70000"):
        with pytest.raises(InputError, match="HOST:PORT"):
            parse_listen(bad)


async def test_a_bad_address_is_exit_2() -> None:
    process = await start("run", "http://127.0.0.1/", "--rate", "5", "--metrics-listen", "9")
    code, _, err = await ended(process)
    assert code == 2
    assert "write HOST:PORT" in err
