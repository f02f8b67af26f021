"""Who would miss an image that is removed: services, rollouts, machines, other images.

Owns the question and its words. It must not remove anything; what a running `lbctl up` says is
handed in as its admin API tells it, and what lies in LBCTL_HOME is only read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guest.image import Image
    from guest.own.image import OwnImage

Row = Mapping[str, Any]


def users(
    home: Path,
    name: str,
    scales: Sequence[Row] = (),
    vms: Sequence[Row] = (),
) -> list[str]:
    """Each in a few words. `scales` and `vms`: rows of the admin API; empty where none serves."""
    from guest.own.image import everything

    images = everything(home)
    found = next((image for image in images if image.name == name), None)
    told = [f"service {row['service']}" for row in scales if row.get("image") == name]
    told += _rollouts(home, name, {row["service"]: row.get("image") for row in scales})
    if found is not None:
        named = sorted(str(row["name"]) for row in vms if _runs(row, found))
        linked = sorted(set(_linked(home, found)) - set(named))
        told += [f"VM {vm}" for vm in (*named, *linked)]
        told += [f"image {image.name}, which is based on it" for image in _above(images, found)]
    return told


def _rollouts(home: Path, name: str, serving: Mapping[str, str | None]) -> Iterator[str]:
    """Those that go on, and those that hold an image against the configuration, which still names
    the other: `serving` has the image that holds by service, where one is served."""
    from lb.rollouts import FILE, Rollouts

    for service, rollout in sorted(Rollouts(home / FILE).everything.items()):
        if rollout.goes_on:
            images = {rollout.image_from, rollout.image_to}
        elif serving.get(service, rollout.image) == rollout.image != rollout.configured:
            images = {rollout.image, rollout.configured}
        else:
            images = set()
        if name in images:
            yield f"the rollout of {service}"


def _runs(row: Row, image: Image | OwnImage) -> bool:
    """By the checksum: another image may have the name by now. And of several of the same checksum
    the one it was started from, where that is known."""
    same = bool(row.get("image")) and image.checksum.startswith(row["image"])
    return same and row.get("image_name") in (None, image.name)


def _linked(home: Path, image: Image | OwnImage) -> Iterator[str]:
    """Machines whose overlay lies on one of its files."""
    files = {layer.path for layer in getattr(image, "layers", ())}
    for link in (home / "disks").glob("*/*"):
        with contextlib.suppress(OSError):  # it went meanwhile
            if link.is_symlink() and str(link.readlink()) in files:
                yield link.name


def _above(
    images: Sequence[Image | OwnImage], image: Image | OwnImage
) -> Iterator[Image | OwnImage]:
    """Own images with a layer in this one's folder."""
    folder = image.folder.resolve()
    for other in images:
        layers = getattr(other, "layers", ())
        if other.name != image.name and any(
            Path(layer.path).is_relative_to(folder) for layer in layers
        ):
            yield other
