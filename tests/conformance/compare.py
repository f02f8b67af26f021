"""In one word, what another proxy did with a case's bytes, beside what the case says we do; pure.

Coarse on purpose: which error it answers, which connections it keeps, how it frames a body anew is
its own matter. What reached the backend, and whether the client could tell a whole answer from a
cut one, is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum

from tests.conformance.case import Case, Reply
from tests.conformance.drive import Transcript
from tests.conformance.judge import answer_faults, request_faults
from tests.conformance.reading import Message

_OWN = frozenset({400, 405, 413, 414, 431, 501, 502, 505})
"""What we say ourselves to a request or an answer that we refuse."""


class Verdict(StrEnum):
    SAME = "same"
    FORWARDS = "forwards"
    """Requests reach the backend that we refuse."""
    STARTS = "starts"
    """Of a request that we refuse, the beginning reaches the backend."""
    REFUSES = "refuses"
    """Requests that we forward do not reach the backend whole."""
    PASSES = "passes"
    """An answer reaches the client that we refuse."""
    REJECTS = "rejects"
    """An answer that we pass does not reach the client."""
    DIFFERS = "differs"
    """As many pass, but not the same."""


def verdict(case: Case, seen: Transcript) -> tuple[Verdict, list[str]]:
    """The word, and what it was said for."""
    whole = [request for request in seen.requests if request.complete]
    wanted = [arrival for arrival in case.backend if not arrival.torn]
    counts = f"{len(whole)} whole requests, not {len(wanted)}"
    if len(whole) > len(wanted):
        return Verdict.FORWARDS, [counts]
    if len(whole) < len(wanted):
        return Verdict.REFUSES, [counts]
    if not case.backend and seen.raw_backend:
        return Verdict.STARTS, [repr(seen.raw_backend[:100])]
    differences = [
        fault
        for arrival, request in zip(wanted, whole, strict=True)
        for fault in request_faults(replace(arrival, framing=None), request, ours=False)
    ]
    if not case.backend:
        return Verdict.SAME, []
    word = _answers(case, seen)
    if word is not Verdict.SAME:
        return word, [f"answers {[answer.status for answer in seen.answers]}"]
    differences += _answer_differences(case, seen)
    return (Verdict.DIFFERS if differences else Verdict.SAME), differences


def _answers(case: Case, seen: Transcript) -> Verdict:
    """Of the last answer alone: ours to give, or the backend's?"""
    if not case.is_about_answers or not case.client:
        return Verdict.SAME
    last = next((a.status for a in reversed(seen.answers) if not 100 < a.status < 200), 502)
    if any(answer.status == 101 for answer in seen.answers):
        last = 101
    if case.client[-1].status == 502:
        return Verdict.SAME if last >= 500 else Verdict.PASSES
    return Verdict.REJECTS if last in (502, 504) else Verdict.SAME


def _answer_differences(case: Case, seen: Transcript) -> Iterator[str]:
    wanted = [reply for reply in case.client if not _ours(reply)]
    got = [answer for answer in seen.answers if answer.status not in _OWN] if _refuses(case) else [
        *seen.answers
    ]  # fmt: skip
    if [reply.status for reply in wanted] != [answer.status for answer in got]:
        yield f"answers {[answer.status for answer in got]}"
        return
    for reply, answer in zip(wanted, got, strict=True):
        yield from _one(reply, answer)


def _one(reply: Reply, answer: Message) -> Iterator[str]:
    has = {name: value for name, value in reply.has.items() if name != "Connection"}
    lacks = tuple(name for name in reply.lacks if name != "Connection")
    yield from answer_faults(replace(reply, has=has, lacks=lacks, framing=None), answer)


def _ours(reply: Reply) -> bool:
    return reply.status in _OWN and reply.body is None


def _refuses(case: Case) -> bool:
    return any(_ours(reply) for reply in case.client)
