"""`lbctl config`: is this file usable, what does it amount to, what may stand in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from lb.commands.base import (
    Settings,
    WrongUsageError,
    config_option,
    json_option,
    pass_settings,
)


@click.group()
def config() -> None:
    """The configuration."""


@config.command()
@config_option
@pass_settings
def check(settings: Settings, config_path: Path | None) -> None:
    """Exit 0 where `lbctl up` would take the file, else 2 and what is wrong with it."""
    from lb.config import ConfigError
    from lb.config_file import below, read_files
    from lb.tls import TlsError

    found = settings.config(config_path)
    try:
        read_files(below(found, config_path.parent if config_path else Path()))
    except (ConfigError, TlsError) as error:
        raise WrongUsageError(f"{config_path}: {error}") from error
    click.echo(f"{config_path or 'the default configuration'} is fine")


@config.command()
@config_option
@json_option
@pass_settings
def show(settings: Settings, config_path: Path | None, as_json: bool) -> None:
    """Every value as `lbctl up` would use it, defaults included. Durations are seconds."""
    values = settings.config(config_path).model_dump(mode="json", exclude_none=True)
    click.echo(json.dumps(values, indent=2) if as_json else to_toml(values), nl=as_json)


@config.command()
@click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The configuration; without it the file that `lbctl up` was started with.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@json_option
@pass_settings
def apply(settings: Settings, config_path: Path | None, dry_run: bool, as_json: bool) -> None:
    """Put a configuration in force in the running `lbctl up`, without losing a connection.

    One that cannot be used changes nothing: exit 2, and what is wrong with it.
    """
    from lb.client import ConfigRefusedError

    text = folder = None
    if config_path is not None:
        settings.config(config_path)
        text = config_path.read_text(encoding="utf-8")
        folder = str(config_path.absolute().parent)
    try:
        answer = settings.client().apply_config(text, folder, dry_run=dry_run)
    except ConfigRefusedError as error:
        where = f"{config_path}: " if config_path is not None else ""
        raise WrongUsageError(f"{where}{error}") from error
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    for sentence in (*answer["changes"], *answer["needs_restart"]):
        click.echo(sentence)
    click.echo("it could be applied; nothing was changed" if dry_run else "applied")


@config.command()
def schema() -> None:
    """The JSON Schema of the configuration."""
    from lb.config import Config

    click.echo(json.dumps(Config.model_json_schema(), indent=2))


def to_toml(values: dict[str, Any]) -> str:
    """Nested tables as TOML text: what the standard library reads and cannot write."""
    return "\n".join(_table((), values, "")).lstrip("\n") + "\n"


def _table(path: tuple[str, ...], values: dict[str, Any], header: str) -> list[str]:
    """Plain keys first: in TOML whatever follows a table's header belongs to that table. None, for
    which TOML has no word, is left out."""
    values = {key: value for key, value in values.items() if value is not None}
    lines = [f"{_key(k)} = {_value(v)}" for k, v in values.items() if not _is_nested(v)]
    # A table whose keys are all tables is there by them; an empty one needs its header.
    if header and (lines or not values or header.startswith("[[")):
        lines = ["", header, *lines]
    for key, value in values.items():
        inner = (*path, key)
        name = ".".join(map(_key, inner))
        if isinstance(value, dict):
            lines += _table(inner, value, f"[{name}]")
        elif _is_nested(value):
            for item in value:
                lines += _table(inner, item, f"[[{name}]]")
    return lines


def _is_nested(value: Any) -> bool:
    tables = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    return isinstance(value, dict) or tables


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    # JSON's strings, numbers and booleans are TOML's too, once DEL is escaped; but not its pairs of
    # escapes for what lies beyond U+FFFF.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
