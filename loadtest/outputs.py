"""The files a result goes to: JSON, CSV, an interval log, an HTML page. Whole or not at all.

Each is written on its own, the JSON first: one that fails costs none of the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from loadtest.errors import InputError
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


def check_writable(outputs: Outputs, results: int = 1) -> None:
    """A minute's run must not end with a result that cannot be written. Raises InputError."""
    for kind, path in outputs.items():
        if results > 1 and kind != "html":
            raise InputError(f"--{kind} holds one result: say --merge, or give one file")
        if not _may_write(path):
            raise InputError(f"--{kind} {path}: cannot write there")


def write(named: Named, outputs: Outputs) -> list[str]:
    """All that were asked for; a page may hold several results. Returns a line for each that
    failed."""
    failed = []
    for kind in KINDS:
        if kind not in outputs:
            continue
        path = outputs[kind]
        try:
            write_text(_WRITERS[kind](named), path)
        except OSError as wrong:
            failed.append(f"--{kind} {path}: {wrong.strerror or wrong}")
        except Exception as wrong:  # noqa: BLE001 (whatever it is, the others must be written)
            failed.append(f"--{kind} {path}: {wrong or type(wrong).__name__}")
    return failed


def _may_write(path: Path) -> bool:
    """A file's folder, for the file is replaced; a pipe or a device itself."""
    if path.exists() and not path.is_file():
        return not path.is_dir() and os.access(path, os.W_OK)
    return os.access(Path(os.path.realpath(path)).parent, os.W_OK)
