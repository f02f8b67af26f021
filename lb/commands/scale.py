"""`lbctl scale`: how many replicas, why, and an operator's order that goes before the planner's."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from lb.commands import render
from lb.commands.base import (
    Settings,
    WrongUsageError,
    json_option,
    only_service,
    pass_settings,
)
from lb.commands.pauses import launches
from lb.commands.render import NOTHING, Column, text


def _mode(row: render.Row) -> str:
    """`auto`, `fixed 3 until 2026-01-31T12:00:00`, `hold`."""
    if row.get("mode") is None:
        return NOTHING
    words = [str(row["mode"])]
    if row.get("to") is not None:
        words.append(str(row["to"]))
    if row.get("until") is not None:
        words.append(f"until {render.clock(row['until'])[:19]}")
    return " ".join(words)


def _sentence(row: render.Row) -> str:
    """The last decision; and where a rollout holds another image than the configuration names."""
    said = [str(row[key]) for key in ("sentence", "image_held") if row.get(key)]
    return "; ".join(said) or NOTHING


COLUMNS: Final = (
    Column("service", text("service")),
    Column("desired", text("desired"), right=True),
    Column("ready", text("ready"), right=True),
    Column("booting", text("booting"), right=True),
    Column("standby", text("standby"), right=True),
    Column("min", text("min"), right=True),
    Column("max", text("max"), right=True),
    Column("mode", _mode),
    Column("launches", launches),
    Column("reason", text("reason")),
    Column("sentence", _sentence),
)


@click.command()
@click.argument("service", required=False)
@click.option("--to", type=click.IntRange(0, 1000), metavar="N", help="Keep N replicas.")
@click.option("--auto", is_flag=True, help="Take the order back: the planner decides again.")
@click.option("--hold", is_flag=True, help="Keep as many as there are.")
@click.option("--observe", is_flag=True, help="Say what the planner would do, and do not do it.")
@click.option("--for", "lasting", metavar="TIME", help="Only for so long: 90s, 10m, 1h30m.")
@json_option
@pass_settings
def scale(
    settings: Settings,
    service: str | None,
    to: int | None,
    auto: bool,
    hold: bool,
    observe: bool,
    lasting: str | None,
    as_json: bool,
) -> None:
    """How many replicas SERVICE has, and why; without it, every service's.

    With one of --to, --auto, --hold and --observe: an order, which holds over a restart too.
    """
    given = {"fixed": to is not None, "auto": auto, "hold": hold, "observe": observe}
    modes = [mode for mode, wanted in given.items() if wanted]
    if len(modes) > 1:
        raise WrongUsageError("one of --to, --auto, --hold and --observe, not several")
    for_s = _seconds(lasting, modes)
    client = settings.client()
    if not modes:
        rows = client.scales() if service is None else [client.scale(service)]
        render.listing(COLUMNS, rows, as_json=as_json, empty="there is no service")
        return
    row = client.set_scale(service or only_service(client), modes[0], to, for_s)
    if as_json:
        click.echo(json.dumps(row, indent=2, ensure_ascii=False))
    else:
        click.echo(_answer(row))


def _seconds(lasting: str | None, modes: list[str]) -> float | None:
    if lasting is None:
        return None
    if modes in ([], ["auto"]):
        raise WrongUsageError("--for goes with --to, --hold or --observe")
    from lb.config_types import parse_duration

    try:
        seconds = float(str(parse_duration(lasting)))
    except ValueError as error:
        raise WrongUsageError(f"--for: {error}") from error
    if seconds <= 0:
        raise WrongUsageError("--for: nothing lasts 0 s: --auto takes an order back")
    return seconds


def _answer(row: dict[str, Any]) -> str:
    service, mode = row["service"], _mode(row)
    if row["ordered"]:
        return f"{service}: {mode}"
    if mode == "auto":
        return f"{service}: the planner decides"
    return f"{service}: no order; mode = {mode} of the configuration counts"
