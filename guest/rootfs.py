"""The root file system of a replica: what is left out of Debian's tree, and what is added.

It decides nothing about where images are kept or whether one is current.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from guest import debian, initrd

APP_FOLDER = "usr/lib/webapp"
PYTHON = "usr/lib/python3/dist-packages"
# Of this package, and the folder each comes to: the application finds its other half as
# `guest.work` there as here.
OURS = {
    "webapp.py": APP_FOLDER,
    "agent.py": APP_FOLDER,
    "__init__.py": f"{APP_FOLDER}/guest",
    "work.py": f"{APP_FOLDER}/guest",
}
REPLACED = {"etc/machine-id", "etc/systemd/system/default.target"}
WANTED_DRIVERS = {
    *initrd.BOOT_DRIVERS,
    *initrd.LATE_DRIVERS,
    *("virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev"),
    *("failover", "net_failover"),
}

# Never read by a replica: 404 MB become 139.
LEFT_OUT = re.compile(
    r"""
      (boot|dev|proc|sys|run|tmp|media|mnt|srv|opt|home|usr/(games|include|src))/.+
    | var/(cache|lib|log|backups)/.+
    | usr/share/(doc|doc-base|man|info|locale|i18n|lintian|bash-completion|zsh|common-licenses
        |initramfs-tools|bug|perl5|perl|gcc|gdb|menu|pixmaps|icons|applications|zoneinfo|keyrings
        |mime|hwdata|polkit-1|dpkg|debconf|base-passwd|tabset|terminfo)(/.+)?
    | usr/lib/modules/.+
    | usr/lib/systemd/(system-generators|user-generators|catalog|user|user-preset)(/.+)?
    | usr/lib/systemd/system/(?!(poweroff|reboot|halt|shutdown|umount|final)\.target$
        |systemd-(poweroff|reboot|halt)\.service$).+
    | usr/lib/udev/.+
    | usr/lib/(apt|dpkg|init|initramfs-tools|linux-image[^/]*|klibc)(/.+)?
    | usr/lib/x86_64-linux-gnu/(perl|perl-base|gconv|engines-3|security)(/.+)?
    | usr/bin/(perl.*|dpkg.*|apt.*|deb.*|localedef|gpgv)
    | etc/(apt|initramfs-tools|kernel|logrotate.d|cron[^/]*|udev)(/.+)?
    """,
    re.VERBOSE,
)


def left_out(path: str) -> bool:
    """Is this path of Debian's tree (without leading slash) kept out of the image?"""
    return LEFT_OUT.fullmatch(path) is not None


def add_file(tar: tarfile.TarFile, path: str, data: bytes, mode: int = 0o644) -> None:
    """Put a file of root's into the tree."""
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


DHCP_SCRIPT = """\
#!/usr/bin/busybox sh
# Called by udhcpc with what the lease says.
ip() { /usr/bin/busybox ip "$@"; }
case "$1" in
deconfig) ip link set "$interface" up ;;
bound | renew)
    ip addr replace "$ip/$mask" dev "$interface"
    for gateway in $router; do ip route replace default via "$gateway" && break; done
    ;;
esac
"""
# SIGRTMIN+4 (34 + 4; busybox knows no such name) tells systemd(1) to start poweroff.target.
POWER_BUTTON_SCRIPT = "#!/usr/bin/busybox sh\nkill -38 1\n"


@dataclass(frozen=True)
class BootParts:
    """What of Debian's tree the kernel and the initrd are made from."""

    kernel: bytes
    busybox: bytes
    boot_drivers: Mapping[str, bytes]  # by path, in load order


def hooks(sources: Path) -> list[str]:
    """What mmdebstrap does in the tree: it has the guest's own Python and account tools there."""
    return [
        f'mkdir -p "$1/{APP_FOLDER}/guest"',
        *(f"copy-in {shlex.quote(str(sources / name))} /{to}" for name, to in OURS.items()),
        # compiled here, because the root is read-only and compiling at each start would delay it
        f'chroot "$1" python3 -m compileall -q -b /{APP_FOLDER}/webapp.py /{APP_FOLDER}/agent.py',
        f'chroot "$1" python3 -m compileall -q /{APP_FOLDER}/guest',
        # The package's face imports the HTTP client, of which a replica has no use: 0.2 s of boot.
        f'sed -i -n "/^__version__ /p" "$1/{PYTHON}/aiohttp/__init__.py"',
        f'chroot "$1" python3 -m compileall -q /{PYTHON}/aiohttp/__init__.py',
        'chroot "$1" useradd --system --no-create-home --shell /usr/sbin/nologin webapp',
    ]


def compose(archive: Path, tree: Path, sources: Path) -> BootParts:
    """Copy Debian's tree from one tar to another, without LEFT_OUT and with our files."""
    kernel, modules_dep = b"", ""
    modules: dict[str, bytes] = {}
    busybox = b""
    with tarfile.open(archive) as given, tarfile.open(tree, "w", format=tarfile.GNU_FORMAT) as made:
        for entry in given:
            path = entry.name.removeprefix("./").rstrip("/")
            data = given.extractfile(entry) if entry.isfile() else None
            if data is not None and re.fullmatch(r"boot/vmlinuz-.+", path):
                kernel = data.read()
            elif data is not None and path.startswith("usr/lib/modules/"):
                inside = path.split("/", 4)[-1]  # below the kernel's release
                if inside == "modules.dep":
                    modules_dep = data.read().decode()
                elif initrd.module_name(inside) in WANTED_DRIVERS:
                    modules[inside] = data.read()
            if data is not None and path == "usr/bin/busybox":
                busybox = data.read()
                data.seek(0)
            if not left_out(path) and not entry.isdev() and path not in REPLACED:
                made.addfile(entry, data)
        boot = initrd.load_order(modules_dep, initrd.BOOT_DRIVERS)
        late = initrd.load_order(modules_dep, initrd.LATE_DRIVERS)
        _add_ours(made, sources, {path: modules[path] for path in late if path not in boot})
    return BootParts(kernel, busybox, {path: modules[path] for path in boot})


def _add_ours(made: tarfile.TarFile, sources: Path, late: Mapping[str, bytes]) -> None:
    for unit in sorted((sources / "systemd").iterdir()):
        add_file(made, f"etc/systemd/system/{unit.name}", unit.read_bytes())
    # there is no journal: the console is the log, and only the application writes to it
    quiet = b"[Manager]\nDefaultStandardOutput=null\n"
    add_file(made, "etc/systemd/system.conf.d/replica.conf", quiet)
    link = tarfile.TarInfo("etc/systemd/system/default.target")
    link.type, link.linkname = tarfile.SYMTYPE, "replica.target"
    made.addfile(link)
    # empty: every guest makes its own, or they would share a DHCP identity
    add_file(made, "etc/machine-id", b"")
    add_file(made, f"{APP_FOLDER}/dhcp", DHCP_SCRIPT.encode(), 0o755)
    add_file(made, f"{APP_FOLDER}/acpi/PWRF/00000080", POWER_BUTTON_SCRIPT.encode(), 0o755)
    for number, (path, module) in enumerate(late.items()):
        name = f"{number:02}-{initrd.module_name(path)}.ko"
        add_file(made, f"{APP_FOLDER}/drivers/{name}", initrd.plain_module(path, module))


def make_file_system(tar: Path, image: Path, work: Path) -> None:
    """An ext4 image just large enough for what is in `tar`, with the owners that `tar` gives."""
    tree = work / "tree"
    tree.mkdir()
    with tarfile.open(tar) as entries:
        content = sum((entry.size + 4095) // 4096 * 4096 + 512 for entry in entries)
    blocks = int(content * 1.06 / 4096) + 2048  # inode tables, bitmaps and folders: 4 to 5 %
    script = (
        'tar -xpf "$1" -C "$2" --numeric-owner && '
        'mke2fs -q -F -t ext4 -b 4096 -m 0 -O ^has_journal,^resize_inode -d "$2" "$3" "$4"'
    )
    command = ["sh", "-c", script, "sh", str(tar), str(tree), str(image), str(blocks)]
    debian.run(command if os.geteuid() == 0 else ["fakeroot", "--", *command])
    shutil.rmtree(tree)
