"""Reads files of requests: what kind a file is, and the two forms that `vegeta` made known.

    POST http://127.0.0.1:8080/orders weight=3
    Content-Type: application/json
    @order.json

and the same as a JSON object a line: `{"method": "POST", "url": …, "header": {"Name": ["value"]},
"body": "base64", "weight": 3}`. Logs are `log_lines.py`'s, HAR is `har.py`'s.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.errors import InputError
from loadtest.har import read_har
from loadtest.log_lines import read_log
from loadtest.mix import Ask

FORMATS = ("auto", "http", "jsonl", "log", "har")
MAX_BYTES = 256 * 1024 * 1024
_REQUEST = re.compile(r"(?P<method>[A-Z]+)\s+(?P<url>\S+)(?:\s+weight=(?P<weight>\S+))?\s*")
_BEGINS = re.compile(r"[A-Z]+\s+(?:[a-z]+:|/)")
_HEADER = re.compile(r"(?P<name>[^\s:]+)\s*:\s*(?P<value>.*?)\s*")


@dataclass(frozen=True, slots=True)
class Targets:
    """What a file holds. `skipped` are lines or entries that cannot be sent again, by reason."""

    name: str
    kind: str
    asks: tuple[Ask, ...]
    skipped: dict[str, int]

    @property
    def unit(self) -> str:
        """What is counted of such a file."""
        return _unit(self.kind)


def read_targets(path: Path, kind: str = "auto") -> Targets:
    """Raises InputError: `file:line:column` and what is wrong there."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: {size:,} bytes are more than the {MAX_BYTES:,} it may have")
        text = path.read_text("utf-8-sig", errors="surrogateescape")
    except OSError as wrong:
        raise InputError(f"{path}: {wrong.strerror}") from None
    name = str(path)
    kind = _kind_of(text) if kind == "auto" else kind
    skipped: dict[str, int] = {}
    if kind == "har":
        asks, skipped = read_har(text, name)
    elif kind == "log":
        asks, skipped = read_log(text, name)
    elif kind == "jsonl":
        asks = _read_jsonl(text, name)
    else:
        asks = _read_http(text, name, path.parent)
    if not asks:
        why = "".join(f"; {count} {_unit(kind)} {reason}" for reason, count in skipped.items())
        raise InputError(f"{name}: there is no request in it that can be sent{why}")
    return Targets(name, kind, tuple(asks), skipped)


def _unit(kind: str) -> str:
    return "entries" if kind == "har" else "lines"


def _kind_of(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first.startswith("{"):
        try:
            document = json.loads(first)
        except ValueError:
            return "har"  # an object over several lines
        if "log" in document:
            return "har"
        return "jsonl" if "url" in document else "log"
    return "http" if first.startswith("#") or _BEGINS.match(first) else "log"


def _read_http(text: str, name: str, folder: Path) -> list[Ask]:
    asks: list[Ask] = []
    lines = text.splitlines()
    i = 0
    while i < len(lines):
        line = lines[i]
        if not line.strip() or line.lstrip().startswith("#"):
            i += 1
            continue
        where = f"{name}:{i + 1}"
        request = _REQUEST.fullmatch(line)
        if not request:
            raise InputError(f"{where}:1: write METHOD URL, and weight=N if you like")
        weight = _weight(request["weight"], f"{where}:{request.start('weight') + 1}")
        headers = []
        body = b""
        i += 1
        while i < len(lines) and lines[i].strip() and not _BEGINS.match(lines[i]):
            line = lines[i]
            i += 1
            if line.startswith("#"):
                continue
            if line.startswith("@"):
                body = _body(folder / line[1:].strip(), f"{name}:{i}:2")
                break  # the body ends a request
            header = _HEADER.fullmatch(line)
            if not header:
                raise InputError(f"{name}:{i}:1: neither 'Name: value' nor '@body-file'")
            headers.append((header["name"], header["value"]))
        asks.append(Ask(request["method"], request["url"], tuple(headers), body, weight, where))
    return asks


def _body(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as wrong:
        raise InputError(f"{where}: {path}: {wrong.strerror}") from None


def _weight(given: Any, where: str) -> float:
    if given is None:
        return 1.0
    try:
        weight = float(given)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 < weight <= 1_000_000:
        raise InputError(f"{where}: weight {given!r}: a number above 0, up to 1,000,000")
    return weight


def _read_jsonl(text: str, name: str) -> list[Ask]:
    asks = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            document = json.loads(line)
        except json.JSONDecodeError as wrong:
            raise InputError(f"{where}:{wrong.colno}: {wrong.msg}") from None
        if not isinstance(document, dict):
            raise InputError(f"{where}:1: not an object")
        asks.append(_ask_of(document, where))
    return asks


def _ask_of(document: dict[str, Any], where: str) -> Ask:
    method, url = document.get("method", "GET"), document.get("url")
    if not isinstance(method, str) or not isinstance(url, str):
        raise InputError(f'{where}:1: it needs a "url", and a "method" if it is not GET')
    headers = []
    given = document.get("header") or {}
    if not isinstance(given, dict):
        raise InputError(f'{where}:1: "header" is an object of lists')
    for key, values in given.items():
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str):
                raise InputError(f"{where}:1: header {key!r}: {value!r} is not a text")
            headers.append((key, value))
    try:
        body = base64.b64decode(document.get("body") or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise InputError(f'{where}:1: "body" is not base64') from None
    weight = _weight(document.get("weight"), f"{where}:1")
    return Ask(method, url, tuple(headers), body, weight, where)
