"""`python -m grafana`: writes every dashboard into `grafana/dashboards`, and says which changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from grafana.board import Board
from grafana.boards import autoscaler, backends, before_after, loadtest, machines, overview

FOLDER: Final = Path(__file__).parent / "dashboards"
BOARDS: Final = tuple(
    module.BOARD for module in (overview, before_after, autoscaler, backends, machines, loadtest)
)


def text(board: Board) -> str:
    """A dashboard's file. Sorted, so that a change shows as the lines that changed."""
    return json.dumps(board.json(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def path(board: Board) -> Path:
    return FOLDER / f"{board.uid}.json"


def main() -> None:
    for old in set(FOLDER.glob("*.json")) - {path(board) for board in BOARDS}:
        old.unlink()
        print(f"removed {old.name}")
    for board in BOARDS:
        file, made = path(board), text(board)
        if not file.exists() or file.read_text(encoding="utf-8") != made:
            file.write_text(made, encoding="utf-8")
            print(f"wrote {file.name}")


if __name__ == "__main__":
    main()
