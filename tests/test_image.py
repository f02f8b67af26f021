"""Guest images: the recipe, the folder's layout, the pure parts of kernel, initrd and root.

Building and booting a real one is the end-to-end tests' work.
"""

from __future__ import annotations

import ast
import gzip
import io
import json
import lzma
import re
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest import agent, boottime, debian, image, initrd, rootfs

SYSTEMD = image.HERE / "systemd"


def an_image(home: Path, name: str = "webapp", recipe: str = "") -> image.Image:
    """An image as a build would leave it under `home`, with empty files."""
    folder = home / "images" / name
    folder.mkdir(parents=True)
    made = image.Image(
        name=name,
        folder=folder,
        disk=folder / image.DISK,
        kernel=folder / image.KERNEL,
        initrd=folder / image.INITRD,
        cmdline=image.CMDLINE,
        checksum="c" * 64,
        recipe=recipe or image.recipe(),
        size_bytes=4096,
        built_at="2024-05-06T07:08:09+00:00",
        boot_parts={"kernel": 1.2, "total": 4.9},
    )
    for file in (image.DISK, image.KERNEL, image.INITRD):
        (folder / file).touch()
    (folder / image.FACTS).write_text(json.dumps(image.to_facts(made)))
    return made


def no_progress(_what: str, _done: float) -> None:
    pass


# --- finding images ------------------------------------------------------------------------------


def test_what_was_built_is_found_again(tmp_path: Path) -> None:
    other = an_image(tmp_path, "other")
    webapp = an_image(tmp_path)
    assert image.load(tmp_path, "webapp") == webapp
    assert image.list_images(tmp_path) == [other, webapp]
    assert image.list_images(tmp_path / "empty") == []


def test_home_may_move(tmp_path: Path) -> None:
    an_image(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    assert image.load(tmp_path / "new", "webapp").disk.is_relative_to(tmp_path / "new")


def test_an_image_of_other_sources_is_not_current(tmp_path: Path) -> None:
    made = an_image(tmp_path)
    assert image.is_current(made)
    assert not image.is_current(replace(made, recipe="0" * 64))


def test_a_missing_image_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(image.ImageError, match=r"^no image 'webapp': run `lbctl image build`$"):
        image.load(tmp_path, "webapp")


def spoil_json(folder: Path) -> None:
    (folder / image.FACTS).write_text("{")


def spoil_shape(folder: Path) -> None:
    (folder / image.FACTS).write_text('{"name": "webapp", "boot_parts": []}')


def spoil_list(folder: Path) -> None:
    (folder / image.FACTS).write_text("[]")


def lose_disk(folder: Path) -> None:
    (folder / image.DISK).unlink()


@pytest.mark.parametrize("spoil", [spoil_json, spoil_shape, spoil_list, lose_disk])
def test_a_broken_image_is_one_line_and_listed_no_more(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(an_image(tmp_path).folder)
    with pytest.raises(image.ImageError) as caught:
        image.load(tmp_path, "webapp")
    assert "webapp" in str(caught.value)
    assert str(caught.value).endswith("run `lbctl image build`")
    assert image.list_images(tmp_path) == []


# --- building ------------------------------------------------------------------------------------


def test_a_current_image_is_not_built_again(tmp_path: Path) -> None:
    made = an_image(tmp_path)

    def never(what: str, _done: float) -> None:
        raise AssertionError(what)

    assert image.build("webapp", tmp_path, never) == made


def test_recipe_follows_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "guest"
    shutil.copytree(image.HERE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(image, "HERE", copy)
    seen = {image.recipe()}
    changed = [*copy.glob("*.py"), *(copy / "systemd").iterdir()]
    assert copy / "webapp.py" in changed
    for path in changed:
        path.write_text(path.read_text() + "\n")
        seen.add(image.recipe())
    (copy / "systemd" / "more.service").write_text("[Service]\n")
    seen.add(image.recipe())
    assert len(seen) == len(changed) + 2


def test_missing_tools_name_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "which", lambda tool: None if tool == "mke2fs" else f"/bin/{tool}")
    monkeypatch.setattr(debian, "KEYRING", tmp_path / "none")
    with pytest.raises(image.ImageError) as caught:
        image.build("webapp", tmp_path, no_progress)
    assert str(caught.value) == (
        "mke2fs, debian-archive-keyring not found: apt-get install debian-archive-keyring e2fsprogs"
    )


def test_an_ordinary_user_needs_more_tools() -> None:
    assert debian.missing_tools(lambda _: None, root=True) == debian.TOOLS
    assert debian.missing_tools(lambda _: None, root=False)["newuidmap"] == "uidmap"
    assert debian.missing_tools(lambda tool: tool, root=False) == {}


def test_too_little_space_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "which", lambda tool: tool)
    monkeypatch.setattr(debian, "KEYRING", tmp_path)
    monkeypatch.setattr(image, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(image.ImageError, match=r"GB free and a build needs .*LBCTL_HOME"):
        image.build("webapp", tmp_path, no_progress)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, debian.ToolFailedError("mmdebstrap", "")])
def test_a_build_that_ends_early_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    monkeypatch.setattr(debian, "which", lambda tool: tool)
    monkeypatch.setattr(debian, "KEYRING", tmp_path)
    monkeypatch.setattr(image, "NEEDED_BYTES", 0)
    old = an_image(tmp_path, recipe="of older sources")

    def fail(tar: Path, *_: object) -> None:
        tar.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(debian, "bootstrap", fail)
    with pytest.raises((KeyboardInterrupt, image.ImageError)):
        image.build("webapp", tmp_path, no_progress)
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [".lock", "webapp"]
    assert image.load(tmp_path, "webapp") == old


def test_a_finished_build_takes_the_old_one_s_place(tmp_path: Path) -> None:
    old = an_image(tmp_path, recipe="of older sources").folder
    work = tmp_path / "images" / ".webapp-1"
    work.mkdir()
    made = an_image(work / "new").folder.rename(work / "image")
    image._place(made, old)
    assert image.is_current(image.load(tmp_path, "webapp"))
    assert not made.exists()


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("E: Temporary failure resolving 'deb.debian.org'", "check the network"),
        ("mke2fs: Could not allocate block in ext2 filesystem", "no space left"),
        ("tar: x: Cannot write: No space left on device", "no space left"),
        ("E: invalid idmap: newuidmap missing", "uidmap"),
        ("I: ok\nE: the odd one\nI: later", "mmdebstrap failed .*: E: the odd one$"),
        ("", "nothing"),
    ],
)
def test_a_tool_s_failure_is_explained_in_one_line(said: str, advice: str) -> None:
    line = image.explain(debian.ToolFailedError("mmdebstrap", said))
    assert re.search(advice, line)
    assert "\n" not in line


def test_a_tool_that_fails_is_heard_to_its_end(tmp_path: Path) -> None:
    heard: list[str] = []
    with pytest.raises(debian.ToolFailedError) as caught:
        debian.run(["sh", "-c", "echo one; echo two >&2; exit 3"], heard.append)
    assert heard == ["one", "two"]
    assert caught.value.tail == "one\ntwo"
    with pytest.raises(debian.ToolFailedError, match="no-such-tool"):
        debian.run(["no-such-tool"])


# --- where Debian comes from ---------------------------------------------------------------------

TARGETS = """\
http://mirror.example/debian/|bookworm|main|Debian
http://mirror.example/debian/|bookworm|contrib|Debian
http://mirror.example/security/|bookworm-security|main|Debian
http://other.example/|bookworm|main|Other
"""


def test_a_host_of_the_same_release_lends_its_mirrors() -> None:
    release = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    assert debian.sources(release, TARGETS) == (
        "deb http://mirror.example/debian/ bookworm main",
        "deb http://mirror.example/security/ bookworm-security main",
    )


@pytest.mark.parametrize(
    ("release", "targets"),
    [
        ({"ID": "ubuntu", "VERSION_CODENAME": "noble"}, TARGETS),
        ({"ID": "debian", "VERSION_CODENAME": "trixie"}, TARGETS),
        ({"ID": "debian", "VERSION_CODENAME": "bookworm"}, ""),
        ({}, "nonsense"),
    ],
)
def test_any_other_host_uses_debian_s_own(release: dict[str, str], targets: str) -> None:
    assert debian.sources(release, targets) == debian.DEFAULT_SOURCES


# --- kernel and initrd ---------------------------------------------------------------------------


def elf(*notes: tuple[bytes, int]) -> bytes:
    """A 64-bit ELF file with one note segment."""
    body = b"".join(
        struct.pack("<III", len(owner), 4, kind)
        + owner.ljust(-len(owner) % 4 + len(owner), b"\0")
        + b"data"
        for owner, kind in notes
    )
    header = b"\x7fELF\x02".ljust(32, b"\0") + struct.pack("<Q", 64)
    header = header.ljust(54, b"\0") + struct.pack("<HH", 56, 1)
    return (
        header.ljust(64, b"\0")
        + struct.pack("<IIQQQQ", 4, 0, 120, 0, 0, len(body)).ljust(56, b"\0")
        + body
    )


def bzimage(packed: bytes, size: int) -> bytes:
    """A kernel image around `packed`, as the boot protocol lays it out."""
    head = bytearray(2 * 512 + 16)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 16, len(packed) + 4)
    return bytes(head) + packed + struct.pack("<I", size)


PVH = elf((b"GNU\0", 3), (b"Xen\0", 18))


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_the_kernel_is_unpacked(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(PVH)
    if pack is gzip.compress:  # gzip ends with the size by itself, and the build adds none
        packed = packed[:-4]
    assert initrd.unpack(initrd.payload(bzimage(packed, len(PVH)))) == PVH


def test_a_kernel_that_cannot_be_started_directly_is_refused() -> None:
    for kernel in (elf((b"Xen\0", 17)), elf((b"GNU\0", 18)), elf(), b"MZ"):
        assert not initrd.has_pvh_entry(kernel)
    plain = elf((b"GNU\0", 3))
    with pytest.raises(initrd.KernelFormatError, match="PVH"):
        initrd.unpack(initrd.payload(bzimage(lzma.compress(plain), len(plain))))
    with pytest.raises(initrd.KernelFormatError, match="instead of"):
        initrd.unpack(initrd.payload(bzimage(lzma.compress(PVH), len(PVH) + 1)))
    with pytest.raises(initrd.KernelFormatError, match="compression"):
        initrd.payload(bzimage(b"????", 4))
    with pytest.raises(initrd.KernelFormatError, match="not a Linux kernel"):
        initrd.payload(b"\0" * 4096)


DEP = """\
kernel/virtio.ko:
kernel/ring.ko: kernel/virtio.ko
kernel/virtio-net.ko.xz: kernel/failover.ko kernel/ring.ko kernel/virtio.ko
kernel/failover.ko:
kernel/blk.ko: kernel/ring.ko kernel/virtio.ko
"""


def test_drivers_load_after_what_they_need() -> None:
    order = initrd.load_order(DEP, ["blk", "virtio_net", "built_in"])
    assert order == [
        "kernel/virtio.ko",
        "kernel/ring.ko",
        "kernel/blk.ko",
        "kernel/failover.ko",
        "kernel/virtio-net.ko.xz",
    ]


@given(st.permutations(["blk", "virtio_net", "failover", "ring"]))
def test_in_whatever_order_they_are_wanted(names: list[str]) -> None:
    order = initrd.load_order(DEP, names)
    needs = {line.split(":")[0]: line.split(":")[1].split() for line in DEP.splitlines()}
    assert len(order) == len(set(order)) == 5
    for place, path in enumerate(order):
        assert set(needs[path]) <= set(order[:place])


def read_cpio(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Name → (mode, content) of a newc archive."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 109 + name_size].decode()
        at = (at + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[at : at + size])
        at = (at + size + 3) // 4 * 4


@given(
    st.dictionaries(
        st.text("abcdef/-.", min_size=1, max_size=9), st.none() | st.binary(max_size=9), max_size=5
    )
)
def test_cpio_holds_what_was_put_in(files: dict[str, bytes | None]) -> None:
    found = read_cpio(initrd.cpio(files))
    assert {name: data for name, (_, data) in found.items()} == {
        name: data or b"" for name, data in files.items()
    }
    assert all((found[name][0] == 0o040755) == (data is None) for name, data in files.items())


def test_the_initrd_loads_plain_drivers_in_order() -> None:
    packed = lzma.compress(b"second")
    drivers = {"kernel/a-one.ko": b"first", "kernel/b.ko.xz": packed}
    found = read_cpio(initrd.build(b"BUSYBOX", drivers))
    names = sorted(name for name in found if name.startswith("drivers/"))
    assert names == ["drivers/00-a_one.ko", "drivers/01-b.ko"]
    assert [found[name][1] for name in names] == [b"first", b"second"]
    assert found["init"] == (0o100755, initrd.INIT.encode())
    assert found["busybox"] == (0o100755, b"BUSYBOX")


# --- the root file system ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("usr/bin/python3.11", False),
        ("usr/bin/busybox", False),
        ("usr/lib/systemd/systemd", False),
        ("usr/lib/systemd/systemd-shutdown", False),
        ("usr/lib/systemd/system/poweroff.target", False),
        ("usr/lib/systemd/system/systemd-poweroff.service", False),
        ("usr/lib/systemd/system/getty@.service", True),
        ("usr/lib/systemd/system/poweroff.target.wants", True),
        ("usr/lib/x86_64-linux-gnu/libc.so.6", False),
        ("etc/passwd", False),
        ("proc", False),
        ("var/lib/apt/lists/x", True),
        ("usr/share/doc/bash/README", True),
        ("usr/lib/modules/6.1.0/kernel/fs/nfs.ko", True),
        ("boot/vmlinuz-6.1.0", True),
    ],
)
def test_what_a_replica_never_reads_is_left_out(path: str, out: bool) -> None:
    assert rootfs.left_out(path) is out


def test_the_tree_is_composed(tmp_path: Path) -> None:
    modules = "usr/lib/modules/6.1/"
    drivers = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "evdev", "button")
    dep = "".join(f"{name}.ko:\n" for name in drivers)
    needing = dep.replace("virtio_console.ko:", "virtio_console.ko: virtio_net.ko")
    given_files = {
        "./boot/vmlinuz-6.1": b"KERNEL",
        "./usr/bin/busybox": b"BUSYBOX",
        "./etc/machine-id": b"0123",
        "./etc/passwd": b"root",
        f"./{modules}modules.dep": needing.encode(),
        f"./{modules}nfs.ko": b"nfs",
        **{f"./{modules}{line.rstrip(':')}": line.encode() for line in dep.split()},
    }
    with tarfile.open(tmp_path / "debian.tar", "w") as archive:
        for name, data in given_files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.uid = len(data), 7
            archive.addfile(entry, io.BytesIO(data))
        device = tarfile.TarInfo("./dev/null")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    parts = rootfs.compose(tmp_path / "debian.tar", tmp_path / "tree.tar", image.HERE)
    assert (parts.kernel, parts.busybox) == (b"KERNEL", b"BUSYBOX")
    assert list(parts.boot_drivers) == ["virtio_pci.ko", "virtio_blk.ko", "virtio_net.ko"]
    with tarfile.open(tmp_path / "tree.tar") as tree:
        names = tree.getnames()
        assert len(names) == len(set(names))
        kept = {name.removeprefix("./") for name in names}
        machine_id = tree.extractfile("etc/machine-id")
        assert machine_id is not None
        assert machine_id.read() == b""
        assert tree.getmember("./etc/passwd").uid == 7
        assert tree.getmember("etc/systemd/system/default.target").linkname == "replica.target"
        for script in ("dhcp", "acpi/PWRF/00000080"):
            assert tree.getmember(f"usr/lib/webapp/{script}").mode & 0o111
    assert {"usr/bin/busybox", "etc/systemd/system/webapp.service"} <= kept
    late = sorted(name.rpartition("/")[2] for name in kept if "/drivers/" in name)
    assert late == ["00-virtio_console.ko", "01-evdev.ko", "02-button.ko"], "none a second time"
    assert not kept & {"dev/null", "boot/vmlinuz-6.1", modules + "nfs.ko"}


def test_the_image_has_every_file_of_ours_that_its_programs_import() -> None:
    """They would find the rest of the package here, and nothing in a guest."""
    for name in rootfs.OURS:
        tree = ast.parse((image.HERE / name).read_text())
        imported = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        for module in {place.rpartition(".")[0] for place in imported if "guest." in place}:
            file = module.replace("guest.", "") + ".py"
            assert rootfs.OURS[file] == f"{rootfs.APP_FOLDER}/guest", f"{name} imports {module}"
    hooks = "\n".join(rootfs.hooks(image.HERE))
    for name, folder in rootfs.OURS.items():
        assert f"copy-in {image.HERE / name} /{folder}\n" in hooks
        assert hooks.index(f"/{name} ") < hooks.index("compileall"), "compiled in the image"
    search = re.search(r"PYTHONPATH=(.+)", (SYSTEMD / "webapp.service").read_text())
    assert search is not None
    assert f"/{rootfs.APP_FOLDER}" in search[1].split(":")


def test_the_agent_reaches_the_application_and_what_it_must_change() -> None:
    application = (SYSTEMD / "webapp.service").read_text().splitlines()
    unit = (SYSTEMD / "agent.service").read_text().splitlines()
    name = agent.WAKE_SOCKET.removeprefix("/run/").removesuffix("/wake")
    assert f"RuntimeDirectory={name}" in application
    assert "RuntimeDirectoryMode=0700" in application
    (bounding,) = [line for line in unit if line.startswith("CapabilityBoundingSet=")]
    assert {"CAP_SYS_ADMIN", "CAP_SYS_TIME", "CAP_DAC_OVERRIDE"} == set(
        bounding.partition("=")[2].split()
    )
    assert not [line for line in unit if line.startswith(("ProtectHostname", "ProtectClock"))]
    (after,) = [line for line in unit if line.startswith("After=")]
    assert "webapp.service" in after, "its start would delay the application's"
    assert "power-button.service" in after, "which loads the driver of its port"
    assert "virtio_console" in initrd.LATE_DRIVERS


def test_every_unit_of_the_target_is_there() -> None:
    wants = re.search(r"^Wants=(.+)$", (SYSTEMD / "replica.target").read_text(), re.MULTILINE)
    assert wants is not None
    assert set(wants[1].split()) == {path.name for path in SYSTEMD.glob("*.service")}


def test_the_application_restarts_and_is_nobody_special() -> None:
    unit = (SYSTEMD / "webapp.service").read_text().splitlines()
    assert "Restart=always" in unit
    assert "User=webapp" in unit
    assert any(hook.endswith(" webapp") and "useradd" in hook for hook in rootfs.hooks(image.HERE))


def test_the_application_is_confined() -> None:
    answer = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--threshold=30",  # tenths: the exposure must be 3.0 or less
            "--no-pager",
            str(SYSTEMD / "webapp.service"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Overall exposure level" in answer.stdout
    assert answer.returncode == 0, answer.stdout.splitlines()[-1]


# --- the self-check ------------------------------------------------------------------------------


def test_the_boot_s_parts_add_up() -> None:
    timeline = boottime.Timeline()
    timeline.hear("initrd: loading dri", 1.0)
    timeline.hear("vers\r\ninitrd: starting systemd\r\n[ 2.1] noise\r\n", 1.5)
    assert timeline.seen == {"kernel": 1.5, "initrd": 1.5}
    timeline.hear("webapp ready 4.0 s after kernel start, 2.25 s after its own, r listens\n", 4.5)
    assert timeline.parts(4.6) == {
        "kernel": 1.5,
        "initrd": 0.0,
        "systemd": 0.75,
        "app": 2.25,
        "total": 4.6,
    }


def test_the_application_s_line_is_the_one_the_self_check_reads() -> None:
    assert "s after its own" in (image.HERE / "webapp.py").read_text()
    for part in ("kernel", "initrd"):
        assert boottime.MARKS[part].search(initrd.INIT)


def test_a_guest_that_stops_is_reported_with_its_last_words(tmp_path: Path) -> None:
    fake = tmp_path / "qemu"
    fake.write_text("#!/bin/sh\necho 'initrd: loading drivers'\necho 'Kernel panic'\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(boottime.BootError) as caught:
        boottime.measure(str(fake), tmp_path, tmp_path, tmp_path, "quiet", limit=20)
    assert str(caught.value) == "QEMU ended with 1"
    assert caught.value.console.splitlines()[-1] == "Kernel panic"


def test_a_guest_that_hangs_is_ended(tmp_path: Path) -> None:
    fake = tmp_path / "qemu"
    fake.write_text("#!/bin/sh\necho 'initrd: loading drivers'\nexec sleep 600\n")
    fake.chmod(0o755)
    with pytest.raises(boottime.BootError, match="not ready after"):
        boottime.measure(str(fake), tmp_path, tmp_path, tmp_path, "quiet", limit=0.5)


@pytest.mark.parametrize("form", ["{outside}", "../outside", "a/b", "", ".", "A"])
def test_only_a_plain_name_is_built_and_nothing_else_is_touched(tmp_path: Path, form: str) -> None:
    """An absolute name once replaced the folder it named."""
    outside = tmp_path / "home" / "outside"
    outside.mkdir(parents=True)
    (outside / "kept").write_text("mine")
    with pytest.raises(image.ImageError, match="is not a name for an image"):
        image.build(form.format(outside=outside), tmp_path / "home", no_progress)
    assert (outside / "kept").read_text() == "mine"


def test_a_folder_that_is_no_image_is_never_replaced(tmp_path: Path) -> None:
    there = tmp_path / "images" / "webapp"
    there.mkdir(parents=True)
    (there / "kept").write_text("mine")
    with pytest.raises(image.ImageError, match="is no image: move it away"):
        image.build("webapp", tmp_path, no_progress)
    assert (there / "kept").read_text() == "mine"
