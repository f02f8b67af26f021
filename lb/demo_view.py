"""The demo as it happens: a live picture on a terminal, plain lines elsewhere.

Shows what it is given and keeps nothing but the newest of it. The story is `demo`'s.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from lb.demo_story import Check, Point

BLOCKS: Final = "▁▂▃▄▅▆▇█"
HISTORY = 48
LINE_EVERY_S = 5.0
WHOLE_S = 270.0
"""About how long all acts take; the progress bar only approaches the end until it is there."""


class View(Protocol):
    """Whoever watches."""

    def act(self, name: str, expected_s: float) -> None: ...
    def load(self, status: dict[str, Any]) -> None: ...
    def point(self, point: Point, sentence: str) -> None: ...
    def close_with(self, checks: Sequence[Check], page: Path) -> None: ...


@contextlib.contextmanager
def open_view(console: Console | None = None) -> Iterator[View]:
    """The live view on a terminal, else lines."""
    console = console or Console()
    if not console.is_terminal:
        yield _Lines(console)
        return
    picture = _Picture(console)
    with Live(get_renderable=picture.render, console=console, refresh_per_second=4, transient=True):
        yield picture


def spark(values: Sequence[float]) -> str:
    """Values as a row of blocks, the highest one full."""
    top = max(values, default=0.0)
    if top <= 0:
        return BLOCKS[0] * len(values)
    return "".join(BLOCKS[max(0, min(7, int(v / top * 7.999)))] for v in values)


def meter(share: float | None, width: int = 20) -> str:
    """A share of 1 as a bar; more than 1 is a full one."""
    if share is None:
        return "·" * width
    full = round(max(0.0, min(1.0, share)) * width)
    return "█" * full + "░" * (width - full)


def _numbers(status: dict[str, Any]) -> str:
    second = status.get("second") or {}
    p50, p99 = second.get("p50_s"), second.get("p99_s")
    return (
        f"{status.get('rate', 0):.1f} requests/s, {status.get('in_flight', 0)} in flight,"
        f" p50 {_seconds(p50)}, p99 {_seconds(p99)},"
        f" {status.get('error_count', 0) + status.get('dropped', 0)} failed"
    )


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _verdict(console: Console, checks: Sequence[Check], page: Path) -> None:
    for check in checks:
        mark = Text("✓", "green") if check.ok else Text("✗", "red")
        console.print(Text.assemble(mark, f" {check.what}: {check.saw}"), soft_wrap=True)
    console.print(Text(f"report: {page}"), soft_wrap=True)


class _Lines:
    """One line when an act begins, and one every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = self._said = time.monotonic()
        self._status: dict[str, Any] = {}
        self._sentence = ""

    def act(self, name: str, expected_s: float) -> None:
        self._say(f"— {name}")

    def load(self, status: dict[str, Any]) -> None:
        self._status = status

    def point(self, point: Point, sentence: str) -> None:
        now = time.monotonic()
        changed = sentence.partition(":")[0] != self._sentence.partition(":")[0]
        self._sentence = sentence
        if now - self._said < LINE_EVERY_S and not changed:
            return
        self._said = now
        load = f"; {_numbers(self._status)}" if self._status else ""
        self._say(f"  {point.ready} ready, {point.booting} booting{load}; {sentence}")

    def close_with(self, checks: Sequence[Check], page: Path) -> None:
        _verdict(self._console, checks, page)

    def _say(self, text: str) -> None:
        elapsed = time.monotonic() - self._began
        self._console.print(Text(f"{elapsed:6.1f} s {text}"), soft_wrap=True)


class _Picture:
    """Everything at a glance, drawn a few times a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._act, self._done = "starting", 0.0
        self._act_began, self._act_expects = self._began, 1.0
        self._status: dict[str, Any] = {}
        self._latest: Point | None = None
        self._sentence = ""
        self._p99: deque[float] = deque(maxlen=HISTORY)
        self._rate: deque[float] = deque(maxlen=HISTORY)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("", total=1.0)

    def act(self, name: str, expected_s: float) -> None:
        self._done += self._act_expects if self._act != "starting" else 0.0
        self._act, self._act_began, self._act_expects = name, time.monotonic(), expected_s

    def load(self, status: dict[str, Any]) -> None:
        self._status = status
        second = status.get("second")
        if second:
            self._p99.append(second["p99_s"] or 0.0)
            self._rate.append(second["completed"] / (second["span"] or 1.0))

    def point(self, point: Point, sentence: str) -> None:
        self._latest, self._sentence = point, sentence

    def close_with(self, checks: Sequence[Check], page: Path) -> None:
        self._progress.update(self._task, completed=1.0, description="done")
        _verdict(self._console, checks, page)

    def render(self) -> Panel:
        within = min(time.monotonic() - self._act_began, self._act_expects * 0.95)
        share = min(0.99, (self._done + within) / WHOLE_S)
        self._progress.update(self._task, completed=share, description=self._act)
        parts: list[Any] = [self._progress, Text()]
        if self._latest is not None:
            parts += [self._vms(self._latest), Text(), Text(self._sentence, style="italic")]
        if self._status:
            parts.append(Text(_numbers(self._status)))
        # Copies: rich draws in a thread of its own, and `load` appends meanwhile.
        rate, p99 = tuple(self._rate), tuple(self._p99)
        if rate:
            parts += [
                Text(f"answers/s {spark(rate)}  now {rate[-1]:.1f}"),
                Text(f"p99       {spark(p99)}  now {_seconds(p99[-1])}"),
            ]
        return Panel(Group(*parts), title="lbctl demo", border_style="cyan")

    def _vms(self, point: Point) -> Table:
        table = Table(box=None, pad_edge=False)
        for column in ("VM", "state", "CPU, host's view (cores)", "guest's view (cores)"):
            table.add_column(column)
        for name, vm in sorted(point.vms.items()):
            table.add_row(
                name,
                vm.state,
                f"{meter(vm.host_cores)} {_cores(vm.host_cores)}",
                f"{meter(vm.guest_cores)} {_cores(vm.guest_cores)}",
            )
        return table


def _cores(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
