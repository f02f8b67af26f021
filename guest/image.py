"""Guest images: built once, kept under HOME/images/NAME, found again by every command.

Owns the layout of that folder and the recipe's fingerprint. It starts no VM for serving and never
touches an image in use: a finished build replaces the folder in one step.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from guest import boottime, debian, initrd, rootfs

Progress = Callable[[str, float], None]

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
HERE = Path(__file__).resolve().parent
DISK, KERNEL, INITRD, FACTS = "root.img", "kernel", "initrd", "image.json"
# Debian's archive 330 MB, ours 120, the tree 120, the image 140; mmdebstrap's own 400 are in /tmp.
NEEDED_BYTES = 1_500_000_000

CMDLINE = " ".join(
    (
        "root=/dev/vda ro",
        "net.ifnames=0",  # one card, eth0, without asking udev
        "panic=-1",  # a guest that cannot boot ends at once, and its fleet sees it
        # The console is the only log, and its host keeps it: failures, in plain text.
        "console=ttyS0 quiet SYSTEMD_COLORS=0 TERM=dumb",
        "systemd.show_status=error systemd.log_target=console systemd.log_level=warning",
        # Under emulation any other clock is a device, read by leaving the guest's code.
        "tsc=reliable no_timer_check 8250.nr_uarts=1",
        # The kernel would test its ciphers, of which nothing here is used: 0.3 s of 1.5.
        "cryptomgr.notests=1",
        # mitigations=off, init_on_alloc=0 and lsm= were tried: no gain beyond the noise.
    )
)


class ImageError(Exception):
    """An image is missing or cannot be built; one line says what is wrong and what to do."""


class NoImageError(ImageError):
    """There is none of that name."""


@dataclass(frozen=True)
class Image:
    """A bootable image. The disk is read-only and shared by every guest that runs it."""

    name: str
    folder: Path
    disk: Path
    kernel: Path
    initrd: Path | None
    cmdline: str  # without systemd.hostname, which names the replica
    checksum: str  # sha256 over disk, kernel and initrd: saved guests fit this and no other
    recipe: str  # sha256 over what it was built from
    size_bytes: int  # of the disk
    built_at: str  # ISO 8601, UTC
    boot_parts: Mapping[str, float]  # seconds, as the self-check after the build saw them


def recipe() -> str:
    """Fingerprint of all that decides what an image contains: this package's sources and units."""
    digest = hashlib.sha256()
    for path in sorted([*HERE.glob("*.py"), *(HERE / "systemd").iterdir()]):
        digest.update(path.relative_to(HERE).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def is_current(image: Image) -> bool:
    """Was it built from the sources as they are now?"""
    return image.recipe == recipe()


def load(home: Path, name: str) -> Image:
    """The image NAME. Raises ImageError when it is missing or unreadable."""
    folder = home / "images" / name
    try:
        facts = json.loads((folder / FACTS).read_text())
    except FileNotFoundError:
        raise NoImageError(f"no image {name!r}: run `lbctl image build`") from None
    except (OSError, ValueError) as error:
        raise ImageError(
            f"image {name!r} cannot be read ({error}): run `lbctl image build`"
        ) from None
    try:
        image = from_facts(folder, facts)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ImageError(
            f"image {name!r} was made by another version: run `lbctl image build`"
        ) from None
    for path in (image.disk, image.kernel, image.initrd):
        if path is not None and not path.is_file():
            raise ImageError(f"image {name!r} lacks {path.name}: run `lbctl image build`")
    return image


def list_images(home: Path) -> list[Image]:
    """Every image that can be loaded, by name."""
    found = []
    for folder in sorted((home / "images").glob("[!.]*/")):
        with contextlib.suppress(ImageError):
            found.append(load(home, folder.name))
    return found


def to_facts(image: Image) -> dict[str, object]:
    """What image.json holds: everything but the place, so that HOME may move."""
    facts = asdict(image)
    for place in ("folder", "disk", "kernel", "initrd"):
        del facts[place]
    return {**facts, "boot_parts": dict(image.boot_parts)}


def from_facts(folder: Path, facts: Mapping[str, object]) -> Image:
    """The image in `folder`. Raises KeyError, TypeError or ValueError for other facts."""
    parts = facts["boot_parts"]
    size = facts["size_bytes"]
    if not isinstance(parts, dict) or not isinstance(size, int):
        raise TypeError("boot_parts or size_bytes")
    return Image(
        name=str(facts["name"]),
        folder=folder,
        disk=folder / DISK,
        kernel=folder / KERNEL,
        initrd=folder / INITRD,
        cmdline=str(facts["cmdline"]),
        checksum=str(facts["checksum"]),
        recipe=str(facts["recipe"]),
        size_bytes=size,
        built_at=str(facts["built_at"]),
        boot_parts={str(part): float(seconds) for part, seconds in parts.items()},
    )


def build(name: str, home: Path, progress: Progress) -> Image:
    """The image NAME as the sources say: the one there if it is current, else a new one.

    `progress` hears what is being done and how far it is, 0 to 1. Raises ImageError; whatever
    ends it, nothing half-made stays behind.
    """
    _check_name(home, name)
    current = _current(home, name)
    if current is not None:
        return current
    _check_host(home)
    try:
        with _only_builder(home / "images"):
            current = _current(home, name)  # another process may have built it while we waited
            if current is not None:
                return current
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home / "images") as work:
                made = _make(name, Path(work), progress)
                _place(made, home / "images" / name)
            return load(home, name)
    except debian.ToolFailedError as error:
        raise ImageError(explain(error)) from error
    except boottime.BootError as error:
        last = next((line for line in reversed(error.console.splitlines()) if line), "nothing")
        raise ImageError(f"the new image does not boot ({error}); it last said: {last}") from error
    except initrd.KernelFormatError as error:
        raise ImageError(f"Debian's kernel cannot be booted directly: {error}") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ImageError(f"no space left under {home}: free some, or set LBCTL_HOME") from error
        raise ImageError(f"cannot build an image under {home}: {error}") from error


def _check_name(home: Path, name: str) -> None:
    """A name is one plain component, and what stands there is an image or nothing.

    Building replaces a folder. As root, an absolute name would have replaced that of the system:
    `home / "images" / "/etc"` is /etc.
    """
    if not NAME.fullmatch(name):
        raise ImageError(f"{name!r} is not a name for an image: use a-z, 0-9 and -")
    folder = home / "images" / name
    if folder.exists() and not (folder / FACTS).is_file():
        raise ImageError(f"{folder} is there and is no image: move it away, or choose another name")


def explain(error: debian.ToolFailedError) -> str:
    """One line for a tool's failure: the known causes by name, else the last thing it said."""
    tail = error.tail
    if "No space left" in tail or "Could not allocate block" in tail:
        return "no space left while building the image: free some, or set LBCTL_HOME and TMPDIR"
    network = ("Temporary failure resolving", "Could not connect", "Failed to fetch", "Unable to")
    if any(sign in tail for sign in network):
        return "Debian's packages cannot be fetched: check the network and apt's mirror"
    if "newuidmap" in tail or "user namespaces" in tail or "unshare" in tail:
        return (
            "user namespaces are not usable here: run as root, or install uidmap and "
            "give this user a line in /etc/subuid and /etc/subgid"
        )
    said = [line for line in tail.splitlines() if line.strip()]
    blamed = next(
        (line for line in said if line.startswith("E: ")), said[-1] if said else "nothing"
    )
    return f"{error.tool} failed while building the image: {blamed}"


def _current(home: Path, name: str) -> Image | None:
    with contextlib.suppress(ImageError):
        image = load(home, name)
        if is_current(image):
            return image
    return None


def _check_host(home: Path) -> None:
    missing = debian.missing_tools(debian.which, root=os.geteuid() == 0)
    if not debian.KEYRING.exists():
        missing["debian-archive-keyring"] = "debian-archive-keyring"
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise ImageError(f"{', '.join(missing)} not found: apt-get install {packages}")
    try:
        (home / "images").mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
    except OSError as error:
        raise ImageError(f"{home} cannot be used: {error}; set LBCTL_HOME") from error
    if free < NEEDED_BYTES:
        raise ImageError(
            f"{home} has {free / 1e9:.1f} GB free and a build needs {NEEDED_BYTES / 1e9:.1f}: "
            "free some, or set LBCTL_HOME"
        )


@contextlib.contextmanager
def _only_builder(images: Path) -> Iterator[None]:
    """One build at a time; what a killed one left behind goes."""
    with (images / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in images.glob(".*-*/"):
            shutil.rmtree(stale, ignore_errors=True)
        yield


def _make(name: str, work: Path, progress: Progress) -> Path:
    """Build into `work`; the folder that is ready to be placed."""
    out = work / "image"
    out.mkdir()
    packages = "fetching and installing Debian packages"
    archive, tree = work / "debian.tar", work / "tree.tar"
    debian.bootstrap(archive, rootfs.hooks(HERE), lambda done: progress(packages, 0.7 * done))
    progress("making the root file system", 0.7)
    parts = rootfs.compose(archive, tree, HERE)
    archive.unlink()
    rootfs.make_file_system(tree, out / DISK, work)
    progress("making kernel and initrd", 0.85)
    (out / KERNEL).write_bytes(initrd.unpack(initrd.payload(parts.kernel)))
    (out / INITRD).write_bytes(initrd.build(parts.busybox, parts.boot_drivers))
    progress("booting it once", 0.9)
    qemu = debian.which("qemu-system-x86_64") or "qemu-system-x86_64"
    seconds = boottime.measure(qemu, out / DISK, out / KERNEL, out / INITRD, CMDLINE)
    checksum = hashlib.sha256()
    for file in (DISK, KERNEL, INITRD):
        with (out / file).open("rb") as content:
            checksum.update(hashlib.file_digest(content, "sha256").digest())
    image = Image(
        name=name,
        folder=out,
        disk=out / DISK,
        kernel=out / KERNEL,
        initrd=out / INITRD,
        cmdline=CMDLINE,
        checksum=checksum.hexdigest(),
        recipe=recipe(),
        size_bytes=(out / DISK).stat().st_size,
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        boot_parts=seconds,
    )
    (out / FACTS).write_text(json.dumps(to_facts(image), indent=2) + "\n")
    progress("done", 1.0)
    return out


def _place(made: Path, folder: Path) -> None:
    """Put the finished folder where the old one was; guests keep the files that they have open."""
    old = made.with_name("old")
    made.chmod(0o755)
    if folder.exists():
        folder.rename(old)
    made.rename(folder)
