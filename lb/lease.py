"""One request's claim on one backend. Owns that it is counted once and released once; what its
outcome means for the backend, the pool judges.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from lb.backend import Backend
from lb.errors import RequestError

if TYPE_CHECKING:
    from lb.pool import Pool


class Lease:
    """Counted since `Pool.lease`, released exactly once.

    Use as a context manager. Before leaving, say how it went: `answered` or `failed`. Neither
    (a client that hung up, a cancellation) counts for nothing.
    """

    __slots__ = ("_open", "_pool", "backend")

    def __init__(self, pool: Pool, backend: Backend) -> None:
        self._pool = pool
        self._open = True
        self.backend = backend

    def answered(self, seconds: float, now: float, status: int = 200) -> None:
        """A whole answer came, `seconds` after the request was sent. Some of 5xx speak against
        the backend."""
        self._pool.record_answer(self.backend, seconds, now, status)

    def failed(self, error: RequestError) -> None:
        """It ended in an error; only the backend's own fault counts against it."""
        self._pool.record_failure(self.backend, error)

    def release(self) -> None:
        if self._open:
            self._open = False
            self._pool.release(self.backend)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
