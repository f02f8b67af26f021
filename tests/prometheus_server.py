"""A real Prometheus on a loopback port with a folder of its own, and what a dashboard asks it.

Started in the foreground and ended by its process; its log is shown where it does not start.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")
START_S = 30.0

VARIABLES: Mapping[str, str] = {
    "job": ".+",
    "instance": ".+",
    "service": ".+",
    "host": ".+",
    "direction": ".+",
    "window": "300",
    "settle": "30",
    "__interval": "15s",
    "__rate_interval": "1m",
    "__range": "3600s",
}
"""What Grafana puts in the place of each: everything chosen, a scrape each 15 s, an hour shown."""


def filled(text: str, variables: Mapping[str, str] = VARIABLES) -> str:
    """A query as Grafana would send it. Raises KeyError for a variable that no dashboard has."""
    return re.sub(r"\$([a-zA-Z_]\w*)|\$\{(\w+)\}", lambda m: variables[m[1] or m[2]], text)


def have_figures(result: list[Any]) -> bool:
    """Whether any sample of an answer is a number; NaN is what 0/0 looks like, and no data."""
    return any(
        not math.isnan(float(value))
        for series in result
        for _, value in series.get("values", [series.get("value")])
    )


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of an API's answer. Raises AssertionError with what Prometheus says."""
        body = urllib.parse.urlencode(parameters).encode()
        url = f"{self.url}/api/v1/{path}"
        posted = urllib.request.Request(url, body if path.startswith("query") else None)
        if not path.startswith("query") and parameters:
            posted = urllib.request.Request(f"{url}?{body.decode()}")
        try:
            with urllib.request.urlopen(posted, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{error.read().decode()}: {parameters}") from None

    def at(self, query: str, at: float) -> list[Any]:
        found = self.ask("query", query=query, time=str(at))
        return list(found["result"]) if found["resultType"] != "scalar" else [
            {"value": found["result"]}
        ]  # fmt: skip

    def over(self, query: str, start: float, end: float, step_s: float) -> list[Any]:
        found = self.ask(
            "query_range", query=query, start=str(start), end=str(end), step=str(step_s)
        )
        return list(found["result"])

    def values(self, query: str, at: float) -> dict[tuple[str, ...], float]:
        """By the values of the labels, in the order of their names."""
        return {
            tuple(word for _, word in sorted(series["metric"].items())): float(series["value"][1])
            for series in self.at(query, at)
        }


def configuration(folder: Path, admin: str, tester: str) -> Path:
    """The repository's own, with these addresses of `lbctl` and of a load test, and a scrape each
    second."""
    text = (ROOT / "prometheus.yml").read_text(encoding="utf-8")
    for old, new in (
        ("127.0.0.1:9900", admin),
        ("127.0.0.1:9901", tester),
        ("prometheus/rules/", f"{ROOT}/prometheus/rules/"),
        (": 5s", ": 1s"),
    ):
        assert old in text
        text = text.replace(old, new)
    config = folder / "prometheus.yml"
    config.write_text(text, encoding="utf-8")
    return config


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(config: Path, data: Path) -> Iterator[Prometheus]:
    """Prometheus with this configuration, until the end of the block."""
    assert PROMETHEUS is not None
    port = free_port()
    log = data.parent / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),  # if the tests are killed, so is it
                PROMETHEUS,
                f"--config.file={config}",
                f"--storage.tsdb.path={data}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--storage.tsdb.retention.time=10y",
                "--log.level=warn",
            ],
            stdout=output,
            stderr=output,
        )
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + START_S
        while not _is_ready(server):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "Prometheus does not get ready"
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait(10)


def _is_ready(server: Prometheus) -> bool:
    try:
        with urllib.request.urlopen(f"{server.url}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def backfill(text: str, data: Path) -> None:
    """Put samples with their times into the folder of a Prometheus that does not run yet."""
    assert PROMTOOL is not None
    file = data.parent / "history.om"
    file.write_text(text, encoding="utf-8")
    subprocess.run(
        [PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", "-q", file, data],
        check=True, capture_output=True,
    )  # fmt: skip


def complaints(exposition: bytes) -> str:
    """What promtool finds wrong with an exporter's page: names, units, help texts."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=exposition, capture_output=True, check=False
    )
    return (done.stdout + done.stderr).decode()
