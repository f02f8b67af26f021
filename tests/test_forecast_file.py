"""What was learned of a season outlives the process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from autoscale.forecast import Forecast
from lb.forecast_file import ForecastFile
from lb.tasks import cancel, spawn

NOON = 1_700_000_000.0


def learned(season_s: float = 3600.0) -> Forecast:
    forecast = Forecast.start(season_s)
    for minute in range(200):
        forecast = forecast.add(NOON + 60 * minute, 1.0 + minute % 60 / 30)
    return forecast


async def test_what_is_saved_is_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert await ForecastFile(tmp_path / "forecasts", "web").load(3600.0) is None
    forecast = learned()
    await ForecastFile(tmp_path / "forecasts", "web").save(forecast)
    again = await ForecastFile(tmp_path / "forecasts", "web").load(3600.0)
    assert again is not None
    assert again.as_dict() == forecast.as_dict()
    assert await ForecastFile(tmp_path / "forecasts", "api").load(3600.0) is None
    assert not caplog.records


async def test_another_season_is_another_story(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await ForecastFile(tmp_path, "web").save(learned())
    assert await ForecastFile(tmp_path, "web").load(86400.0) is None
    assert not caplog.records


async def test_nothing_learned_is_nothing_written(tmp_path: Path) -> None:
    await ForecastFile(tmp_path, "web").save(None)
    assert await ForecastFile(tmp_path, "web").load(3600.0) is None
    assert not (tmp_path / "web.json").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "x", '{"season_s": 3600}'])
async def test_garbage_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (tmp_path / "web.json").write_text(content)
    assert await ForecastFile(tmp_path, "web").load(3600.0) is None
    (record,) = caplog.records
    assert "the forecast of web" in record.getMessage()


async def test_it_is_saved_again_and_again(tmp_path: Path) -> None:
    asked = asyncio.Event()
    count = 0

    def newest() -> Forecast:
        nonlocal count
        count += 1
        if count == 3:
            asked.set()
        return learned()

    file = ForecastFile(tmp_path, "web")
    saving = spawn(file.save_regularly(newest, every_s=0.001), name="saving")
    async with asyncio.timeout(10):
        await asked.wait()
    await cancel(saving)
    assert (tmp_path / "web.json").exists()
