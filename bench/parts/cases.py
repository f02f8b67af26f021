"""The kinds of request that proxies are compared by. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    words: str
    """For a table."""
    target: str = "/42"
    answer_bytes: int = 42
    body_bytes: int = 0
    """Sent by POST; 0: a GET."""
    fresh: bool = False
    """A new connection for each request."""
    tls: bool = False
    most_cpu: float = 1.25
    """The goal: so many times HAProxy's CPU per request."""
    most_p99: float = 1.5
    clients: int = 64
    calm_s: float = 0.001
    """A p99 that client and backend keep to by themselves, where their core is not too busy to tell
    proxies apart."""

    def request(self) -> bytes:
        """Its bytes, as wrk and our own client send them."""
        lines = [f"{'POST' if self.body_bytes else 'GET'} {self.target} HTTP/1.1"]
        lines.append("Host: bench.example")
        if self.fresh:
            lines.append("Connection: close")
        if self.body_bytes:
            lines.append(f"Content-Length: {self.body_bytes}")
        return "\r\n".join([*lines, "", ""]).encode() + b"x" * self.body_bytes

    def wrk_script(self) -> str:
        """For wrk: the same request, made once; and at the end one line of figures."""
        lines = ['wrk.headers["Host"] = "bench.example"']
        if self.fresh:
            lines.append('wrk.headers["Connection"] = "close"')
        if self.body_bytes:
            lines += ['wrk.method = "POST"', f'wrk.body = string.rep("x", {self.body_bytes})']
        return "\n".join([*lines, WRK_DONE])


WRK_DONE: Final = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    "figures %d %d %d %d %d %d %d %d\\n", summary.requests, summary.duration, summary.bytes,
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""

CASES: Final = {
    case.name: case
    for case in (
        Case("get", "GET, 42 bytes", most_cpu=1.0),
        Case("10k", "GET, 10 KiB", "/10k", 10 * 1024),
        Case("1m", "GET, 1 MiB", "/1m", 1024 * 1024, calm_s=0.005),
        Case("new", "GET, 42 bytes, new connections", fresh=True),
        Case("post", "POST, 1 KiB", "/post", 4, body_bytes=1024),
        Case("tls", "GET, 42 bytes, TLS", tls=True),
    )
}


@dataclass(frozen=True, slots=True)
class Burst:
    """What wrk says of a run."""

    requests: int
    seconds: float
    bytes: int
    errors: int
    """Of connections, reads, writes, of answers that are no 2xx or 3xx, and of time."""

    def wrong(self, case: Case) -> str:
        """Why it does not count; empty: it does."""
        if self.errors:
            return f"{self.errors} errors"
        if not self.requests:
            return "nothing was answered"
        if self.bytes < self.requests * case.answer_bytes:
            return f"{self.requests} answers of {self.bytes} bytes are cut"
        return ""


def read_wrk(text: str) -> Burst:
    """Of the line that `wrk_script` has it print. Raises ValueError without one."""
    for line in text.splitlines():
        if line.startswith("figures "):
            requests, us, received, *errors = (int(word) for word in line.split()[1:])
            return Burst(requests, us / 1e6, received, sum(errors))
    raise ValueError(f"wrk says no figures: {text[:300]!r}")
