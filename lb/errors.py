"""The errors a request, an operator or a start can end in: whose fault, which status, try again?

Foreign errors are translated into these once, at the edge that met them. A class's `reason` is the
word that stands in the metric label, the log line and the answer. Knows nothing of aiohttp.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import ClassVar, Final


class Fault(StrEnum):
    """Who is to blame. Only a backend's fault may count against a backend."""

    CLIENT = "client"
    BACKEND = "backend"
    BALANCER = "balancer"


class Repeat(StrEnum):
    """May the request be sent again, to another backend? `retry.may_retry` reads this."""

    ALWAYS = "always"
    """It certainly never reached an application: no connection came about."""
    IDEMPOTENT = "idempotent"
    """The application may have seen it; harmless only where doing it twice is."""
    STALE = "stale"
    """A kept connection ended before an answer began: as good as never sent, but not certainly."""
    NEVER = "never"


class LbError(Exception):
    """The root of the balancer's own errors; the message is one line fit for an operator."""


# ── a request that cannot be answered by its backend ─────────────────────────────────────────────


class RequestError(LbError):
    """One request failed. Class attributes say what the client sees and what is counted."""

    fault: ClassVar[Fault] = Fault.BALANCER
    status: ClassVar[int] = 500
    reason: ClassVar[str] = "internal"
    repeat: ClassVar[Repeat] = Repeat.NEVER


class InternalError(RequestError):
    """A bug of ours; the log has the traceback, the client only the request's id."""


class ClientFaultError(RequestError):
    fault = Fault.CLIENT
    status = 400
    reason = "bad_request"


class BadRequestError(ClientFaultError):
    """The request cannot be forwarded as it stands."""


class AmbiguousPathError(BadRequestError):
    """Its path leads to one route as it is written, and to another as some servers read it."""

    reason = "ambiguous_path"


class ClientGoneError(ClientFaultError):
    """The client hung up before its answer was complete. Nobody sees the 499 but the metrics."""

    status = 499
    reason = "client_gone"


class ClientTimeoutError(ClientFaultError):
    """The client stopped sending its body."""

    status = 408
    reason = "client_timeout"


class TargetTooLongError(ClientFaultError):
    """A request target beyond limits.target_bytes."""

    status = 414
    reason = "target_too_long"


class HeadTooLargeError(ClientFaultError):
    """A request head beyond limits.head_bytes, or with more than limits.fields fields."""

    status = 431
    reason = "head_too_large"


class BodyTooLargeError(ClientFaultError):
    """A request body beyond limits.body_bytes."""

    status = 413
    reason = "body_too_large"


class VersionRefusedError(ClientFaultError):
    """A version of HTTP other than 1.0 and 1.1."""

    status = 505
    reason = "version_refused"


class NoRouteError(ClientFaultError):
    """No [[route]] leads anywhere for this host and path."""

    status = 404
    reason = "no_route"


class ConnectRefusedError(ClientFaultError):
    """CONNECT: this is not a forward proxy."""

    status = 405
    reason = "connect_refused"


class UpstreamError(RequestError):
    """The backend's fault."""

    fault = Fault.BACKEND
    status = 502
    reason = "upstream"


class ConnectFailedError(UpstreamError):
    """Refused, unreachable, or gone before a connection stood."""

    reason = "connect_failed"
    repeat = Repeat.ALWAYS


class ConnectTimeoutError(ConnectFailedError):
    status = 504
    reason = "connect_timeout"


class BackendTlsError(ConnectFailedError):
    """No TLS with the backend: its certificate is not what was expected, or it speaks none."""

    reason = "backend_tls"


class UpstreamResetError(UpstreamError):
    """The connection ended before the first byte of an answer."""

    reason = "reset"
    repeat = Repeat.IDEMPOTENT


class StaleConnectionError(UpstreamResetError):
    """The same on a kept connection: it was most likely closed just as we used it, which is
    nobody's fault. One that really crashed refuses the next connection, and is counted then."""

    fault = Fault.BALANCER
    reason = "stale_connection"
    repeat = Repeat.STALE


class FirstByteTimeoutError(UpstreamError):
    """Connected, sent, and no answer in time. Not repeated: the work is probably still running."""

    status = 504
    reason = "first_byte_timeout"


class SendTimeoutError(UpstreamError):
    """The backend stopped taking the request's body."""

    status = 504
    reason = "send_timeout"


class BadAnswerError(UpstreamError):
    """What came back is not HTTP."""

    reason = "bad_answer"


class BodyCutError(UpstreamError):
    """The answer broke off after its head. Where the client has some of it already, its connection
    is aborted."""

    reason = "body_cut"
    repeat = Repeat.IDEMPOTENT


class BodyTimeoutError(BodyCutError):
    """The answer's body stalled. Who sends it may still be at it: nobody else is asked."""

    status = 504
    reason = "body_timeout"
    repeat = Repeat.NEVER


class DeadlineError(RequestError):
    """The request took longer than timeouts.whole."""

    status = 504
    reason = "deadline"


class NoBackendError(RequestError):
    """Nobody to send it to. 503 with Retry-After: we fail closed."""

    status = 503
    reason = "no_backend"
    retry_after_s: int = 1
    """Whole seconds; a class's own, unless an instance knows better."""

    def __init__(self, message: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        if retry_after_s is not None:
            self.retry_after_s = max(1, math.ceil(retry_after_s))


class PoolEmptyError(NoBackendError):
    """The service has no backend at all."""

    reason = "pool_empty"
    retry_after_s = 5


class NoneReadyError(NoBackendError):
    """Backends exist; none has passed its first probe yet, or all are draining."""

    reason = "none_ready"
    retry_after_s = 2


class AllUnhealthyError(NoBackendError):
    """Every ready backend fails its probes."""

    reason = "all_unhealthy"
    retry_after_s = 2


class AllTriedError(NoBackendError):
    """Every available backend was already tried for this request."""

    reason = "all_tried"


class AllLostError(AllUnhealthyError):
    """Each has just begun to refuse connections: nobody is there any more, and whoever takes their
    place may be on its way."""


class AllDoubtedError(AllTriedError):
    """And one of them may be gone: it broke off, and a probe asks whether it is still there."""


class AtCapacityError(NoBackendError):
    """Every available backend has as many requests running as it may: wait for one to end."""

    reason = "at_capacity"


class QueueFullError(NoBackendError):
    """Too many requests wait already."""

    reason = "queue_full"


class QueueTimeoutError(NoBackendError):
    """Waited for a backend as long as the configuration allows."""

    reason = "queue_timeout"


class BreakerOpenError(NoBackendError):
    """Too many requests to this service failed: none is sent for a while."""

    reason = "breaker_open"


class OverloadedError(NoBackendError):
    """More requests are running than `proxy.upstream_connections` allows connections."""

    reason = "overloaded"


# ── operating the balancer ───────────────────────────────────────────────────────────────────────


class UnknownBackendError(LbError):
    """An operator named a backend that is not in the pool."""


class BadTransitionError(LbError):
    """A lifecycle step that the table does not have: a bug of the caller."""


class ListenError(LbError):
    """An address cannot be listened on; the message says which, why and what to do."""


_REFUSALS: Final[dict[int, type[ClientFaultError]]] = {
    400: BadRequestError,
    414: TargetTooLongError,
    431: HeadTooLargeError,
    505: VersionRefusedError,
}


def refused(status: int, message: str) -> ClientFaultError:
    """What is malformed on the wire, as an answer of this status. Raises KeyError for others."""
    return _REFUSALS[status](message)
