"""A result's seconds as CSV, one row each; errors by kind in one column, as `kind=count`."""

from __future__ import annotations

import csv
import io

from loadtest.result import Result

_COLUMNS = (
    "t", "span", "phase", "rate", "intended", "sent", "completed", "errors", "dropped",
    "in_flight", "p50_s", "p90_s", "p99_s", "p99_9_s", "error_kinds",
)  # fmt: skip


def to_csv(result: Result) -> str:
    """The header and the rows; an empty cell where there is no figure."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in result.series:
        kinds = " ".join(f"{kind}={count}" for kind, count in row.error_kinds.items())
        cells = [getattr(row, name) for name in _COLUMNS[:-1]]
        writer.writerow(["" if cell is None else cell for cell in cells] + [kinds])
    return out.getvalue()
