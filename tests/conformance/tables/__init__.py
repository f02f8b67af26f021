"""The cases, a file a subject; `CASES` is all of them."""

from __future__ import annotations

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
    hosts,
    limits,
    methods,
    request_line,
)

CASES: tuple[Case, ...] = (
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
)
