"""`lbctl vm` and `lbctl hosts`: what the hypervisors run for us, standbys included."""

from __future__ import annotations

import json
from typing import Final

import click

from lb import figures
from lb.commands import render
from lb.commands.base import Settings, json_option, only_service, pass_settings
from lb.commands.pauses import launches
from lb.commands.render import Column, figure, text


def _image(row: render.Row) -> str:
    """`webapp 0123456789ab`: by the checksum builds of one name are told apart."""
    known = [str(row[key]) for key in ("image_name", "image") if row.get(key)]
    return " ".join(known) or render.NOTHING


VM_COLUMNS: Final = (
    Column("name", text("name")),
    Column("service", text("service")),
    Column("role", text("role")),
    Column("state", text("state")),
    Column("path", text("path")),
    Column("libvirt", text("libvirt_state")),
    Column("host", text("host")),
    Column("address", text("address")),
    Column("age", figure("age_s", render.span), right=True),
    Column("cpu host", figure("cpu_host_ratio", figures.percent), right=True),
    Column("cpu vcpu", figure("cpu_vcpu_ratio", figures.percent), right=True),
    Column("memory", figure("memory_bytes", render.size), right=True),
    Column("image", _image),
    Column("protected", lambda row: "yes" if row.get("protected") else render.NOTHING),
)


def _state(row: render.Row) -> str:
    """`answers`, or since when it does not and why; and how many calls hang."""
    since = row.get("silent_since")
    if row.get("held_by"):
        words = f"held elsewhere: {row['held_by']}"
    elif row["reachable"] and since is None:
        words = "answers"
    else:
        when = f" since {render.clock(since)[:19]}" if since is not None else ""
        words = f"silent{when}: {row.get('error') or 'no answer'}"
    hung = row.get("hung_calls")
    return f"{words}; {hung} calls hang" if hung else words


HOST_COLUMNS: Final = (
    Column("name", text("name")),
    Column("uri", text("uri")),
    Column("state", _state),
    Column("launches", launches),
    Column("runs", text("domain_type")),
    Column("cores", text("cores"), right=True),
    Column("libvirt", text("libvirt_version")),
    Column("replicas", text("replicas"), right=True),
    Column("standbys", text("standbys"), right=True),
)


@click.group()
def vm() -> None:
    """The virtual machines."""


@vm.command("list")
@json_option
@pass_settings
def list_vms(settings: Settings, as_json: bool) -> None:
    """Every VM of ours, in whatever state."""
    rows = settings.client().vms()
    render.listing(VM_COLUMNS, rows, as_json=as_json, empty="no VM: `lbctl events` says why")


@vm.command()
@click.argument("name")
@json_option
@pass_settings
def show(settings: Settings, name: str, as_json: bool) -> None:
    """One VM, field by field."""
    row = settings.client().vm(name)
    if as_json:
        click.echo(json.dumps(row, indent=2, ensure_ascii=False))
        return
    width = max(len(column.title) for column in VM_COLUMNS)
    for column in VM_COLUMNS:
        click.echo(f"{column.title.ljust(width)}  {column.cell(row)}")


@vm.command()
@click.argument("service", required=False)
@json_option
@pass_settings
def spawn(settings: Settings, service: str | None, as_json: bool) -> None:
    """One replica of SERVICE more than are wanted now. An order like `lbctl scale --to`: it holds
    until `lbctl scale SERVICE --auto`."""
    client = settings.client()
    row = client.spawn_vm(service or only_service(client))
    if as_json:
        click.echo(json.dumps(row, indent=2, ensure_ascii=False))
        return
    name = row["service"]
    click.echo(
        f"{name}: {row['to']} replicas from now on; `lbctl scale {name} --auto` lets the planner"
        " decide again"
    )


@vm.command()
@click.argument("name")
@pass_settings
def retire(settings: Settings, name: str) -> None:
    """Let the VM NAME finish its requests and end. Where as many are still wanted, another one
    takes its place."""
    settings.client().retire_vm(name)
    click.echo(f"{name} finishes its requests and ends")


@vm.command()
@click.argument("name")
@click.option("--off", is_flag=True, help="Protect it no longer.")
@pass_settings
def protect(settings: Settings, name: str, off: bool) -> None:
    """Spare the VM NAME from scale-ins, rollouts and lifetimes. One that crashes or stays unhealthy
    is replaced all the same."""
    settings.client().protect_vm(name, protected=not off)
    click.echo(f"{name} is {'protected no longer' if off else 'protected'}")


@click.group()
def hosts() -> None:
    """The hypervisors."""


@hosts.command("list")
@json_option
@pass_settings
def list_hosts(settings: Settings, as_json: bool) -> None:
    """Every configured hypervisor and whether it answers."""
    rows = settings.client().hosts()
    render.listing(HOST_COLUMNS, rows, as_json=as_json, empty="no hypervisor: no service has VMs")
