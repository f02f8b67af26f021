"""The cases, a file a subject; `CASES` is all of them, with what HAProxy and nginx do otherwise.

`haproxy` and `nginx` hold the explanations, a reason and the cases it is for: they read better so
than scattered, and a new version of a peer changes one file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tests.conformance.case import Case
from tests.conformance.tables import (
    answer_bodies,
    answer_heads,
    answers,
    chunks,
    connections,
    fields,
    forwarding,
    framing,
    haproxy,
    hosts,
    limits,
    methods,
    nginx,
    request_line,
    upstream,
)

_ROWS: tuple[Case, ...] = (
    *request_line.CASES,
    *hosts.CASES,
    *fields.CASES,
    *framing.CASES,
    *chunks.CASES,
    *limits.CASES,
    *methods.CASES,
    *forwarding.CASES,
    *connections.CASES,
    *answers.CASES,
    *answer_heads.CASES,
    *answer_bodies.CASES,
    *upstream.CASES,
)


def _by_case(explained: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Case name → reason. Raises ValueError for one explained twice, or that is not there."""
    reasons: dict[str, str] = {}
    known = {case.name for case in _ROWS}
    for reason, names in explained.items():
        for name in names:
            if name in reasons or name not in known:
                raise ValueError(f"explained twice, or no case: {name}")
            reasons[name] = reason
    return reasons


_HAPROXY, _NGINX = _by_case(haproxy.EXPLAINED), _by_case(nginx.EXPLAINED)

CASES: tuple[Case, ...] = tuple(
    replace(case, haproxy=_HAPROXY.get(case.name, ""), nginx=_NGINX.get(case.name, ""))
    for case in _ROWS
)
