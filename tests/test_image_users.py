"""Who would miss an image: as the files of LBCTL_HOME tell it, and as an `lbctl up` that serves."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from autoscale.rollout import Phase, Rollout
from guest import image as built_image
from guest.own.image import OwnImage, add
from lb.image_users import users
from tests import disks

CHECKSUM = "0123456789ab" + "c" * 52


def build(home: Path, name: str) -> Path:
    folder = home / "images" / name
    folder.mkdir(parents=True)
    for part in (built_image.KERNEL, built_image.INITRD):
        (folder / part).touch()
    (folder / built_image.DISK).write_bytes(disks.raw())
    image = built_image.Image(
        name, folder, folder, folder, folder, "quiet", CHECKSUM, "r", 1, "2026-01-01", {}
    )
    (folder / built_image.FACTS).write_text(json.dumps(built_image.to_facts(image)))
    return folder


def own(home: Path, file: Path, name: str = "cloud") -> OwnImage:
    return add(name, file, home, lambda _what, _done: None)


def roll(home: Path, phase: Phase, image_to: str = "other") -> None:
    rollout = Rollout("webapp", "webapp", image_to, "g", 1.0, phase=phase)
    (home / "rollouts.json").write_text(json.dumps({"web": asdict(rollout)}))


def test_nobody_uses_it(tmp_path: Path) -> None:
    build(tmp_path, "webapp")
    assert users(tmp_path, "webapp") == []
    assert users(tmp_path, "nowhere") == []


def test_a_service_that_is_served(tmp_path: Path) -> None:
    build(tmp_path, "webapp")
    scales: list[dict[str, Any]] = [
        {"service": "web", "image": "webapp"},
        {"service": "db", "image": None},
    ]
    assert users(tmp_path, "webapp", scales) == ["service web"]


@pytest.mark.parametrize(
    ("phase", "served", "of_webapp", "of_other"),
    [
        (Phase.RUNNING, None, True, True),
        (Phase.ROLLING_BACK, "webapp", True, True),
        (Phase.DONE, None, True, True),  # it holds against the configuration
        (Phase.DONE, "other", True, True),
        (Phase.DONE, "third", False, False),  # the configuration has the last word again
        (Phase.UNDONE, None, False, False),
    ],
)
def test_a_rollout(
    tmp_path: Path, phase: Phase, served: str | None, *, of_webapp: bool, of_other: bool
) -> None:
    roll(tmp_path, phase)
    scales = [{"service": "web", "image": served}] if served else []
    for name, used in (("webapp", of_webapp), ("other", of_other)):
        assert ("the rollout of web" in users(tmp_path, name, scales)) is used


def test_a_vm_that_runs_it(tmp_path: Path) -> None:
    build(tmp_path, "webapp")
    vms: list[dict[str, Any]] = [
        {"name": "web-000001", "image": CHECKSUM[:12], "image_name": "webapp"},
        {"name": "web-000002", "image": CHECKSUM[:12], "image_name": None},
        {"name": "web-000003", "image": CHECKSUM[:12], "image_name": "alias"},
        {"name": "web-000004", "image": "f" * 12, "image_name": "webapp"},
        {"name": "web-000005", "image": None, "image_name": None},
    ]
    assert users(tmp_path, "webapp", [], vms) == ["VM web-000001", "VM web-000002"]


def test_a_vm_whose_overlay_lies_on_it_though_nobody_serves(tmp_path: Path) -> None:
    file = tmp_path / "cloud.img"
    file.write_bytes(disks.raw())
    own(tmp_path, file)
    (tmp_path / "disks" / "local").mkdir(parents=True)
    (tmp_path / "disks" / "local" / "web-000001").symlink_to(file)
    (tmp_path / "disks" / "local" / "web-000002").symlink_to(tmp_path / "another.img")
    (tmp_path / "disks" / "local" / "web-000001.iso").touch()
    assert users(tmp_path, "cloud") == ["VM web-000001"]


def test_an_image_that_is_based_on_its_files(tmp_path: Path) -> None:
    folder = build(tmp_path, "webapp")
    file = tmp_path / "cloud.qcow2"
    file.write_bytes(disks.qcow2_over(str(folder / built_image.DISK), "raw"))
    own(tmp_path, file)
    assert users(tmp_path, "webapp") == ["image cloud, which is based on it"]
    assert users(tmp_path, "cloud") == []
