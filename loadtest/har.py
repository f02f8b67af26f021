"""Requests from a HAR file (HTTP Archive 1.2, what browsers save), in the order of its entries."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any
from urllib.parse import urlencode

from loadtest.errors import InputError
from loadtest.mix import Ask

# What belongs to the recorded connection and not to the request; a name with a colon is HTTP/2's.
_NOT_OURS = frozenset(
    {
        "host", "content-length", "connection", "keep-alive", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade", "expect",
    }
)  # fmt: skip


_FORM = "application/x-www-form-urlencoded"


def read_har(text: str, name: str) -> tuple[list[Ask], dict[str, int]]:
    """The requests in order, and how many entries were left out by reason. Raises InputError."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as wrong:
        raise InputError(f"{name}:{wrong.lineno}:{wrong.colno}: {wrong.msg}") from None
    try:
        entries = document["log"]["entries"]
        numbered = list(enumerate(entries, start=1))
    except (KeyError, TypeError):
        raise InputError(f"{name}:1:1: not a HAR file: it has no log.entries") from None
    asks = []
    skipped: dict[str, int] = {}
    for number, entry in numbered:
        where = f"{name}: entry {number}"
        try:
            request = entry["request"]
            reason = _unsendable(request)
            if reason is None:
                asks.append(_ask(request, where))
            else:
                skipped[reason] = skipped.get(reason, 0) + 1
        except (KeyError, TypeError, AttributeError) as wrong:
            raise InputError(f"{where}: not a HAR entry's request ({wrong})") from None
    return asks, skipped


def _unsendable(request: dict[str, Any]) -> str | None:
    scheme = str(request["url"]).partition(":")[0]
    if scheme not in ("http", "https"):
        return f"are {scheme}:, not http"
    data = request.get("postData") or {}
    if data.get("params") and not data.get("text") and not _is_form(data):
        return "hold a form's fields, but not the body they were sent in"
    return None


def _is_form(data: dict[str, Any]) -> bool:
    kind = str(data.get("mimeType") or _FORM).partition(";")[0]
    return kind.strip().lower() == _FORM


def _ask(request: dict[str, Any], where: str) -> Ask:
    headers = tuple(
        (str(header["name"]), str(header["value"]))
        for header in request.get("headers", ())
        if header["name"].lower() not in _NOT_OURS and not header["name"].startswith(":")
    )
    return Ask(
        str(request["method"]),
        str(request["url"]).partition("#")[0],
        headers,
        _body(request.get("postData") or {}, where),
        where=where,
    )


def _body(data: dict[str, Any], where: str) -> bytes:
    text = str(data.get("text") or "")
    if not text and data.get("params"):
        fields = [(str(field["name"]), str(field.get("value", ""))) for field in data["params"]]
        return urlencode(fields).encode()
    if data.get("encoding") != "base64":
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{where}: its body is not base64") from None
