"""What the simulate benchmark calls a miss, and its page. The run is `./run bench simulate`."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoscale.compare import HPA, OURS_COLD, Standing
from bench.simulate import BEGIN, END, NAMES, Day, behind, page, play, shortcomings, totals, write
from tests.standings import stands

QUICK = Day(86_400_000, 14, 20.0, 30.0)


def field(**changed: dict[str, float]) -> list[Standing]:
    """Everybody alike, but those named; `ours_cold` and `hpa` for short."""
    short = {OURS_COLD: "ours_cold", HPA: "hpa"}
    alike = {"violating_seconds": 10, "vm_seconds": 100.0}
    return [stands(name, **{**alike, **changed.get(short.get(name, name), {})}) for name in NAMES]


def test_all_alike_is_no_miss() -> None:
    assert shortcomings({"step": field(), "ramp": field()}, QUICK) == []


def test_who_is_better_over_all_loads_is_a_miss_and_on_one_of_them_is_named() -> None:
    by_shape = {"step": field(), "ramp": field(course={"violating_seconds": 7})}
    assert shortcomings(by_shape, QUICK) == [
        "all loads together: 20 violating seconds, course has 17"
    ]
    assert behind(by_shape) == ["ramp: 10 violating seconds, course has 7"]
    by_shape = {
        "step": field(ours_cold={"violating_seconds": 2}),
        "ramp": field(hpa={"vm_seconds": 90.0}),
    }
    assert shortcomings(by_shape, QUICK) == [f"all loads together: 200 VM-seconds, {HPA} has 190"]
    assert behind(by_shape) == [f"ramp: 100 VM-seconds, {HPA} has 90"]


def test_what_is_made_good_on_another_load_is_no_miss() -> None:
    by_shape = {
        "step": field(ours_cold={"violating_seconds": 2}),
        "ramp": field(course={"violating_seconds": 7}),
    }
    assert shortcomings(by_shape, QUICK) == []
    assert len(behind(by_shape)) == 1


def test_slowness_is_a_miss() -> None:
    assert shortcomings({"step": field()}, None) == []
    missed = shortcomings({"step": field()}, Day(86_400_000, 14, 31.0, 51.0))
    assert missed == [
        "a simulated day took 31.0 s, more than 30",
        "a decision took 51 µs, more than 50",
    ]


def test_standbys_do_not_count_for_the_target_nor_among_the_fair() -> None:
    by_shape = {"step": field(ours={"violating_seconds": 0}, course={"violating_seconds": 12})}
    assert shortcomings(by_shape, QUICK) == []
    row = next(line for line in page(by_shape, QUICK, 5).splitlines() if line.startswith("| step"))
    assert row == "| step | 0 | **10** | **10** | **10** | **10** | **10** | 12 |"


def test_totals_are_over_all_loads() -> None:
    found = totals({"step": field(), "ramp": field()})
    assert [s.name for s in found] == list(NAMES)
    assert {s.violating_seconds for s in found} == {20}


def test_the_tables_go_between_the_markers(tmp_path: Path) -> None:
    into = tmp_path / "page.md"
    into.write_text(f"# Above\n{BEGIN}\nold\n{END}\nbelow\n")
    tables = page({"step": field()}, QUICK, 5)
    write(into, tables)
    write(into, tables)
    text = into.read_text()
    assert text == f"# Above\n{BEGIN}\n{tables}\n{END}\nbelow\n"
    assert "20.0 s to simulate, 30 µs of that for each decision" in text


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    into = tmp_path / "page.md"
    into.write_text("# Above\n")
    with pytest.raises(SystemExit, match="has no lines"):
        write(into, "tables")
    assert into.read_text() == "# Above\n"


def test_a_game_is_repeatable() -> None:
    assert play("spike", HPA, 1) == play("spike", HPA, 1) != play("spike", HPA, 2)
