"""What requests to the admin API carry, read strictly, and values as JSON answers.

Knows no route: a wrong body or parameter is a ProblemError which says what would be right.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from lb.admin.problems import ProblemError

BODY_S: Final = 10.0


def as_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        text=_dump(value) + "\n", status=status, content_type="application/json", headers=headers
    )


async def as_large_json(make: Callable[[], Any]) -> web.Response:
    """What `make` returns, made and rendered in another thread: of megabytes, requests would wait
    for a tenth of a second."""

    def render() -> bytes:
        return f"{in_pieces(make())}\n".encode()

    body = await asyncio.to_thread(render)
    return web.Response(body=body, content_type="application/json", charset="utf-8")


def in_pieces(value: Any, depth: int = 2) -> str:
    """The same text as in one piece. But the interpreter runs one thread at a time, and lets no
    other run amid a piece: an hour of seconds of one figure takes some milliseconds."""
    if depth and isinstance(value, dict):
        items = (f"{_dump(str(key))}: {in_pieces(part, depth - 1)}" for key, part in value.items())
        return "{" + ", ".join(items) + "}"
    if depth and isinstance(value, list):
        return "[" + ", ".join(in_pieces(part, depth - 1) for part in value) + "]"
    return _dump(value)


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False)


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: null says that there is no figure."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


async def read_body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError:
        raise ProblemError(408, f"the body did not arrive within {BODY_S:g} s") from None


async def read_json(request: web.Request) -> Any:
    try:
        return json.loads(await read_body(request))
    except (ValueError, RecursionError):
        raise ProblemError(400, "the body is not JSON") from None


def flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise ProblemError(400, f"{name} must be true or false")
    return text == "true"


def number(request: web.Request, name: str, default: int | None, low: int, high: int) -> int | None:
    text = request.query.get(name)
    if text is None:
        return default
    if text.isascii() and text.isdecimal() and len(text) <= 16 and low <= int(text) <= high:
        return int(text)
    raise ProblemError(400, f"{name} must be a whole number from {low} to {high}")
