"""`/api/v1/series`: read strictly, answered from the file, with a step that fits where none is."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lb.admin.series_routes import CHOSEN_STEPS, MOST_POINTS, MOST_STEPS, chosen_step
from lb.series import Series
from lb.series_file import MINUTES_S, SECONDS_S, Row, SeriesFile
from tests.fake_control import serving


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    file = SeriesFile(tmp_path / "series.db")
    now = int(time.time())
    for at in range(now - 120, now):
        file.append(at, [Row("web", "", {"rate": 5, "ready": 2}), Row("web", "web-1", {"cpu": 1})])
    file.close()
    with serving(tmp_path) as (control, address):
        control.series = Series(tmp_path / "series.db", list)
        yield f"{address}/api/v1/series"


def ask(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return dict(json.load(answer))


def refused(url: str, status: int = 400) -> str:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(url)
    assert caught.value.code == status
    with caught.value as answer:
        return str(json.load(answer)["detail"])


def test_the_last_minutes_by_the_second(url: str) -> None:
    found = ask(f"{url}?service=web")
    assert found["step"] == 1
    assert found["vms"] == ["web-1"]
    assert found["columns"] == ["at", "mean", "min", "max"]
    assert set(found["series"]) == {"rate", "ready"}
    assert len(found["series"]["rate"]) == 120
    assert found["series"]["rate"][0][1:] == [5.0, 5, 5]


def test_names_vm_span_and_step_choose(url: str) -> None:
    now = int(time.time())
    found = ask(f"{url}?service=web&name=rate&name=other&from={now - 3600}&to={now + 60}&step=60")
    assert list(found["series"]) == ["rate"]
    assert 1 <= len(found["series"]["rate"]) <= 2
    assert (found["from"], found["to"], found["step"]) == (now - 3600, now + 60, 60)
    of_vm = ask(f"{url}?service=web&vm=web-1")
    assert (of_vm["vm"], list(of_vm["series"])) == ("web-1", ["cpu"])
    assert ask(f"{url}?service=web&vm=web-9")["series"] == {}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "service must be one of: web"),
        ("?service=api", "service must be one of: web"),
        ("?service=web&name=a'b", "leave name away"),
        ("?service=web&from=5&to=5", "from must be before to"),
        ("?service=web&from=x", "from must be a whole number"),
        ("?service=web&step=0", "step must be a whole number"),
        ("?service=web&step=90", "whole minutes"),
        ("?service=web&from=0&step=60", "ask for a larger step"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_in_words(
    url: str, query: str, words: str
) -> None:
    assert words in refused(url + query)


def test_many_figures_at_many_times_are_refused_and_some_of_them_are_not(tmp_path: Path) -> None:
    now = int(time.time()) // 60 * 60
    file = SeriesFile(tmp_path / "series.db")
    many = {f"figure_{n}": n for n in range(1 + MOST_POINTS // 900)}
    for at in range(now - 899, now + 1):
        file.append(at, [Row("web", "", many)])
    file.close()
    with serving(tmp_path) as (control, address):
        control.series = Series(tmp_path / "series.db", list)
        asked = f"{address}/api/v1/series?service=web&from={now - 899}&to={now + 1}"
        said = refused(f"{asked}&step=1", 422)
        assert said == (
            f"{900 * len(many)} points of {len(many)} figures, at most {MOST_POINTS}:"
            " choose figures with name, a larger step or less time"
        )
        assert len(ask(f"{asked}&step=1&name=figure_7&name=figure_8")["series"]["figure_8"]) == 900
        assert len(ask(f"{asked}&step=2")["series"]) == len(many)


@pytest.mark.parametrize(
    ("ago", "span", "step"),
    [
        (600, 600, 1),
        (SECONDS_S, SECONDS_S, 3),
        (SECONDS_S + 1, SECONDS_S, 60),
        (86400, 86400, 60),
        (MINUTES_S, MINUTES_S, 29 * 60),
    ],
)
def test_the_step_that_is_chosen_keeps_the_answer_small(ago: int, span: int, step: int) -> None:
    now = 1_700_000_000
    assert chosen_step(now - ago, now - ago + span, now) == step
    assert span / step <= CHOSEN_STEPS <= MOST_STEPS
