"""A host's domains and their figures, on libvirt's own test driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from autoscale.listing import PIECE, figures
from tests.fakes import FakeClock

MANY = 2 * PIECE + 7


class Counted:
    """A connection that keeps what it is asked, and calls `between` before figures are read."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self.asked: list[str] = []
        self.between: Callable[[], object] = lambda: None

    def __getattr__(self, name: str) -> Any:
        found: Any = getattr(self._conn, name)

        def noted(*arguments: Any) -> Any:
            self.asked.append(name)
            if "Stats" in name:
                self.between()
            return found(*arguments)

        return noted


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[Counted]:
    each = "".join(
        f"<domain type='test'><name>vm-{at}</name><memory>65536</memory>"
        "<os><type>hvm</type></os></domain>"
        for at in range(MANY)
    )
    node = tmp_path / "node.xml"
    node.write_text(f"<node>{each}</node>")
    opened = libvirt.open(f"test://{node}")
    yield Counted(opened)
    opened.close()


def listed(conn: Counted, expected: int, clock: FakeClock | None = None) -> list[Any]:
    now = (clock or FakeClock()).now
    stats = libvirt.VIR_DOMAIN_STATS_STATE
    return list(figures(conn, stats, 0, expected=expected, clock=now))


@pytest.mark.parametrize("expected", [0, PIECE, PIECE + 1, MANY])
def test_every_domain_is_listed_once_with_its_state(conn: Counted, expected: int) -> None:
    rows = listed(conn, expected)
    assert sorted(dom.name() for dom, _, _ in rows) == sorted(f"vm-{at}" for at in range(MANY))
    assert {row["state.state"] for _, row, _ in rows} == {libvirt.VIR_DOMAIN_RUNNING}


def test_few_are_one_call_and_many_are_pieces(conn: Counted) -> None:
    listed(conn, PIECE)
    assert conn.asked == ["getAllDomainStats"]
    conn.asked.clear()
    listed(conn, MANY)
    assert conn.asked == ["listAllDomains", *["domainListGetStats"] * 3]


def test_one_that_goes_during_the_listing_is_left_out(conn: Counted) -> None:
    gone = iter([conn.lookupByName("vm-3")])

    def between() -> None:
        for dom in gone:
            dom.destroy()
            dom.undefine()

    conn.between = between
    assert len(listed(conn, MANY)) == MANY - 1


def test_a_slow_piece_has_no_time_of_reading_and_the_others_have_theirs(conn: Counted) -> None:
    clock, waits = FakeClock(), iter([0.1, 0.3, 0.0])
    conn.between = lambda: clock.advance(next(waits))
    begin = clock.now()
    times = [at for _, _, at in listed(conn, MANY, clock)]
    assert times == pytest.approx(
        [begin + 0.1] * PIECE + [None] * PIECE + [begin + 0.4] * (MANY - 2 * PIECE)
    )
