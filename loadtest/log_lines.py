"""Requests from an access log: Apache's common and combined formats, and `lbctl`'s own JSON.

A log does not hold what was in a body, so only requests that need none are taken; what is skipped
is counted. Owns reading; a log's times are not used, a plan says when.
"""

from __future__ import annotations

import json
import re
from typing import Any

from loadtest.errors import InputError
from loadtest.mix import Ask

TAKEN = frozenset({"GET", "HEAD", "OPTIONS"})
_BEFORE = re.compile(r"\S+ \S+ .*?\[[^\]]*\] (?=\")")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)" \d{3} (?:\d+|-)')
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")
_UNSAFE = re.compile(r"[^!-~]")


def read_log(text: str, name: str) -> tuple[list[Ask], dict[str, int]]:
    """The requests in order, and how many lines were skipped by reason. Raises InputError."""
    asks = []
    skipped: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        request = _of_json(line, where) if line.startswith("{") else _of_apache(line, where)
        if request is None:
            reason = "hold no request"
        elif request[0] not in TAKEN:
            reason = f"are {request[0]}, whose body a log does not hold"
        elif not request[1].startswith("/"):
            reason = "ask for something without a path"
        else:
            asks.append(Ask(request[0], request[1], where=where))
            continue
        skipped[reason] = skipped.get(reason, 0) + 1
    return asks, skipped


def _of_apache(line: str, where: str) -> tuple[str, str] | None:
    before = _BEFORE.match(line)
    if not before:
        raise InputError(f"{where}:1: not a line of an access log (common, combined or JSON)")
    quoted = _QUOTED.match(line, before.end())
    if not quoted:
        raise InputError(f'{where}:{before.end() + 1}: not "METHOD PATH VERSION" STATUS BYTES')
    words = quoted[1].split(" ")
    if len(words) != 3 or not words[0].isalpha():
        return None
    return words[0], _escaped(_ESCAPE.sub(_percent, words[1]))


def _of_json(line: str, where: str) -> tuple[str, str] | None:
    try:
        document: Any = json.loads(line)
    except json.JSONDecodeError as wrong:
        raise InputError(f"{where}:{wrong.colno}: {wrong.msg}") from None
    if not isinstance(document, dict) or not {"method", "target"} <= document.keys():
        raise InputError(
            f'{where}:1: not a line of lbctl\'s log: "method" and "target" are missing'
        )
    method, target = document["method"], document["target"]
    if not isinstance(method, str) or not isinstance(target, str):
        return None
    return method, _escaped(_ESCAPE.sub(_percent, target))


def _percent(escape: re.Match[str]) -> str:
    return f"%{escape[1].upper()}"


def _escaped(path: str) -> str:
    """What a request line may not hold, as the percent signs its sender should have used."""
    return _UNSAFE.sub(
        lambda found: "".join(
            f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogateescape")
        ),
        path,
    )
