"""What the command line asks for: one URL with its method and body, or a file of requests."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.errors import InputError
from loadtest.mix import Mix
from loadtest.request import Target
from loadtest.targets import read_targets

log = logging.getLogger(__name__)


def what(
    url: str | None,
    targets: Path | None,
    kind: str,
    method: str | None,
    headers: Sequence[str],
    body: str | None,
) -> dict[str, Any]:
    """The arguments of `Settings` that say what is sent. Raises InputError."""
    given = tuple(_header(text) for text in headers)
    if targets is None:
        return {
            "url": url or "",
            "method": method or "GET",
            "headers": given,
            "body": _body(body or ""),
        }
    if method is not None or body is not None:
        raise InputError("--targets says method and body itself: leave out --method and --body")
    base = None if url is None else Target.parse(url)
    if base is not None and base.path != "/":
        raise InputError(f"URL {url!r}: with --targets it names a server: leave out the path")
    found = read_targets(targets, kind)
    for reason, count in found.skipped.items():
        log.warning("%s: %d %s left out: they %s", targets, count, found.unit, reason)
    return {
        "url": str(targets) if url is None else f"{url} ({targets})",
        "mix": Mix.of(found.asks, given, base),
    }


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise InputError(f"header {text!r}: write 'Name: value'")
    return name.strip(), value.strip()


def _body(text: str) -> bytes:
    if not text.startswith("@"):
        return text.encode()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as wrong:
        raise InputError(f"body {text}: {wrong.strerror}") from None
