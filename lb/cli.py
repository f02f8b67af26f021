"""lbctl: puts the commands together. It parses, calls and prints; it decides nothing.

Kept light, because every call of lbctl pays for what is imported here.
"""

from __future__ import annotations

import click

from lb.commands.base import Lbctl, Settings
from lb.commands.config import config
from lb.commands.decisions import decisions
from lb.commands.events import events
from lb.commands.image import image
from lb.commands.machines import hosts, vm
from lb.commands.pool import pool
from lb.commands.rollout import rollout
from lb.commands.scale import scale
from lb.commands.serve import demo, doctor, up
from lb.commands.simulate import simulate


def _version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib import metadata

    try:
        number = metadata.version("lbctl")
    except metadata.PackageNotFoundError:
        number = "(not installed)"
    click.echo(f"lbctl {number}")
    ctx.exit()


@click.group("lbctl", cls=Lbctl, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show where an error came from.")
@click.option(
    "--admin",
    envvar="LBCTL_ADMIN",
    metavar="URL",
    help="Where the admin API is. [default: where this LBCTL_HOME's `lbctl up` listens]",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
    help="Say the version.",
)  # fmt: skip
@click.pass_obj
def cli(settings: Settings, debug: bool, admin: str | None) -> None:
    """A load balancer that grows its own machines.

    Exit codes: 0 fine, 1 it failed, 2 wrong usage or configuration.
    """
    settings.debug = debug
    settings.admin = admin


for command in (
    up, demo, pool, vm, hosts, scale, rollout, decisions, events, image, doctor, config, simulate,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """The console script."""
    cli.main()


if __name__ == "__main__":
    main()
