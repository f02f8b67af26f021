"""`lbctl image`: build the guest image, add one of your own, list and remove them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from lb.commands import render
from lb.commands.base import FailedError, Settings, WrongUsageError, json_option, pass_settings
from lb.commands.render import Column, figure, text

if TYPE_CHECKING:
    from guest.image import Image
    from guest.own.image import OwnImage


def _boot(row: render.Row) -> str:
    """The parts in order, and what they add up to; of one's own nobody measured them."""
    if row["kind"] == "own":
        return f"by its firmware, from {row['path']}"
    parts: dict[str, float] = row["boot_parts"]
    if not parts:
        return render.NOTHING
    return ", ".join(f"{part} {seconds:.1f} s" for part, seconds in parts.items())


def _current(row: render.Row) -> str:
    if row["current"]:
        return "yes"
    if row["kind"] == "built":
        return "no: build again"
    return "no: its file is gone" if row["gone"] else "no: add again"


COLUMNS: Final = (
    Column("name", text("name")),
    Column("kind", text("kind")),
    Column("built or added", text("made_at")),
    Column("size", figure("size_bytes", render.size), right=True),
    Column("checksum", lambda row: str(row["checksum"])[:12]),
    Column("current", _current),
    Column("boot", _boot),
)


@click.group()
def image() -> None:
    """The guest images."""


@image.command()
@click.argument("name", default="webapp")
@json_option
@pass_settings
def build(settings: Settings, name: str, as_json: bool) -> None:
    """Build the image NAME (webapp) into LBCTL_HOME; one that is current is kept."""
    from guest.image import ImageError
    from guest.image import build as build_image

    _check(name)
    try:
        with _progress() as progress:
            built = build_image(name, settings.home, progress)
    except ImageError as error:
        raise FailedError(str(error)) from error
    render.listing(COLUMNS, [_row(built)], as_json=as_json, empty="")


@image.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--user-data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What cloud-init is told at each machine's first boot.",
)
@click.option("--force", is_flag=True, help="Replace the image of your own of this name.")
@json_option
@pass_settings
def add(
    settings: Settings,
    name: str,
    file: Path,
    user_data: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Make FILE, a qcow2 or raw cloud image, the image NAME.

    The file is looked at whole and stays where it is; no machine ever writes to it.
    """
    from guest.image import ImageError
    from guest.own.image import add as add_image

    _check(name)
    try:
        with _progress() as progress:
            added = add_image(name, file, settings.home, progress, user_data=user_data, force=force)
    except ImageError as error:
        raise FailedError(str(error)) from error
    render.listing(COLUMNS, [_row(added)], as_json=as_json, empty="")


@image.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Even while something uses it.")
@pass_settings
def remove(settings: Settings, name: str, force: bool) -> None:
    """Delete the image NAME that was built, or forget one of your own: its file stays where it is.

    Refused while a service, a rollout, a VM or another image uses it.
    """
    from guest.image import ImageError
    from guest.own.image import remove as remove_image

    _check(name)
    if not force and (used := _users(settings, name)):
        raise FailedError(
            f"image {name!r} is used by {', '.join(used)}: --force removes it all the same"
        )
    try:
        removed = remove_image(settings.home, name)
    except ImageError as error:
        raise FailedError(str(error)) from error
    click.echo(removed)


def _users(settings: Settings, name: str) -> list[str]:
    """As LBCTL_HOME tells it, and an `lbctl up` of it that serves."""
    from lb.admin import access
    from lb.client import AdminError
    from lb.image_users import users

    if settings.admin or access.read_address(settings.home):
        with suppress(AdminError):  # nobody serves
            client = settings.client()
            return users(settings.home, name, client.scales(), client.vms())
    return users(settings.home, name)


@image.command("list")
@json_option
@pass_settings
def list_all(settings: Settings, as_json: bool) -> None:
    """What was built and added, and the parts of each one's boot in seconds."""
    from guest.own.image import everything

    rows = [_row(found) for found in everything(settings.home)]
    render.listing(
        COLUMNS, rows, as_json=as_json, empty="no image: run `lbctl image build`, or `… add`"
    )


def _check(name: str) -> None:
    from lb.config import ConfigError, check_name

    try:
        check_name(name)
    except ConfigError as error:
        raise WrongUsageError(str(error)) from error


def _row(found: Image | OwnImage) -> dict[str, Any]:
    from guest.image import is_current, to_facts
    from guest.own import image as own

    folder = str(found.folder)
    if isinstance(found, own.OwnImage):
        facts = own.to_facts(found)
        del facts["user_data"]  # it may hold a password
        return {
            **facts,
            "kind": "own",
            "folder": folder,
            "path": found.disk.path,
            "size_bytes": found.size_bytes,
            "made_at": found.added_at,
            "current": not found.trouble(),
            "gone": found.gone() or None,
        }
    return {
        **to_facts(found),
        "kind": "built",
        "folder": folder,
        "made_at": found.built_at,
        "current": is_current(found),
    }


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr, where that is a terminal; else a line for each step."""
    if not sys.stderr.isatty():
        said = ""

        def line(step: str, _done: float) -> None:
            nonlocal said
            if step != said:
                said = step
                click.echo(step, err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda step, done: bar.update(task, description=step, completed=done)
