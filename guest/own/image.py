"""Images of the user's own: a name for a qcow2 or raw file that stays where it is.

Owns `HOME/images/NAME/own.json`, and whether the file still is what was added. It must not write to
the file, copy it, or know how a VM gets a disk of its own over it. Images that were built have
another file there (`guest.image`), so that a build never takes the place of one of these.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from guest import image
from guest.image import Image, ImageError, Progress
from guest.own import disk_file
from guest.own.disk_file import Disk, Layer
from guest.own.disk_format import DiskError

FACTS: Final = "own.json"
LARGEST_USER_DATA: Final = 512 << 10
"""It travels to each VM on a disk of its own."""
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_CHUNK: Final = 4 << 20
_USER_DATA_BEGINS = ("#", "Content-Type:", "MIME-Version:")


@dataclass(frozen=True)
class OwnImage:
    """A disk with a boot loader. Each VM writes to an overlay of its own."""

    name: str
    folder: Path
    layers: tuple[Layer, ...]
    """The file itself, and those that it is based on."""
    virtual_bytes: int
    checksum: str
    """sha256 over all layers and the user-data."""
    user_data: str
    user_data_file: str
    """Where it was read from; empty where there is none."""
    added_at: str
    """ISO 8601, UTC."""

    @property
    def disk(self) -> Layer:
        return self.layers[0]

    @property
    def size_bytes(self) -> int:
        """Of its files."""
        return sum(layer.size_bytes for layer in self.layers)

    def trouble(self) -> str:
        """Why it can be started no more, and what to do; empty: it can. Costs a `stat` each."""
        if gone := self.gone():
            return (
                f"image {self.name!r}: {gone} is not there: put it back, or run"
                f" `lbctl image add {self.name} FILE --force` with another"
            )
        why = disk_file.changed(self.layers)
        return f"image {self.name!r}: {why}: run `{self.add_command()}`" if why else ""

    def gone(self) -> str:
        """Which of its files is not there any more; empty: none."""
        return disk_file.missing(self.layers)

    def add_command(self) -> str:
        """What adds it anew."""
        seeded = f" --user-data {self.user_data_file}" if self.user_data_file else ""
        return f"lbctl image add {self.name} {self.disk.path}{seeded} --force"


def find(home: Path, name: str) -> Image | OwnImage:
    """The image NAME, of either kind, fit to be started. Raises ImageError."""
    own = _own(home, name)
    if own is None:
        return image.load(home, name)
    if why := own.trouble():
        raise ImageError(why)
    return own


def everything(home: Path) -> list[Image | OwnImage]:
    """Every image that is named, by name; those of the user's own in whatever state."""
    found: list[Image | OwnImage] = list(image.list_images(home))
    for folder in (home / "images").glob("[!.]*/"):
        with contextlib.suppress(ImageError):
            if (own := _own(home, folder.name)) is not None:
                found.append(own)
    return sorted(found, key=lambda one: one.name)


def _own(home: Path, name: str) -> OwnImage | None:
    """None where there is none of that name, or one that was built."""
    folder = home / "images" / name
    try:
        return _from_facts(folder, json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else "made by another version"
        raise ImageError(
            f"image {name!r} cannot be read ({why}): run `lbctl image add {name} FILE --force`"
        ) from None


def _from_facts(folder: Path, facts: Mapping[str, Any]) -> OwnImage:
    layers = tuple(
        Layer(str(one["path"]), str(one["format"]), int(one["size_bytes"]), int(one["mtime_ns"]))
        for one in facts["layers"]
    )
    if not layers:
        raise TypeError("layers")
    return OwnImage(
        name=str(facts["name"]),
        folder=folder,
        layers=layers,
        virtual_bytes=int(facts["virtual_bytes"]),
        checksum=str(facts["checksum"]),
        user_data=str(facts["user_data"]),
        user_data_file=str(facts["user_data_file"]),
        added_at=str(facts["added_at"]),
    )


def to_facts(own: OwnImage) -> dict[str, object]:
    """What image.json holds: everything but the place, so that HOME may move."""
    facts = asdict(own)
    del facts["folder"]
    return facts


# --- adding and removing


def add(
    name: str,
    file: Path,
    home: Path,
    progress: Progress,
    *,
    user_data: Path | None = None,
    force: bool = False,
) -> OwnImage:
    """Look at the file whole and give it a name; `force` replaces an image of the user's own.

    Raises ImageError; whatever ends it, an image that was there before still is.
    """
    if _URL.match(str(file)) and not file.exists():
        raise ImageError(f"{file}: a file on this machine is needed, not a URL: download it first")
    folder = _free(home, name, force=force)
    text = "" if user_data is None else _user_data(user_data)
    try:
        disk = disk_file.inspect(file.absolute(), lambda done: progress("looking at it", done / 10))
        checksum = _checksum(disk, text, progress)
    except DiskError as error:
        raise ImageError(str(error)) from error
    except OSError as error:
        raise ImageError(f"{file} cannot be read: {error.strerror}") from error
    if why := disk_file.changed(disk.layers):
        raise ImageError(f"{why}: something writes to it")
    made = OwnImage(
        name=name,
        folder=folder,
        layers=disk.layers,
        virtual_bytes=disk.virtual_bytes,
        checksum=checksum,
        user_data=text,
        user_data_file=str(user_data.absolute()) if user_data else "",
        added_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    try:
        _write(made)
    except OSError as error:
        raise ImageError(f"{folder} cannot be written: {error.strerror}; set LBCTL_HOME") from error
    progress("done", 1.0)
    return made


def remove(home: Path, name: str) -> str:
    """Forget the image NAME; returns what was done, in words. The file of one of the user's own
    stays where it is; what was built is deleted, and guests keep the files that they have open.
    Raises ImageError."""
    if not image.NAME.fullmatch(name):
        raise ImageError(f"{name!r} is not a name for an image: use a-z, 0-9 and -")
    folder = home / "images" / name
    if not any((folder / facts).is_file() for facts in (FACTS, image.FACTS)):
        raise ImageError(f"no image {name!r}: `lbctl image list` shows what there is")
    words = f"image {name} and its files in {folder} are deleted"
    if (folder / FACTS).is_file():
        words = f"image {name} is forgotten"
        with contextlib.suppress(ImageError):  # which file it was can be read no more
            own = _own(home, name)
            words += f"; {own.disk.path} stays where it is" if own and not own.gone() else ""
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        folder.rename(aside / name)
        shutil.rmtree(aside)
    except OSError as error:
        raise ImageError(f"{folder} cannot be removed: {error.strerror}") from error
    return words


def _free(home: Path, name: str, *, force: bool) -> Path:
    """Where it may be written."""
    if not image.NAME.fullmatch(name):
        raise ImageError(f"{name!r} is not a name for an image: use a-z, 0-9 and -")
    folder = home / "images" / name
    if not folder.exists():
        return folder
    if not (folder / FACTS).is_file():
        raise ImageError(
            f"{folder} is there and is none of your own images: choose another name, or run"
            f" `lbctl image remove {name}`"
        )
    if not force:
        raise ImageError(f"there is an image {name!r} already: add --force to replace it")
    return folder


def _user_data(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > LARGEST_USER_DATA:
        raise ImageError(f"{path} has {len(data)} bytes, and user-data at most {LARGEST_USER_DATA}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ImageError(f"{path} is no text in UTF-8, as user-data has to be") from None
    if not text.startswith(_USER_DATA_BEGINS):
        raise ImageError(
            f"{path} is nothing that cloud-init knows: its first line has to be #cloud-config, or"
            " that of a script, such as #!/bin/sh"
        )
    return text


def _checksum(disk: Disk, user_data: str, progress: Progress) -> str:
    digest = hashlib.sha256()
    total, done = sum(layer.size_bytes for layer in disk.layers), 0
    for layer in disk.layers:
        with Path(layer.path).open("rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
                done += len(chunk)
                progress("taking its checksum", 0.1 + 0.9 * min(1.0, done / total))
    digest.update(user_data.encode())
    return digest.hexdigest()


@contextlib.contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(own: OwnImage) -> None:
    """In one step: a reader sees the old one or the new one."""
    own.folder.parent.mkdir(parents=True, exist_ok=True)
    with _aside(own.folder) as work:
        facts = work / FACTS
        facts.write_text(json.dumps(to_facts(own), indent=2) + "\n", encoding="utf-8")
        # a user-data may hold a password
        facts.chmod(0o600)
        if own.folder.is_dir():
            facts.replace(own.folder / FACTS)
            return
        made = work / "image"
        made.mkdir()
        facts.rename(made / FACTS)
        made.rename(own.folder)
