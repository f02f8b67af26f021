"""Every error of the admin API as `application/problem+json` (RFC 9457).

Owns the shape of an error and the translation of what a handler raises. Knows no route.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from lb.admin.control import RefusedError, UnknownNameError
from lb.errors import LbError, UnknownBackendError

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ProblemError(Exception):
    """A handler cannot do what was asked; `detail` says why and what would be right."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    """`type` stays about:blank: the status says which kind of problem it is."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    return web.Response(
        status=status,
        text=json.dumps({**body, "detail": detail}) + "\n",
        content_type="application/problem+json",
        headers=headers,
    )


@web.middleware
async def as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: whatever goes wrong further in leaves as one problem document."""
    try:
        return await handler(request)
    except ProblemError as error:
        return problem(error.status, error.detail, error.headers)
    except (UnknownNameError, UnknownBackendError) as error:
        return problem(404, str(error))
    except RefusedError as error:
        return problem(409, str(error))
    except web.HTTPException as error:
        return _from_http(request, error)
    except LbError as error:
        return problem(503, str(error))
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return problem(500, "a fault in lbctl; its log on stderr has the traceback")


def _from_http(request: web.Request, error: web.HTTPException) -> web.Response:
    details = {
        404: f"nothing at {request.path}: the API is under /api/v1, see docs/operating.md",
        413: "the body is too large",
    }
    headers = {}
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        details[405] = f"{request.path} takes {allowed}"
        headers["Allow"] = allowed
    return problem(error.status, details.get(error.status, error.reason), headers)
