"""The dashboards as Grafana reads them: files of JSON, their panels and queries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
BOARDS: dict[str, dict[str, Any]] = {
    file.stem: json.loads(file.read_text(encoding="utf-8")) for file in FILES
}


@dataclass(frozen=True)
class Asked:
    """A query, and where it stands."""

    board: str
    panel: str
    letter: str
    expr: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.board}: {self.panel} {self.letter}"


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those with queries: rows are headings."""
    for panel in board["panels"]:
        if panel["type"] != "row":
            yield panel


def queries() -> list[Asked]:
    return [
        Asked(name, panel["title"], target["refId"], target["expr"], target["instant"])
        for name, board in BOARDS.items()
        for panel in panels(board)
        for target in panel["targets"]
    ]


def marks() -> list[Asked]:
    return [
        Asked(name, annotation["name"], "annotation", annotation["expr"], instant=False)
        for name, board in BOARDS.items()
        for annotation in board["annotations"]["list"]
        if "expr" in annotation
    ]
