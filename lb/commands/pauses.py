"""Launches that wait because those before them failed, as `lbctl scale` and `hosts` tell it.

In a table: what stands in another column is not said again, nor what was said of another pause, and
what a host said is cut to a few words. All of them are in `--json` and in `lbctl events`.
"""

from __future__ import annotations

import re
from typing import Final

from lb.commands import render

_REFUSED: Final = re.compile(r"^\S+ refuses \S+: ")
WIDEST: Final = 60
"""Characters of why."""


def launches(row: render.Row) -> str:
    """`go on`, or for each that waits where, until when, and what the last failure said."""
    told: list[str] = []
    said: set[str] = set()
    for pause in row.get("pauses") or ():
        why = _REFUSED.sub("", str(pause.get("why") or ""))
        told.append(_pause(pause, row) + (f": {_short(why)}" if why and why not in said else ""))
        said.add(why)
    return "; ".join(told) or "go on"


def _pause(pause: render.Row, row: render.Row) -> str:
    # the row of a service need not name it, nor that of a host
    where = f"on {pause['host']}" if pause.get("host") else "all"
    names = [
        *([pause["service"]] if pause["service"] != row.get("service") else []),
        *([where] if not pause.get("host") or pause["host"] != row.get("name") else []),
    ]
    failures, until = pause["failures"], pause.get("until")
    stopped = "stopped" if pause["breaker"] == "open" else "wait"
    when = f" until {render.clock(until)[:19]}" if until is not None else ", one may be tried"
    times = "failure" if failures == 1 else "failures in a row"
    head = f"{', '.join(names)}: " if names else ""
    return f"{head}{stopped}{when}, {failures} {times}"


def _short(why: str) -> str:
    return why if len(why) <= WIDEST else f"{why[: WIDEST - 1].rstrip()}…"
