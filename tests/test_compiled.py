"""The request path runs compiled here, and from its source where nothing is compiled; the suite
itself runs as `./run test` left the checkout, so compiled unless LBCTL_COMPILE=no."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("autoscale", "guest", "lb", "loadtest", "tests")
# both lanes, whoever calls them, and what they are counted by
STORIES = ("test_fastlane.py", "test_pool.py", "test_upstream.py", "test_waiting.py")


def setup_py() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_py", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMPILED: tuple[str, ...] = setup_py().COMPILED


@pytest.mark.skipif(os.environ.get("LBCTL_COMPILE") == "no", reason="nothing is to be compiled")
@pytest.mark.parametrize("source", COMPILED)
def test_it_is_compiled(source: str) -> None:
    module = importlib.import_module(source.removesuffix(".py").replace("/", "."))
    assert module.__file__ is not None
    assert not module.__file__.endswith(".py"), "./run setup compiles it"


@pytest.mark.timeout(300)
def test_the_source_alone_does_the_same(tmp_path: Path) -> None:
    for name in PACKAGES:
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    for name in ("setup.cfg", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    python = [sys.executable, "-m"]
    environment = {**os.environ, "LBCTL_COMPILE": "no"}
    said = subprocess.run(
        [sys.executable, "-c", "import lb.fastlane; print(lb.fastlane.__file__)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == str(tmp_path / "lb" / "fastlane.py")
    ran = subprocess.run(
        [*python, "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in STORIES)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
