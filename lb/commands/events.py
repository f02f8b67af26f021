"""`lbctl events`: what happened and why, from the journal, once or live."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Final

import click

from lb.commands import render
from lb.commands.base import Settings, WrongUsageError, json_option, pass_settings
from lb.commands.render import Column, text

COLUMNS: Final = (
    Column("time", lambda row: render.clock(row["at"])),
    Column("kind", text("kind")),
    Column("service", text("service")),
    Column("subject", text("subject")),
    Column("reason", text("reason")),
    Column("message", text("message")),
)
# A live line cannot know what comes: widths that fit what usually does.
_LIVE_WIDTHS: Final = (23, 14, 8, 14, 14, 0)
_USUAL: Final = 50
_MOST: Final = 1000
"""That the API gives at once."""
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on, live, until Ctrl-C.")
@json_option
@click.option(
    "--since",
    metavar="ID|AGE|TIME",
    help="Only what came after the event ID, within AGE (90s, 1h30m, 2d), or since TIME here"
    " (14:30, 2026-01-31, 2026-01-31T14:30).",
)
@click.option(
    "--limit",
    type=click.IntRange(1, _MOST),
    help=f"So many; else {_USUAL}, or with an AGE or TIME the last {_MOST} since.",
)
@click.option("--service", help="Only this service's.")
@pass_settings
def events(
    settings: Settings,
    follow: bool,
    as_json: bool,
    since: str | None,
    limit: int | None,
    service: str | None,
) -> None:
    """What happened and why, oldest first. JSON is a list, with -f a line for each event."""
    after_id, not_before = parse_since(since, datetime.now().astimezone())
    client = settings.client()
    # what a time leaves over is known by what is there
    wanted = _MOST if not_before else limit or _USUAL
    page = client.events(after_id, wanted, service)
    rows = [row for row in page["events"] if row["at"] >= not_before]
    if not_before:
        rows = _newest(rows, limit or _MOST)
    if not follow:
        render.listing(COLUMNS, rows, as_json=as_json, empty="nothing happened yet")
        return
    try:
        for row in rows:
            _print_live(row, as_json)
        # With more to show than the limit, the stream brings the rest.
        last = page["events"][-1]["id"] if page["events"] else page["last_id"]
        for row in client.follow(last, service):
            _print_live(row, as_json)
    except KeyboardInterrupt:
        return  # how following is meant to end


def _newest(rows: list[render.Row], limit: int) -> list[render.Row]:
    """The last of those since a time. Says on stderr where there are more, or may be."""
    if len(rows) > limit or len(rows) == _MOST:
        word = "are" if len(rows) > limit else "may be"
        hint = "" if limit == _MOST else f": --limit shows up to {_MOST}"
        click.echo(
            f"lbctl: the last {limit} since then; older ones {word} left out{hint}", err=True
        )
    return rows[-limit:]


def parse_since(since: str | None, now: datetime) -> tuple[int | None, float]:
    """'17' → after id 17; '10m' → not before ten minutes ago, in Unix seconds; both open for None.

    A time without a date is the last one there was; without a zone it is meant in this place's.
    """
    if since is None:
        return None, 0.0
    if since.isascii() and since.isdecimal():
        return int(since), 0.0
    if re.fullmatch(r"(\d{1,6}[smhd])+", since, re.ASCII):
        parts = re.findall(r"(\d+)([smhd])", since)
        return None, now.timestamp() - sum(int(n) * _UNIT_S[unit] for n, unit in parts)
    try:
        if re.fullmatch(r"\d\d?:\d\d(:\d\d)?", since, re.ASCII):
            told = datetime.strptime(since, "%H:%M" if since.count(":") == 1 else "%H:%M:%S")
            then = datetime.combine(now.date(), told.time())
            if then > now.replace(tzinfo=None):
                then -= timedelta(days=1)
        else:
            then = datetime.fromisoformat(since)
        # a time of this place gets the zone that held then, which a summer may have changed
        return None, then.timestamp()
    except (ValueError, OverflowError):
        raise WrongUsageError(
            f"--since {since}: write an event's id, an age: 90s, 10m, 1h30m, 2d,"
            " or a time: 14:30, 2026-01-31T14:30"
        ) from None


def _print_live(row: render.Row, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(row, ensure_ascii=False))
        return
    cells = [render.one_line(column.cell(row)) for column in COLUMNS]
    line = "  ".join(cell.ljust(width) for cell, width in zip(cells, _LIVE_WIDTHS, strict=True))
    click.echo(line.rstrip())
