"""The guest image that all end-to-end tests share, built once if it is not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guest import image
from tests.e2e.machine import Machine

# read before any test's own LBCTL_HOME: the image of whoever runs the tests is reused
_HOME = Path(os.environ.get("LBCTL_HOME") or "~/.local/share/lbctl").expanduser().absolute()


@pytest.fixture(scope="session")
def images() -> Path:
    """The folder of images, with a current `webapp` in it."""
    image.build("webapp", _HOME, lambda what, _share: print(what))
    return _HOME / "images"


@pytest.fixture
def machine(images: Path) -> Iterator[Callable[..., Machine]]:
    """Make a Machine; it is gone with all its VMs after the test."""
    made: list[Machine] = []

    def make(service: str = "", vm: str = "", images_folder: Path = images) -> Machine:
        made.append(Machine(images_folder, service, vm))
        return made[-1]

    yield make
    for one in made:
        one.close()
