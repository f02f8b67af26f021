"""A small cloud image for tests: Debian with cloud-init on a disk that a BIOS boots, as qcow2.

Owns its recipe and where it is kept. It needs neither root nor a loop device: partition table, boot
loader and file system are put in their places by hand.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import tempfile
from pathlib import Path

from guest import debian

SECTOR = 512
FIRST_SECTOR = 2048
"""Of the partition; the boot loader fits in the megabyte before."""
GRUB = Path("/usr/lib/grub/i386-pc")
TOOLS = {
    "grub-mkimage": "grub-common",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-img": "qemu-utils",
}
SPARE_BYTES = 128 << 20
"""What a guest may write."""

PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "iproute2", "initramfs-tools", "lz4"),
    *("linux-image-cloud-amd64", "python3", "cloud-init"),
)

# Under emulation each module of cloud-init costs a second.
CLOUD = """\
datasource_list: [NoCloud]
users: []
disable_root: false
cloud_init_modules: [set_hostname]
cloud_config_modules: []
cloud_final_modules: [scripts-user]
"""
MENU = """\
set timeout=0
linux /boot/vmlinuz root=/dev/vda1 ro net.ifnames=0 console=ttyS0 quiet panic=-1
initrd /boot/initrd
boot
"""
HOOKS = (
    # before any package, since the kernel's makes the initrd
    'mkdir -p "$1/etc/initramfs-tools/conf.d"; '
    'printf "MODULES=list\\nCOMPRESS=lz4\\nBUSYBOX=n\\n" >"$1/etc/initramfs-tools/conf.d/small"; '
    'printf "virtio_pci\\nvirtio_blk\\n" >"$1/etc/initramfs-tools/modules"',
)
LAST_HOOKS = (
    'chroot "$1" update-initramfs -c -k all',
    'cp "$1"/boot/vmlinuz-* "$1/boot/vmlinuz"; mv "$1"/boot/initrd.img-* "$1/boot/initrd"',
    'mkdir -p "$1/boot/grub"; cat >"$1/boot/grub/grub.cfg" <<"END"\n' + MENU + "END",
    'cat >"$1/etc/cloud/cloud.cfg" <<"END"\n' + CLOUD + "END",
    'chroot "$1" systemctl enable systemd-networkd',
    'chroot "$1" systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer'
    " fstrim.timer dpkg-db-backup.timer systemd-timesyncd.service getty@tty1.service",
    'printf "/dev/vda1 / ext4 rw 0 0\\n" >"$1/etc/fstab"; : >"$1/etc/machine-id"',
    'rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/usr/share/locale/*',
)


def recipe() -> str:
    """Changes with what the image is made from: this file."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def made(home: Path) -> Path:
    """The image, built if there is none of this recipe: some two minutes."""
    folder = home / "test-images"
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / f"cloud-{recipe()}.qcow2"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            missing = {package for tool, package in TOOLS.items() if debian.which(tool) is None}
            missing |= set() if GRUB.is_dir() else {"grub-pc-bin"}
            assert not missing, f"apt-get install {' '.join(sorted(missing))}"
            for old in folder.glob("cloud-*.qcow2"):
                old.unlink()
            with tempfile.TemporaryDirectory(prefix=".cloud-", dir=folder) as work:
                _build(Path(work)).rename(image)
    return image


def _build(work: Path) -> Path:
    tar, system, disk, made = (work / name for name in ("tree.tar", "system", "disk", "qcow2"))
    debian.run(
        [
            *("mmdebstrap", "--mode=auto", "--variant=minbase"),
            *(f"--keyring={debian.KEYRING}", f"--include={','.join(PACKAGES)}"),
            *("--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"),
            '--aptopt=Apt::Install-Recommends "false"',
            *(f"--extract-hook={hook}" for hook in HOOKS),
            *(f"--customize-hook={hook}" for hook in LAST_HOOKS),
            *(debian.SUITE, str(tar), *debian.host_sources()),
        ],
        print,
    )
    _file_system(tar, system, work)
    core = work / "core.img"
    modules = ("biosdisk", "part_msdos", "ext2", "linux", "normal", "configfile")
    debian.run(
        [
            *("grub-mkimage", "-O", "i386-pc", "-o", str(core), "-p", "(hd0,msdos1)/boot/grub"),
            *modules,
        ]
    )
    _disk(system, core.read_bytes(), disk)
    debian.run(["qemu-img", "convert", "-O", "qcow2", str(disk), str(made)])
    with contextlib.suppress(OSError):
        made.chmod(0o644)
    return made


def _file_system(tar: Path, system: Path, work: Path) -> None:
    tree = work / "tree"
    tree.mkdir()
    blocks = (tar.stat().st_size * 11 // 10 + SPARE_BYTES) // 4096
    script = (
        'tar -xpf "$1" -C "$2" --numeric-owner && '
        'mke2fs -q -F -t ext4 -b 4096 -m 0 -O ^has_journal,^metadata_csum -d "$2" "$3" "$4"'
    )
    command = ["sh", "-c", script, "sh", str(tar), str(tree), str(system), str(blocks)]
    debian.run(command if os.geteuid() == 0 else ["fakeroot", "--", *command])


def _disk(system: Path, core: bytes, disk: Path) -> None:
    """Boot loader, partition table with one active Linux partition, file system."""
    assert len(core) <= (FIRST_SECTOR - 1) * SECTOR
    sectors = system.stat().st_size // SECTOR
    partition = struct.pack("<B3sB3sII", 0x80, bytes(3), 0x83, bytes(3), FIRST_SECTOR, sectors)
    first = (GRUB / "boot.img").read_bytes()[:440] + bytes(6) + partition + bytes(48) + b"\x55\xaa"
    with disk.open("wb") as made, system.open("rb") as content:
        made.write(first + core)
        made.seek(FIRST_SECTOR * SECTOR)
        while chunk := content.read(1 << 20):
            made.write(chunk)
