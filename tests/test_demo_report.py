"""The demo's report: a page that needs nothing else, whatever the story holds or lacks."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.image import imread

from lb.demo_report import PLOTS, before_after, why_host_is_higher, write
from lb.demo_story import Check, Moment, Point, Story, VmPoint, verdict
from loadtest.result import Counts
from loadtest.stats import Distribution
from tests import stories

PICTURES = {"overview.png", *(f"{name}.png" for name, _, _ in PLOTS)}


class Page(HTMLParser):
    """A page's text, its tags' attributes, and its tables as rows of cells."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self._text: list[str] = []
        self._cell: list[str] | None = None
        self._within = ""
        self.feed(source)
        self.close()

    @property
    def text(self) -> str:
        return " ".join("".join(self._text).split())

    def links(self) -> list[str]:
        return [
            value for _, attributes in self.tags for name, value in attributes.items()
            if name in ("src", "href", "srcset", "action", "data")
        ]  # fmt: skip

    def row(self, first: str) -> list[str]:
        (row,) = [row for row in self.rows if row and row[0] == first]
        return row[1:]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        self._within = ""
        if tag in ("td", "th") and self._cell is not None:
            self.rows[-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._within in ("style", "script"):
            return
        self._text.append(data)
        if self._cell is not None:
            self._cell.append(data)


def read(story: Story, out: Path) -> Page:
    """The report of a story, with the verdict that the demo would give."""
    path = write(story, verdict(story), out)
    assert path == out / "report.html"
    assert json.loads((out / "story.json").read_text("utf-8")) == json.loads(
        json.dumps(asdict(story))
    )
    page = Page(path.read_text("utf-8"))
    assert all(link.startswith("data:image/png;base64,") for link in page.links())
    # base64 knows neither colon nor dot nor parenthesis
    assert not re.search(r"https?:|@import|url\(|//[\w-]+\.", page.source)
    return page


# ── a good story ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Path]:
    out = tmp_path_factory.mktemp("report")
    return read(stories.story(), out), out


def test_the_page_tells_the_verdict_and_every_check(good: tuple[Page, Path]) -> None:
    page, _ = good
    assert "It happened" in page.text
    for check in verdict(stories.story()):
        assert f"✓ {check.what}: {check.saw}" in page.text.replace("✓", "✓ ").replace("  ", " ")
    assert "✗" not in page.text
    assert "serves 20.0 requests a second" in page.text
    assert "was wanted 6.0 s after the load rose, and served 11.0 s later." in page.text


def test_the_table_compares_the_acts(good: tuple[Page, Path]) -> None:
    page, _ = good
    assert page.row("replicas serving (at most)") == ["1", "2", "2", "2"]
    assert page.row("requests/s sent") == ["10.0", "30.0", "30.0", "10.0"]
    assert page.row("requests") == ["200", "600", "600", "200"]
    assert page.row("failed") == ["0", "0", "0", "0"]
    assert page.row("p50") == ["32 ms", "3.20 s", "160 ms", "32 ms"]
    assert page.row("p99") == ["80 ms", "8.00 s", "400 ms", "80 ms"]
    cpu = page.row("CPU of a serving replica, host's view")
    assert cpu[0] == "0.20 of 0.4 cores (50%)"
    assert cpu[2] == "0.30 of 0.4 cores (74%)"


def test_every_event_of_the_fleet_is_told_in_the_journals_words(good: tuple[Page, Path]) -> None:
    page, _ = good
    told = [m for m in stories.moments() if not m.kind.startswith("backend.")]
    for moment in told:
        assert [f"{moment.t:.1f}", moment.kind, moment.reason, moment.message] in page.rows
    assert "backend.ready" not in page.text, "the pool's view of the same would be told twice"


def test_the_lines_in_the_plots_are_marked_in_the_list_of_events(good: tuple[Page, Path]) -> None:
    page, _ = good
    marks = [a["style"] for tag, a in page.tags if tag == "span" and "style" in a]
    assert len(marks) == 4, "grown, serving, shrunk, gone; not the boot before the load"
    assert len(set(marks)) == 4


def test_every_picture_is_in_the_page_and_in_the_folder(good: tuple[Page, Path]) -> None:
    page, out = good
    assert {path.name for path in out.glob("*.png")} == PICTURES
    inlined = {base64.b64decode(link.partition(",")[2]) for link in page.links()}
    assert inlined == {(out / name).read_bytes() for name in PICTURES}
    assert all(a["alt"] for tag, a in page.tags if tag == "img")


def test_the_pictures_are_pictures(good: tuple[Page, Path]) -> None:
    _, out = good
    for name in PICTURES:
        height, width, _ = imread(out / name).shape
        assert 1000 <= width <= 2000, name
        assert (1000 if name == "overview.png" else 250) <= height <= 2000, name
        # something is drawn: more than the white of an empty sheet
        assert imread(out / name)[:, :, :3].std() > 0.03, name
    assert sum((out / name).stat().st_size for name in PICTURES) < 2_000_000


def test_a_newer_report_replaces_the_older_one(tmp_path: Path) -> None:
    read(stories.story(), tmp_path)
    page = read(stories.story(failure="interrupted"), tmp_path)
    assert "It did not happen" in page.text


# ── stories that lack something ───────────────────────────────────────────────────────────────────


def test_interrupted_at_once_there_is_a_page_all_the_same(tmp_path: Path) -> None:
    page = read(Story(failure="interrupted"), tmp_path)
    assert "It did not happen" in page.text
    assert "interrupted" in page.text
    assert [tag for tag, _ in page.tags if tag == "img"] == []
    assert not list(tmp_path.glob("*.png"))
    assert page.row("p99") == ["–"] * 4


def test_without_a_result_the_plots_say_so(tmp_path: Path) -> None:
    page = read(stories.story(result=None, failure="the queue never went away"), tmp_path)
    assert "the queue never went away" in page.text
    assert {path.name for path in tmp_path.glob("*.png")} == PICTURES
    assert page.row("p99") == ["–"] * 4
    assert page.row("replicas serving (at most)") == ["1", "2", "2", "2"]


@pytest.mark.parametrize(
    "points",
    [
        [Point(0.0, 1, 0, 0, 0, {})],
        [Point(-3.0, 1, 0, 1, 0, {"web-1": VmPoint("booting", None, None, None)})],
        [Point(float(t), 0, 0, 0, 0, {}) for t in range(3)],
        [Point(t * 0.5, 1, 1, 0, 0, {"web-1": VmPoint("ready", 0.1, 0.1, None)}) for t in range(9)],
        # figures now and then, as a guest under load gives them
        [
            Point(t * 0.5, 1, 1, 0, 0, {"web-1": VmPoint("ready", None, None, g)})
            for t, g in enumerate([None, 0.5, None, None, 0.5, 0.6, None, 0.0])
        ],
    ],
)
def test_few_points_make_plots_without_complaint(points: list[Point], tmp_path: Path) -> None:
    began = len(points) != 1
    story = Story(points=points, starts={"low": 0.0, "high": 50.0} if began else {})
    read(story, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == PICTURES


def test_many_replicas_and_acts_of_an_instant_find_room(tmp_path: Path) -> None:
    vms = {f"web-{number:06x}": VmPoint("ready", 0.1 * number, 0.1, 0.2) for number in range(7)}
    points = [Point(float(t), 7, 7, 0, 0, vms) for t in range(100)]
    starts = {"low": 0.0, "high": 50.0, "relief": 50.5, "after": 51.0, "calm": 51.5}
    read(stories.story(points=points, starts=starts), tmp_path)


def test_a_result_without_answers_or_seconds_shows_no_latency(tmp_path: Path) -> None:
    silent = stories.phase(
        "high", latency_s=Distribution(), counts=Counts(600, 600, 0, 600, 600, 0, 0)
    )
    series = [replace(stories.second(20.0), completed=0, errors=30, p50_s=None, p99_s=None)]
    page = read(
        stories.story(result=stories.result(phases=[silent], series=series)), tmp_path / "."
    )
    assert page.row("p99") == ["–"] * 4
    assert page.row("failed") == ["–", "600", "–", "–"]
    read(stories.story(result=stories.result(series=[])), tmp_path)


def test_a_load_tester_that_lagged_is_said(tmp_path: Path) -> None:
    lagged = stories.result(trustworthy=False, reasons=["send lag p99 is 250.0 ms"])
    page = read(stories.story(result=lagged), tmp_path)
    assert "send lag p99 is 250.0 ms" in page.text


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)> \"'&{{ 7*7 }} \udcff"


def test_what_others_wrote_stays_text(tmp_path: Path) -> None:
    story = stories.story(
        failure=HOSTILE,
        setting=replace(stories.SETTING, why=HOSTILE, libvirt=HOSTILE, domain_type=HOSTILE),
        moments=[Moment(1.0, kind, HOSTILE, HOSTILE, HOSTILE) for kind in ("scale.up", HOSTILE)],
        result=stories.result(trustworthy=False, reasons=[HOSTILE]),
    )
    checks = [Check(HOSTILE, False, HOSTILE)]
    page = Page(write(story, checks, tmp_path).read_text("utf-8"))
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert "{{ 7*7 }}" in page.text
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name[:2] == "on"]
    assert {link[:22] for link in page.links()} == {"data:image/png;base64,"}


# ── its sentences ─────────────────────────────────────────────────────────────────────────────────


def test_why_the_host_counts_more_is_told_with_this_runs_numbers() -> None:
    text = why_host_is_higher(stories.story())
    assert text.count(". ") == 1
    for number in ("0.200 cores", "0.180 were its virtual CPU", "0.020 (10%)", "0.150 cores busy"):
        assert number in text
    assert "translates every guest instruction" in text
    kvm = replace(stories.SETTING, domain_type="kvm")
    assert "translates" not in why_host_is_higher(stories.story(setting=kvm))


@pytest.mark.parametrize("lacks", ["setting", "points"])
def test_what_was_not_measured_is_not_explained(lacks: str) -> None:
    story = stories.story(**{lacks: None if lacks == "setting" else []})
    assert why_host_is_higher(story) == "The guests' own view was not measured in this run."


def test_zero_cores_divide_nothing() -> None:
    idle = {"web-1": VmPoint("ready", 0.0, 0.0, 0.0)}
    story = stories.story(points=[Point(float(t), 1, 1, 0, 0, idle) for t in range(100)])
    assert "0.000 (0%)" in why_host_is_higher(story)
    assert before_after(story)[-1][1] == "0.00 of 0.4 cores (0%)"
