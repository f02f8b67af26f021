"""What a person sees while the demo runs: plain lines for a pipe, one picture for a terminal."""

from __future__ import annotations

import io
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lb.demo_story import Check, Point, VmPoint
from lb.demo_view import BLOCKS, View, meter, open_view, spark
from tests import stories

CHECKS = [Check("no request failed", True, "0 of 9 [b]"), Check("p99 fell", False, "not measured")]
OVERLOAD = "1 → 2: CPU 1.09 of target 0.80 on 1"


def status(t: float = 30.0, **changes: Any) -> dict[str, Any]:
    """What the load tester says of itself: the fields that matter here."""
    return {
        "rate": 30.0,
        "in_flight": 114,
        "error_count": 2,
        "dropped": 1,
        "second": asdict(stories.second(t)),
        **changes,
    }


def show(*, terminal: bool, width: int = 120) -> Console:
    return Console(
        file=io.StringIO(), record=True, width=width, force_terminal=terminal, color_system=None
    )


# ── lines ─────────────────────────────────────────────────────────────────────────────────────────


def lines(console: Console) -> list[str]:
    return console.export_text(clear=False).splitlines()


def test_an_act_and_the_first_point_of_it_are_lines() -> None:
    console = show(terminal=False, width=40)
    with open_view(console) as view:
        view.act("low load: 10 requests/s on one replica", 20.0)
        view.point(stories.point(5.0), "stay at 1: all is well, and this line is not wrapped")
    act, point = lines(console)
    assert act.lstrip().startswith("0.0 s — low load: 10 requests/s")
    assert point.endswith(
        "1 ready, 0 booting; stay at 1: all is well, and this line is not wrapped"
    )


def test_a_point_carries_the_load_once_there_is_one() -> None:
    console = show(terminal=False)
    with open_view(console) as view:
        view.load(status())
        view.point(stories.point(30.0), OVERLOAD)
    assert lines(console)[0].endswith(
        "1 ready, 1 booting; 30.0 requests/s, 114 in flight, p50 3.2 s, p99 8.0 s, 3 failed;"
        f" {OVERLOAD}"
    )


def test_a_load_that_has_just_begun_has_no_figures_yet() -> None:
    console = show(terminal=False)
    with open_view(console) as view:
        view.load({"second": None})
        view.point(stories.point(0.0), "first")
        view.load(status(second={**asdict(stories.second(0.0)), "p50_s": None, "p99_s": None}))
        view.point(stories.point(0.0), "new")
    said = lines(console)
    assert "0.0 requests/s, 0 in flight, p50 –, p99 –, 0 failed" in said[-2]
    assert "p50 –, p99 –, 3 failed" in said[-1]


def test_the_same_again_is_not_said_at_once_but_a_new_decision_is() -> None:
    console = show(terminal=False)
    with open_view(console) as view:
        view.point(stories.point(20.0), "stay at 1: CPU 0.70")
        for step in range(20):
            view.point(stories.point(20.0 + step / 2), f"stay at 1: CPU 0.7{step % 10}")
        view.point(stories.point(30.0), OVERLOAD)
    said = lines(console)
    assert len(said) == 2
    assert said[-1].endswith(OVERLOAD)


def test_markup_in_what_others_say_is_text() -> None:
    console = show(terminal=False)
    with open_view(console) as view:
        view.act("[bold]act[/]", 1.0)
        view.point(stories.point(1.0), "[red]why[/nothing]")
        view.close_with(CHECKS, Path("/tmp/[bold]out/report.html"))
    text = "\n".join(lines(console))
    for words in ("[bold]act[/]", "[red]why[/nothing]", "0 of 9 [b]", "/tmp/[bold]out/report.html"):
        assert words in text


@pytest.mark.parametrize("terminal", [False, True])
def test_it_closes_with_every_check_and_where_the_report_is(terminal: bool) -> None:
    console = show(terminal=terminal)
    with open_view(console) as view:
        view.act("retiring the VMs", 12.0)
    view.close_with(CHECKS, Path("/tmp/" + "long/" * 40 + "report.html"))
    text = console.export_text()
    assert "✓ no request failed: 0 of 9 [b]\n" in text
    assert "✗ p99 fell: not measured\n" in text
    assert "report: /tmp/" + "long/" * 40 + "report.html" in text, "in one piece, to be clicked"


# ── the picture ───────────────────────────────────────────────────────────────────────────────────


def drawn(view: View, width: int = 120) -> str:
    """One frame, as text, without a terminal."""
    console = show(terminal=False, width=width)
    console.print(view.render())  # type: ignore[attr-defined]
    return console.export_text()


def picture() -> View:
    with open_view(show(terminal=True)) as view:
        assert hasattr(view, "render"), "a terminal gets the picture"
        return view


def test_a_picture_can_be_drawn_before_anything_is_known() -> None:
    text = drawn(picture())
    assert "lbctl demo" in text
    assert "starting" in text


def test_the_picture_has_the_act_the_vms_the_load_and_the_decision() -> None:
    view = picture()
    view.act("high load: 30 requests/s", 25.0)
    for second in range(25, 31):
        view.load(status(float(second)))
    view.point(stories.point(30.0), OVERLOAD)
    text = drawn(view)
    assert "high load: 30 requests/s" in text
    first, second_vm = [line for line in text.splitlines() if "web-" in line]
    assert stories.FIRST in first
    assert f"{meter(0.4)} 0.40" in first
    assert f"{meter(0.3)} 0.30" in first
    assert "booting" in second_vm
    assert f"{meter(None)} –" in second_vm
    assert OVERLOAD in text
    assert "114 in flight" in text
    assert f"answers/s {BLOCKS[-1] * 6}  now 20.0" in text
    assert f"p99       {BLOCKS[-1] * 6}  now 8.0 s" in text


def test_a_narrow_terminal_gets_whole_lines_of_its_own_width() -> None:
    view = picture()
    view.load(status())
    view.point(stories.point(30.0), OVERLOAD)
    assert {len(line) for line in drawn(view, width=40).splitlines()} == {40}


def test_its_history_is_bounded() -> None:
    view = picture()
    for second in range(500):
        view.load(status(float(second % 100)))
    assert {len(line) for line in drawn(view, width=100).splitlines()} == {100}


def test_a_vm_nobody_measured_and_no_vm_at_all_are_drawn() -> None:
    view = picture()
    view.point(Point(0.0, 1, 0, 1, 0, {"web-1": VmPoint("booting", None, None, None)}), "")
    assert "web-1" in drawn(view)
    view.point(Point(0.0, 0, 0, 0, 0, {}), "")
    assert "web-1" not in drawn(view)


def test_the_live_picture_leaves_the_terminal_as_it_was() -> None:
    console = show(terminal=True)
    with open_view(console) as view:
        view.act("low load", 20.0)
        view.load(status())
        view.point(stories.point(5.0), "stay at 1")
    assert "\x1b[?25h" in console.file.getvalue()  # type: ignore[attr-defined] # the cursor is back


# ── bars ──────────────────────────────────────────────────────────────────────────────────────────

AMOUNTS = st.floats(min_value=0, allow_infinity=False, allow_nan=False)


@given(st.lists(AMOUNTS))
def test_a_spark_has_a_block_for_each_value_and_the_highest_is_full(values: list[float]) -> None:
    bars = spark(values)
    assert len(bars) == len(values)
    assert set(bars) <= set(BLOCKS)
    if any(values):
        assert bars[values.index(max(values))] == BLOCKS[-1]
    by_value = [bar for _, bar in sorted(zip(values, bars, strict=True))]
    assert by_value == sorted(by_value), "a higher value never has a lower block"


@given(st.lists(st.floats(-1e9, 1e9)))
def test_a_spark_survives_what_is_below_zero(values: list[float]) -> None:
    assert len(spark(values)) == len(values)


def test_nothing_at_all_is_a_flat_spark() -> None:
    assert spark([]) == ""
    assert spark([0.0, 0.0]) == BLOCKS[0] * 2


@given(st.none() | st.floats(allow_nan=True, allow_infinity=True), st.integers(0, 200))
def test_a_meter_is_as_wide_as_it_was_told(share: float | None, width: int) -> None:
    bar = meter(share, width)
    assert len(bar) == width
    assert set(bar) <= set("·█░")


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_meter_grows_with_its_share(low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert meter(low).count("█") <= meter(high).count("█")


@pytest.mark.parametrize(
    ("share", "full"), [(0.0, 0), (0.5, 10), (1.0, 20), (1.7, 20), (-0.2, 0), (math.inf, 20)]
)
def test_a_meter_is_empty_full_or_between(share: float, full: int) -> None:
    assert meter(share) == "█" * full + "░" * (20 - full)


def test_no_figure_is_no_empty_meter() -> None:
    assert meter(None) == "·" * 20
