"""Kernel and initrd of a replica: the uncompressed kernel, and the few drivers that find the root.

Pure: bytes in, bytes out, apart from calling a decompressor when the kernel uses one that Python
lacks. It does not know where files lie.
"""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# What stands between the kernel and its root, network included: the driver must be there before
# the DHCP client starts. modules.dep orders what they need. ext4 is built into Debian's kernel.
BOOT_DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net")
# What may come after the application: the agent's channel, the power button.
LATE_DRIVERS = ("virtio_console", "evdev", "button")

INIT = """\
#!/busybox sh
echo "initrd: loading drivers"
/busybox mount -t devtmpfs dev /dev
for driver in /drivers/*; do /busybox insmod $driver; done
/busybox mount -t ext4 -o ro,noload /dev/vda /root || exec /busybox sh -c 'echo "initrd: no root"'
/busybox mount -t tmpfs -o mode=1777,size=64m tmp /root/tmp
/busybox mount -t tmpfs -o mode=755,size=64m var /root/var
/busybox mount --move /dev /root/dev
echo "initrd: starting systemd"
exec /busybox switch_root /root /usr/lib/systemd/systemd
"""

_PVH_ENTRY = 18  # XEN_ELFNOTE_PHYS32_ENTRY
_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x5d\0\0", "lzma"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


class KernelFormatError(Exception):
    """This kernel cannot be booted directly; the message says what it lacks."""


@dataclass(frozen=True)
class Payload:
    """The compressed kernel inside a bzImage."""

    method: str
    data: bytes
    size: int  # of the kernel it unpacks to


def payload(bzimage: bytes) -> Payload:
    """Find the compressed kernel by the boot header (Documentation/x86/boot.rst, protocol 2.08)."""
    if bzimage[0x202:0x206] != b"HdrS":
        raise KernelFormatError("not a Linux kernel image")
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    data = bzimage[start : start + length]
    for magic, method in _MAGICS:
        if data.startswith(magic):
            # the build appends the unpacked size, because not every format carries it
            size = struct.unpack("<I", data[-4:])[0]
            return Payload(method, data if method == "gzip" else data[:-4], size)
    raise KernelFormatError(f"unknown kernel compression {data[:4].hex()}")


def unpack(packed: Payload) -> bytes:
    """The ELF kernel. Raises KernelFormatError; FileNotFoundError without `lz4` or `zstd`."""
    if packed.method == "gzip":
        kernel = gzip.decompress(packed.data)
    elif packed.method in ("xz", "lzma"):
        kernel = lzma.decompress(packed.data)
    else:
        answer = subprocess.run(  # noqa: S603
            [packed.method, "-d", "-q", "-c"], input=packed.data, capture_output=True, check=False
        )
        # some builds pad after the stream, which the tools call an error after writing it all
        kernel = answer.stdout
    if len(kernel) < packed.size:
        raise KernelFormatError(f"kernel unpacks to {len(kernel)} bytes instead of {packed.size}")
    if not has_pvh_entry(kernel):
        raise KernelFormatError("kernel has no PVH entry point")
    return kernel


def has_pvh_entry(kernel: bytes) -> bool:
    """Does this ELF file carry the note by which QEMU starts it without firmware or unpacking?"""
    if kernel[:5] != b"\x7fELF\x02":
        return False
    table, entry_size, entries = (
        struct.unpack_from("<Q", kernel, 32)[0],
        *struct.unpack_from("<HH", kernel, 54),
    )
    for index in range(entries):
        kind, _, offset, _, _, size = struct.unpack_from(
            "<IIQQQQ", kernel, table + index * entry_size
        )
        if kind == 4 and _note(kernel[offset : offset + size], b"Xen\0", _PVH_ENTRY):
            return True
    return False


def _note(notes: bytes, owner: bytes, wanted: int) -> bool:
    at = 0
    while at + 12 <= len(notes):
        name_size, data_size, kind = struct.unpack_from("<III", notes, at)
        if kind == wanted and notes[at + 12 : at + 12 + name_size] == owner:
            return True
        at += 12 + (name_size + 3) // 4 * 4 + (data_size + 3) // 4 * 4
    return False


def load_order(modules_dep: str, names: Iterable[str]) -> list[str]:
    """Paths of the modules `names` with all they need, each after what it needs (modules.dep(5)).

    Built-in drivers have no line there and need none.
    """
    needs: dict[str, list[str]] = {}
    path_of: dict[str, str] = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        path_of[module_name(path)] = path
    order: list[str] = []

    def add(path: str) -> None:
        # a line lists all it needs, indirect ones too, the outermost first
        for needed in reversed(needs[path]):
            if needed not in order:
                add(needed)
        if path not in order:
            order.append(path)

    for name in names:
        if name in path_of:
            add(path_of[name])
    return order


def module_name(path: str) -> str:
    """The module in file `path`: `kernel/…/virtio-rng.ko.xz` is `virtio_rng`."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def plain_module(path: str, data: bytes) -> bytes:
    """A module as ELF. Debian 12 stores them plain, later releases xz-compressed."""
    return lzma.decompress(data) if path.endswith(".xz") else data


def build(busybox: bytes, drivers: Mapping[str, bytes]) -> bytes:
    """The initrd: busybox, `drivers` (by path, in the order of loading), and the init script."""
    files: dict[str, bytes | None] = dict.fromkeys(("dev", "root", "drivers"))
    for number, (path, module) in enumerate(drivers.items()):
        files[f"drivers/{number:02}-{module_name(path)}.ko"] = plain_module(path, module)
    files["busybox"] = busybox
    files["init"] = INIT.encode()
    return cpio(files)


def cpio(files: Mapping[str, bytes | None]) -> bytes:
    """An uncompressed "newc" archive (initramfs-buffer-format.rst); None is a folder.

    Everything belongs to root, is executable, and has no date: the same input, the same bytes.
    """
    out = bytearray()
    entries = [
        (name, 0o040755, b"") if data is None else (name, 0o100755, data)
        for name, data in files.items()
    ]
    for inode, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")]):
        path = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)
