"""`lbctl image`: build the guest image, list what was built and how it boots."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from lb.commands import render
from lb.commands.base import FailedError, Settings, WrongUsageError, json_option, pass_settings
from lb.commands.render import Column, figure, text

if TYPE_CHECKING:
    from guest.image import Image


def _boot(row: render.Row) -> str:
    """The parts in order, and what they add up to."""
    parts: dict[str, float] = row["boot_parts"]
    if not parts:
        return render.NOTHING
    return ", ".join(f"{part} {seconds:.1f} s" for part, seconds in parts.items())


COLUMNS: Final = (
    Column("name", text("name")),
    Column("built", text("built_at")),
    Column("size", figure("size_bytes", render.size), right=True),
    Column("checksum", lambda row: str(row["checksum"])[:12]),
    Column("current", lambda row: "yes" if row["current"] else "no: build again"),
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
    from lb.config import ConfigError, check_name

    try:
        check_name(name)
    except ConfigError as error:
        raise WrongUsageError(str(error)) from error
    try:
        with _progress() as progress:
            built = build_image(name, settings.home, progress)
    except ImageError as error:
        raise FailedError(str(error)) from error
    render.listing(COLUMNS, [_row(built)], as_json=as_json, empty="")


@image.command("list")
@json_option
@pass_settings
def list_all(settings: Settings, as_json: bool) -> None:
    """What was built, and the parts of each one's boot in seconds."""
    from guest.image import list_images

    rows = [_row(found) for found in list_images(settings.home)]
    render.listing(COLUMNS, rows, as_json=as_json, empty="no image: run `lbctl image build`")


def _row(built: Image) -> dict[str, Any]:
    from guest.image import is_current, to_facts

    return {**to_facts(built), "folder": str(built.folder), "current": is_current(built)}


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
