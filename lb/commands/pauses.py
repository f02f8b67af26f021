"""Launches that wait because those before them failed, as `lbctl scale` and `hosts` tell it."""

from __future__ import annotations

from lb.commands import render


def launches(row: render.Row) -> str:
    """`go on`, or for each that waits where, until when, and what the last failure said."""
    return "; ".join(map(_pause, row.get("pauses") or ())) or "go on"


def _pause(pause: render.Row) -> str:
    where = f"on {pause['host']}" if pause.get("host") else "all"
    failures, until = pause["failures"], pause.get("until")
    stopped = "stopped" if pause["breaker"] == "open" else "wait"
    when = f" until {render.clock(until)[:19]}" if until is not None else ", one may be tried"
    times = "failure" if failures == 1 else "failures in a row"
    why = f": {pause['why']}" if pause.get("why") else ""
    return f"{pause['service']}, {where}: {stopped}{when}, {failures} {times}{why}"
