"""How listings look: a rich table on a terminal, plain aligned columns elsewhere, or JSON.

Pure formatting. On a terminal columns may wrap; elsewhere nothing is cut off, so that grep and
awk see every character.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]
NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """`title` and how a row's cell reads; figures go to the right."""

    title: str
    cell: Callable[[Row], str]
    right: bool = False


def listing(columns: Sequence[Column], rows: Sequence[Row], *, as_json: bool, empty: str) -> None:
    """Print the rows on stdout. `empty` is said on stderr where there is none."""
    if as_json:
        click.echo(json.dumps(list(rows), indent=2, ensure_ascii=False))
    elif not rows:
        click.echo(empty, err=True)
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(rich_table(columns, rows))
    else:
        click.echo(plain_table(columns, rows))


def plain_table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Columns two spaces apart, each as wide as its widest cell."""
    lines = [[column.title.upper() for column in columns]]
    lines += [[one_line(column.cell(row)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )


def rich_table(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    """The same for a terminal. Cells are text, not markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(column.cell(row))) for column in columns))
    return table


def text(key: str) -> Callable[[Row], str]:
    """The cell that shows a field as it is; a dash for nothing."""

    def cell(row: Row) -> str:
        value = row.get(key)
        return NOTHING if value is None or value == "" else str(value)

    return cell


def figure(key: str, form: Callable[[float], str]) -> Callable[[Row], str]:
    """The cell that shows a number in a form; a dash where nothing was measured."""

    def cell(row: Row) -> str:
        value = row.get(key)
        return NOTHING if value is None else form(value)

    return cell


def rate(per_second: float) -> str:
    return f"{per_second:.1f}/s"


def span(seconds: float) -> str:
    """3725 → 1h02m, 65 → 1m05s, 4.2 → 4s."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    hours = whole // 3600
    return f"{hours}h{whole % 3600 // 60:02}m" if hours < 48 else f"{hours // 24}d"


def size(number: float) -> str:
    """In binary units: 402653184 → 384 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def clock(unix_s: float) -> str:
    """Local time, to the millisecond, as one word."""
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]


def one_line(cell: str) -> str:
    """A message from elsewhere must not break the table, nor drive the terminal."""
    return "".join(char if char.isprintable() else " " for char in cell)
