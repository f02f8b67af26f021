"""The files a result goes to: JSON, CSV, an interval log, an HTML page. Whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from loadtest.errors import InputError, LoadtestError
from loadtest.interval_log import intervals_of, to_text
from loadtest.result import Result, write_text
from loadtest.series_csv import to_csv

Named = Sequence[tuple[str, Result]]
Outputs = dict[str, Path]
"""Paths by kind, those of `KINDS`."""


def _html(named: Named) -> str:
    from loadtest.page import to_html  # matplotlib: a second that most runs can save

    return to_html(named)


_WRITERS: dict[str, Callable[[Named], str]] = {
    "json": lambda named: named[0][1].to_json() + "\n",
    "csv": lambda named: to_csv(named[0][1]),
    "hlog": lambda named: to_text(list(intervals_of(named[0][1]))),
    "html": _html,
}
KINDS = tuple(_WRITERS)


def check_writable(outputs: Outputs) -> None:
    """A minute's run must not end with a result that cannot be written. Raises InputError."""
    for kind, path in outputs.items():
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise InputError(f"--{kind} {path}: cannot write there")


def write(named: Named, outputs: Outputs) -> None:
    """All that were asked for; a page may hold several results. Raises LoadtestError."""
    for kind, path in outputs.items():
        if len(named) > 1 and kind != "html":
            raise InputError(f"--{kind} holds one result: say --merge, or give one file")
        text = _WRITERS[kind](named)
        try:
            write_text(text, path)
        except OSError as wrong:
            raise LoadtestError(f"--{kind} {path}: {wrong.strerror}") from None
