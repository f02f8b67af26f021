"""`lbctl rollout`: put another image in the place of the one that replicas run, and follow it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

import click

from lb.commands import render
from lb.commands.base import (
    FailedError,
    Settings,
    WrongUsageError,
    json_option,
    only_service,
    pass_settings,
)
from lb.commands.render import Column, text

if TYPE_CHECKING:
    from lb.client import AdminClient

WATCH_S: Final = 1.0
GOES_ON: Final = ("running", "paused", "rolling_back")
EMPTY: Final = "no rollout: `lbctl rollout SERVICE --image NEW` begins one"

COLUMNS: Final = (
    Column("service", text("service")),
    Column("phase", lambda row: str(row["phase"]).replace("_", " ")),
    Column("from", text("image_from")),
    Column("to", text("image_to")),
    Column("new", text("new"), right=True),
    Column("old", text("old"), right=True),
    Column("booting", text("booting"), right=True),
    Column("sentence", text("sentence")),
)


class WithDefault(click.Group):
    """`lbctl rollout web --image x` is `lbctl rollout start web --image x`."""

    DEFAULT: Final = "start"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.group(cls=WithDefault)
def rollout() -> None:
    """Another image for the replicas of SERVICE: `lbctl rollout SERVICE --image NEW`.

    A service that is called like one of the commands below needs `lbctl rollout start SERVICE`.
    """


class _Share(click.ParamType[float]):
    """`50%`."""

    name = "PERCENT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            share = float(str(value).removesuffix("%")) / 100
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            self.fail(f"{value} is no share of the replicas: write 1% to 99%", param, ctx)
        return share


@rollout.command()
@click.argument("service", required=False)
@click.option("--image", metavar="NEW", help="Without it, what the configured image is by now.")
@click.option(
    "--max-surge", type=click.IntRange(1, 100), default=1, show_default=True, metavar="N",
    help="So many replicas more than the load needs meanwhile.",
)  # fmt: skip
@click.option("--pause-at", type=_Share(), help="Pause once so many are new.")
@json_option
@pass_settings
def start(
    settings: Settings,
    service: str | None,
    image: str | None,
    max_surge: int,
    pause_at: float | None,
    as_json: bool,
) -> None:
    """Begin: the first new replica is judged beside the old ones, then one after the other goes.
    Where the new ones are worse, it stops and goes back by itself."""
    client = settings.client()
    row = client.begin_rollout(service or only_service(client), image, max_surge, pause_at)
    _say(row, f"a rollout to {row['image_to']} begins; `lbctl rollout status` follows it", as_json)


@rollout.command()
@click.argument("service", required=False)
@click.option("--watch", is_flag=True, help="Show it each second until none goes on.")
@json_option
@pass_settings
def status(settings: Settings, service: str | None, watch: bool, as_json: bool) -> None:
    """How far each rollout is. With --watch, 1 is the exit code where one failed."""
    client = settings.client()
    rows = _rows(client, service)
    while watch and any(row["phase"] in GOES_ON for row in rows):
        _show(rows, as_json)
        time.sleep(WATCH_S)
        rows = _rows(client, service)
    _show(rows, as_json)
    failed = [row["service"] for row in rows if row["phase"] == "failed"]
    if watch and failed:
        raise FailedError(f"the rollout of {', '.join(failed)} failed")


def _rows(client: AdminClient, service: str | None) -> list[dict[str, Any]]:
    return client.rollouts() if service is None else [client.rollout(service)]


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    render.listing(COLUMNS, rows, as_json=as_json, empty=EMPTY)


@rollout.command()
@click.argument("service", required=False)
@json_option
@pass_settings
def pause(settings: Settings, service: str | None, as_json: bool) -> None:
    """Let it stand where it is; load and failures are answered all the same."""
    row = _change(settings.client(), service, "paused")
    _say(row, "the rollout is paused", as_json)


@rollout.command()
@click.argument("service", required=False)
@json_option
@pass_settings
def resume(settings: Settings, service: str | None, as_json: bool) -> None:
    """Go on after a pause."""
    row = _change(settings.client(), service, "running")
    _say(row, "the rollout goes on", as_json)


@rollout.command()
@click.argument("service", required=False)
@json_option
@pass_settings
def undo(settings: Settings, service: str | None, as_json: bool) -> None:
    """Go back to the image before, also after it is done."""
    row = _change(settings.client(), service, "rolling_back")
    _say(row, f"back to {row['image_from']}", as_json)


def _change(client: AdminClient, service: str | None, phase: str) -> dict[str, Any]:
    if service is None:
        rows = client.rollouts()
        if len(rows) != 1:
            names = ", ".join(row["service"] for row in rows)
            raise WrongUsageError(f"say which service: {names}" if rows else EMPTY)
        service = str(rows[0]["service"])
    return client.change_rollout(service, phase)


def _say(row: dict[str, Any], words: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(row, indent=2, ensure_ascii=False))
    else:
        click.echo(f"{row['service']}: {words}")
