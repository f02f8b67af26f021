"""What operators told the planner, over a restart: what was saved holds, garbage does not."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.rules import Mode, Override
from lb.overrides import Overrides, in_words
from lb.state_file import StateFile

NOW = 1_700_000_000.0
FIXED = Override(Mode.FIXED, 3, NOW + 60)
HOLD = Override(Mode.HOLD)


def overrides(folder: Path, at: float = NOW) -> Overrides:
    return Overrides(folder / "overrides.json", lambda: at)


async def test_what_was_saved_holds_after_a_restart(tmp_path: Path) -> None:
    held = overrides(tmp_path)
    assert held.of("web") is None
    held.put("web", FIXED)
    held.put("api", HOLD)
    await held.save()
    again = overrides(tmp_path)
    assert (again.of("web"), again.of("api"), again.of("db")) == (FIXED, HOLD, None)
    again.put("web", None)
    again.put("db", None)
    await again.save()
    assert json.loads((tmp_path / "overrides.json").read_text()) == {
        "api": {"mode": "hold", "to": None, "until": None}
    }


async def test_what_has_run_out_is_there_until_it_is_put_away_but_not_saved_again(
    tmp_path: Path,
) -> None:
    held = overrides(tmp_path)
    held.put("web", FIXED)
    await held.save()
    later = overrides(tmp_path, NOW + 61)
    assert later.of("web") == FIXED, "somebody has to tell of its end"
    await later.save()
    assert overrides(tmp_path).of("web") is None


async def test_a_write_that_takes_long_does_not_undo_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, go_on, write = overrides(tmp_path), threading.Event(), StateFile.write

    def slowly(file: StateFile, value: Any) -> None:
        if value["web"]["to"] == 1:
            assert go_on.wait(10)
        write(file, value)

    monkeypatch.setattr(StateFile, "write", slowly)
    saves = []
    for number in (1, 2):
        held.put("web", Override(Mode.FIXED, number))
        saves.append(asyncio.ensure_future(held.save()))
        await asyncio.wait(saves, timeout=0.1)  # as far as it comes meanwhile
    go_on.set()
    await asyncio.gather(*saves)
    assert overrides(tmp_path).of("web") == Override(Mode.FIXED, 2)


@pytest.mark.parametrize(
    "value",
    [
        [],
        "hold",
        {},
        {"mode": "hold"},
        {"mode": "auto", "to": None, "until": None},
        {"mode": "hold", "to": 3, "until": None},
        {"mode": "fixed", "to": None, "until": None},
        {"mode": "fixed", "to": True, "until": None},
        {"mode": "fixed", "to": -1, "until": None},
        {"mode": "fixed", "to": 2.5, "until": None},
        {"mode": "fixed", "to": 3, "until": "tomorrow"},
        {"mode": "fixed", "to": 3, "until": 1e300},
    ],
)
def test_what_is_no_override_is_ignored_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    good = {"mode": "observe", "to": None, "until": None}
    content = {"web": value, "db": value, "api": good}
    (tmp_path / "overrides.json").write_text(json.dumps(content))
    held = overrides(tmp_path)
    assert (held.of("web"), held.of("api")) == (None, Override(Mode.OBSERVE))
    assert len(caplog.records) == 1


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["web", "mode", "to", "until"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(value=json_like)
def test_no_file_whatever_keeps_us_from_starting(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    folder = tmp_path_factory.mktemp("home")
    (folder / "overrides.json").write_text(json.dumps(value))
    found = overrides(folder).of("web")
    assert found is None or in_words(found)


def test_in_words() -> None:
    assert in_words(FIXED) == "3 replicas until 2023-11-14 22:14:20 UTC"
    assert in_words(Override(Mode.FIXED, 1)) == "1 replica"
    assert in_words(HOLD) == "hold"
