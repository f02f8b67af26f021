"""`lbctl config`: is this file usable, what does it amount to, what may stand in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from lb.commands.base import Settings, config_option, json_option, pass_settings


@click.group()
def config() -> None:
    """The configuration."""


@config.command()
@config_option
@pass_settings
def check(settings: Settings, config_path: Path | None) -> None:
    """Exit 0 where `lbctl up` would take the file, else 2 and what is wrong with it."""
    settings.config(config_path)
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
def schema() -> None:
    """The JSON Schema of the configuration."""
    from lb.config import Config

    click.echo(json.dumps(Config.model_json_schema(), indent=2))


def to_toml(values: dict[str, Any]) -> str:
    """Nested tables as TOML text: what the standard library reads and cannot write."""
    return "\n".join(_table((), values)).lstrip("\n") + "\n"


def _table(path: tuple[str, ...], values: dict[str, Any]) -> list[str]:
    """Plain keys first: in TOML whatever follows a table's header belongs to that table."""
    lines = [f"{_key(k)} = {_value(v)}" for k, v in values.items() if not _is_nested(v)]
    if lines and path:
        lines = ["", f"[{'.'.join(map(_key, path))}]", *lines]
    for key, value in values.items():
        inner = (*path, key)
        if isinstance(value, dict):
            lines += _table(inner, value)
        elif _is_nested(value):
            for item in value:
                lines += ["", f"[[{'.'.join(map(_key, inner))}]]"]
                lines += [f"{_key(k)} = {_value(v)}" for k, v in item.items()]
    return lines


def _is_nested(value: Any) -> bool:
    tables = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    return isinstance(value, dict) or tables


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    # JSON's strings, numbers and booleans are TOML's too, once DEL is escaped.
    return json.dumps(value).replace("\x7f", "\\u007f")
