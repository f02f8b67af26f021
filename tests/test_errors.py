"""Every error of a request has a status, a word and a culprit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lb.errors import Fault, NoBackendError, Repeat, RequestError


def families(root: type[RequestError]) -> Iterator[type[RequestError]]:
    for child in root.__subclasses__():
        yield child
        yield from families(child)


def test_every_error_answers() -> None:
    for error in families(RequestError):
        assert 400 <= error.status <= 599
        assert re.fullmatch(r"[a-z_]+", error.reason), error
        # Blame and status agree: 4xx is the client's, 5xx is not, but for what we do not offer.
        if error.fault is not Fault.CLIENT:
            assert error.status >= 500
        if error.fault is not Fault.BACKEND:
            assert error.repeat in (Repeat.NEVER, Repeat.STALE)


def test_words_of_the_backends_faults_are_distinct() -> None:
    """A kind of another error that has no word of its own is told by that error's."""
    words = [error.reason for error in families(RequestError) if "reason" in vars(error)]
    assert len(set(words)) == len(words)


def test_nobody_there_says_when_to_come_back() -> None:
    assert NoBackendError.retry_after_s > 0
    assert all(error.retry_after_s > 0 for error in NoBackendError.__subclasses__())
