"""For all tests: the loop that we serve on, and a home folder that is nobody's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Serving runs on uvloop, so the tests do."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test may see, or write to, the state of whoever runs it."""
    monkeypatch.setenv("LBCTL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LBCTL_ADMIN", raising=False)
    yield
