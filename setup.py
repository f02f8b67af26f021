"""Compiles the request path with mypyc, from the same source that Python runs; all else is
setup.cfg's.

What the fast lane runs for a request is 5.7 µs of Python, and 2.4 compiled. Without a C compiler,
or with LBCTL_COMPILE=no, everything works as it is, at that price.
"""

from __future__ import annotations

import os
import sys

from setuptools import Extension, setup

# Those that a request goes through, and those whose values they handle most.
COMPILED = (
    "lb/backend.py",
    "lb/backend_connection.py",
    "lb/budget.py",
    "lb/client_connection.py",
    "lb/client_phase.py",
    "lb/client_transport.py",
    "lb/deadline.py",
    "lb/exchange.py",
    "lb/fast_plan.py",
    "lb/fastlane.py",
    "lb/field_names.py",
    "lb/follower.py",
    "lb/forwarded.py",
    "lb/half_closed.py",
    "lb/headers.py",
    "lb/latency.py",
    "lb/lease.py",
    "lb/logged.py",
    "lb/least_requests.py",
    "lb/membership.py",
    "lb/outlier.py",
    "lb/overdue.py",
    "lb/peak.py",
    "lb/pool.py",
    "lb/pour.py",
    "lb/proxy.py",
    "lb/relay.py",
    "lb/request_ids.py",
    "lb/request_metrics.py",
    "lb/rolling.py",
    "lb/routes.py",
    "lb/site.py",
    "lb/slate.py",
    "lb/trace.py",
    "lb/trust.py",
    "lb/turns.py",
    "lb/upstream.py",
    "lb/waiting.py",
    "lb/wire/framing.py",
    "lb/wire/head.py",
)

# Types of installed packages are not looked at: where this is built there may be none.
MYPY = (
    "--config-file=",
    "--no-site-packages",
    "--ignore-missing-imports",
    "--follow-imports=silent",
)


def compiled() -> list[Extension]:
    if os.environ.get("LBCTL_COMPILE") == "no":
        return []
    from mypyc.build import mypycify

    extensions = mypycify([*MYPY, *COMPILED], group_name="lb.compiled")
    for extension in extensions:
        extension.optional = True
    return extensions


if __name__ == "__main__":
    sys.path.insert(0, ".")
    setup(ext_modules=compiled())
