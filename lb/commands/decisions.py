"""`lbctl decisions`: what the planner decided, by what it saw, once or live.

Decisions that say the same are one line; how long they went on saying so stands in it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from lb.commands import render
from lb.commands.base import Settings, json_option, pass_settings
from lb.commands.render import Column, text

if TYPE_CHECKING:
    from lb.client import AdminClient

POLL_S: Final = 1.0
"""The planner decides about as often."""
PATIENCE_S: Final = 10.0
"""As `lbctl events -f`: a restart of `lbctl up` is survived."""


COLUMNS: Final = (
    Column("time", lambda row: render.clock(row["first_at"])),
    Column("service", text("service")),
    Column("for", lambda row: render.span(row["last_at"] - row["first_at"]), right=True),
    Column("reason", text("reason")),
    Column("sentence", text("sentence")),
)
# A live line cannot know what comes, nor how long it will be so.
_LIVE: Final = tuple(column for column in COLUMNS if column.title != "for")
_LIVE_WIDTHS: Final = (23, 8, 14, 0)


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on, live, until Ctrl-C.")
@json_option
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--service", help="Only this service's.")
@pass_settings
def decisions(
    settings: Settings, follow: bool, as_json: bool, limit: int, service: str | None
) -> None:
    """What the planner decided and why, the last at the end. JSON is a list, with -f a line for
    each that says something new."""
    client = settings.client()
    page = client.decisions(None, limit, service)
    if not follow:
        render.listing(COLUMNS, page["decisions"], as_json=as_json, empty="nothing was decided yet")
        return
    try:
        for row in page["decisions"]:
            _print_live(row, as_json)
        for row in _new_ones(client, page["last_id"], service):
            _print_live(row, as_json)
    except KeyboardInterrupt:
        return  # how following is meant to end


def _new_ones(client: AdminClient, since: int, service: str | None) -> Iterator[dict[str, object]]:
    """Entries that begin after `since`, as they do; ends with an UnreachableError."""
    from lb.client import UnreachableError

    silent_since: float | None = None
    while True:
        time.sleep(POLL_S)
        try:
            page = client.decisions(since, 1000, service)
        except UnreachableError:
            now = time.monotonic()
            silent_since = now if silent_since is None else silent_since
            if now - silent_since > PATIENCE_S:
                raise
            continue
        silent_since = None
        # whatever else is on the page has only gone on
        yield from (row for row in page["decisions"] if row["id"] > since)
        since = page["last_id"]


def _print_live(row: render.Row, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(row, ensure_ascii=False))
        return
    cells = [render.one_line(column.cell(row)) for column in _LIVE]
    line = "  ".join(cell.ljust(width) for cell, width in zip(cells, _LIVE_WIDTHS, strict=True))
    click.echo(line.rstrip())
