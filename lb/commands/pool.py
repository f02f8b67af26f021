"""`lbctl pool`: the backends, listed, watched and changed through the admin API."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from lb import figures
from lb.commands import render
from lb.commands.base import FailedError, Settings, WrongUsageError, json_option, pass_settings
from lb.commands.render import Column, figure, text

if TYPE_CHECKING:
    from lb.client import AdminClient

WATCH_S: Final = 1.0


def _health(row: render.Row) -> str:
    word = "healthy" if row["healthy"] else "unhealthy"
    if row.get("ejected"):
        word += ", ejected"
    return f"{word} ({row['probe']})" if row.get("probe") else word


COLUMNS: Final = (
    Column("name", text("name")),
    Column("service", text("service")),
    Column("address", text("address")),
    Column("state", text("lifecycle")),
    Column("health", _health),
    Column("in flight", text("in_flight"), right=True),
    Column("rate", figure("rate", render.rate), right=True),
    Column("p50", figure("latency_p50_s", figures.milliseconds), right=True),
    Column("p99", figure("latency_p99_s", figures.milliseconds), right=True),
    Column("cpu", figure("cpu", figures.percent), right=True),
    Column("host", text("host")),
)
EMPTY: Final = "the pool is empty: `lbctl vm list` shows what boots, `lbctl events` what happened"


@click.group(invoke_without_command=True)
@json_option
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@click.pass_context
def pool(ctx: click.Context, as_json: bool, watch: bool) -> None:
    """The backends: without a subcommand, list them."""
    if ctx.invoked_subcommand is not None:
        if as_json or watch:
            raise WrongUsageError(f"--json and --watch belong to `lbctl pool` alone, not to"
                                  f" `pool {ctx.invoked_subcommand}`")  # fmt: skip
        return
    client = ctx.ensure_object(Settings).client()
    if watch:
        try:
            _watch(client, as_json)
        except KeyboardInterrupt:
            return  # how a watch is meant to end
    else:
        render.listing(COLUMNS, client.pool()["backends"], as_json=as_json, empty=EMPTY)


def _watch(client: AdminClient, as_json: bool) -> None:
    rows = client.pool()["backends"]
    if as_json or not sys.stdout.isatty():
        while True:
            if as_json:
                click.echo(json.dumps(rows, ensure_ascii=False))  # a line each second
            else:
                click.echo(render.plain_table(COLUMNS, rows) + "\n")
            time.sleep(WATCH_S)
            rows = client.pool()["backends"]
    from rich.live import Live

    with Live(render.rich_table(COLUMNS, rows), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            rows = client.pool()["backends"]
            live.update(render.rich_table(COLUMNS, rows), refresh=True)


service_option = click.option("--service", help="Needed where several services have that name.")


@pool.command()
@click.argument("address")
@click.option("--service", help="Needed where several services are served.")
@pass_settings
def add(settings: Settings, address: str, service: str | None) -> None:
    """Add the backend at ADDRESS (host:port). It serves once its readiness check passes."""
    client = settings.client()
    if service is None:
        services = client.pool()["services"]
        if len(services) != 1:
            raise WrongUsageError(f"say which with --service: {', '.join(services)}")
        service = services[0]
    name = client.add_backend(service, address)
    click.echo(f"{name} added to {service}")


@pool.command()
@click.argument("name")
@service_option
@pass_settings
def drain(settings: Settings, name: str, service: str | None) -> None:
    """No new request to NAME; those running finish."""
    client = settings.client()
    where = _service_of(client, name, service)
    client.drain_backend(where, name)
    click.echo(f"{name} is draining")


@pool.command()
@click.argument("name")
@service_option
@pass_settings
def ready(settings: Settings, name: str, service: str | None) -> None:
    """Take a drain of NAME back; it serves once its readiness check passes."""
    client = settings.client()
    where = _service_of(client, name, service)
    client.ready_backend(where, name)
    click.echo(f"{name} may serve again")


@pool.command()
@click.argument("name")
@service_option
@pass_settings
def remove(settings: Settings, name: str, service: str | None) -> None:
    """Forget NAME; its running requests may finish."""
    client = settings.client()
    where = _service_of(client, name, service)
    client.remove_backend(where, name)
    click.echo(f"{name} removed from {where}")


def _service_of(client: AdminClient, name: str, service: str | None) -> str:
    if service is not None:
        return service
    rows: list[dict[str, Any]] = client.pool()["backends"]
    found = [str(row["service"]) for row in rows if row["name"] == name]
    if len(found) > 1:
        raise WrongUsageError(f"{name} is in {', '.join(found)}: say which with --service")
    if not found:
        known = ", ".join(str(row["name"]) for row in rows) or "none"
        raise FailedError(f"no backend {name}; there are: {known}")
    return found[0]
