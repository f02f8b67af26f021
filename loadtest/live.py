"""What a person sees while a test runs: a live view on a terminal, else one line a second.

Draws once a second, when the engine hands over a row, and from the engine's own thread: rich's
refreshing thread would take the interpreter's lock in the middle of the pacing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest.report import duration
from loadtest.result import Second

_HISTORY = 30
_BARS = " ▁▂▃▄▅▆▇█"


class Lines:
    """One plain line per second, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def show(self, second: Second) -> None:
        """Prints the row."""
        self._console.print(line(second), highlight=False, markup=False, soft_wrap=True)


class View:
    """A progress bar, this second's figures, and the last half minute's p99 as a bar chart."""

    def __init__(self, console: Console, planned_seconds: float | None) -> None:
        self._planned = planned_seconds
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._p99: deque[float] = deque(maxlen=_HISTORY)
        self._kinds: dict[str, int] = {}
        self._totals = {"intended": 0, "sent": 0, "completed": 0, "errors": 0, "dropped": 0}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A terminal that has gone must not take the result along.
        with suppress(OSError, SystemExit):
            self._live.stop()

    def show(self, second: Second) -> None:
        """Draws the row."""
        for name in self._totals:
            self._totals[name] += getattr(second, name)
        for kind, count in second.error_kinds.items():
            self._kinds[kind] = self._kinds.get(kind, 0) + count
        self._p99.append(second.p99_s or 0.0)
        self._live.update(self._draw(second), refresh=True)

    def _draw(self, second: Second) -> Group:
        elapsed = second.t + second.span
        head = Table.grid(padding=(0, 2))
        if self._planned:
            bar = ProgressBar(self._planned, min(elapsed, self._planned), width=40)
            head.add_row(bar, f"{elapsed:.0f} of {self._planned:.0f} s", f"phase {second.phase}")
        else:
            head.add_row(f"{elapsed:.0f} s", f"phase {second.phase}, until shifted or finished")
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        for name in self._totals:
            table.add_column(name, justify="right")
        rates = (getattr(second, name) / max(second.span, 0.001) for name in self._totals)
        table.add_row("per second", *(f"{rate:.0f}" for rate in rates))
        table.add_row("in total", *(str(total) for total in self._totals.values()))
        state = Text(f"target {second.rate:.0f}/s   in flight {second.in_flight}")
        latency = Text(
            f"p50 {_or_dash(second.p50_s)}   p90 {_or_dash(second.p90_s)}   "
            f"p99 {_or_dash(second.p99_s)}   p99.9 {_or_dash(second.p99_9_s)}   {bars(self._p99)}"
        )
        lines: list[Table | Text] = [head, table, state, latency]
        if self._kinds:
            kinds = sorted(self._kinds.items(), key=lambda item: -item[1])
            shown = "   ".join(f"{kind} {count}" for kind, count in kinds)
            lines.append(Text(f"errors: {shown}", style="red"))
        return Group(*lines)


def while_seen(show: Callable[[Second], None]) -> Callable[[Second], None]:
    """`show` until it fails, then nothing: who watched has gone (`| head`), the test goes on."""
    seen = True

    def show_if_seen(second: Second) -> None:
        nonlocal seen
        if seen:
            try:
                show(second)
            except (OSError, SystemExit):  # rich answers a broken pipe with an exit
                seen = False

    return show_if_seen


def line(second: Second) -> str:
    """A row as one line."""
    return (
        f"{second.t + second.span:7.1f} s  {second.phase:<8} rate {second.rate:6.0f}"
        f"  intended {second.intended:6}  sent {second.sent:6}  completed {second.completed:6}"
        f"  errors {second.errors:4}  dropped {second.dropped:4}  in flight {second.in_flight:5}"
        f"  p50 {_or_dash(second.p50_s)}  p99 {_or_dash(second.p99_s)}"
        + "".join(f"  {kind} {count}" for kind, count in second.error_kinds.items())
    )


def bars(values: deque[float]) -> str:
    """A bar chart one line high, the largest value full."""
    top = max(values, default=0.0) or 1.0
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] for value in values)


def _or_dash(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)
