"""For all tests: the loop that we serve on, a home folder that is nobody's, no deadlines."""

from __future__ import annotations

import asyncio
import faulthandler
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, settings

TEARDOWN_S = 300.0
TERMINAL = pytest.StashKey[int]()

# No deadlines: the machine may be busy. HYPOTHESIS_PROFILE=deep looks ten times as far.
settings.register_profile("fast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", settings.get_profile("fast"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Serving runs on uvloop, so the tests do."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_configure(config: pytest.Config) -> None:
    _nothing_stale(config.rootpath / "lb")
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        config.stash[TERMINAL] = os.dup(2)


def _nothing_stale(folder: Path) -> None:
    """Python runs what is compiled, whatever the source beside it says by now."""
    for compiled in folder.rglob("*.so"):
        if "__mypyc" in compiled.name:
            continue  # all of them together
        source = compiled.with_name(compiled.name.partition(".")[0] + ".py")
        if not source.exists() or source.stat().st_mtime > compiled.stat().st_mtime:
            raise pytest.UsageError(f"{source} is newer than what was compiled of it: ./run setup")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """The time limit ends with a test's failure: what hangs in its clean-up would hang for ever."""
    faulthandler.dump_traceback_later(TEARDOWN_S, exit=True, file=item.config.stash[TERMINAL])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may see, or write to, the state of whoever runs it."""
    monkeypatch.setenv("LBCTL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LBCTL_ADMIN", raising=False)
