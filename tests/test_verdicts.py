"""libvirt's errors, told apart."""

from __future__ import annotations

import errno

import libvirt
import pytest

from autoscale.host import (
    DiskFull,
    DomainRefused,
    ImageLost,
    ImageUnavailable,
    NoMemory,
    NoPort,
)
from autoscale.verdicts import (
    LEAST_FREE_BYTES,
    Code,
    Origin,
    cannot_limit,
    in_one_line,
    is_creation_lost,
    is_lost,
    is_shortage,
    own_refusal,
    refusal,
)


def test_the_numbers_are_the_librarys() -> None:
    assert {c.name: c.value for c in Code} == {
        c.name: getattr(libvirt, f"VIR_ERR_{c.name}") for c in Code
    }
    assert {o.name: o.value for o in Origin} == {
        o.name: getattr(libvirt, f"VIR_FROM_{o.name}") for o in Origin
    }


@pytest.mark.parametrize("code", [Code.NO_CONNECT, Code.INVALID_CONN, Code.RPC, Code.SYSTEM_ERROR])
def test_a_lost_connection(code: Code) -> None:
    assert is_lost(code)
    assert is_creation_lost(code, Origin.RPC, alive=True)


def test_a_hosts_own_system_error_refuses_the_creation() -> None:
    """ "cannot allocate memory" of a remote QEMU is no lost host: the domain does not exist."""
    assert not is_creation_lost(Code.SYSTEM_ERROR, libvirt.VIR_FROM_QEMU, alive=True)
    assert is_creation_lost(Code.SYSTEM_ERROR, libvirt.VIR_FROM_QEMU, alive=False)
    assert not is_creation_lost(Code.NO_SUPPORT, Origin.RPC, alive=True)
    assert not is_lost(libvirt.VIR_ERR_INTERNAL_ERROR)


@pytest.mark.parametrize(
    ("code", "message", "never"),
    [
        (Code.NO_SUPPORT, "this function is not supported by the connection driver", True),
        (Code.OPERATION_UNSUPPORTED, "CPU tuning is not available in session mode", True),
        (55, "Requested operation is not valid: cgroup CPU controller is not mounted", True),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "cannot acquire state change lock (timeout)", False),
        (libvirt.VIR_ERR_OPERATION_INVALID, "domain is not running", False),
        (Code.SYSTEM_ERROR, "Unable to write to 'cpu.max': Device or resource busy", False),
    ],
)
def test_what_can_never_be_limited_and_what_could_not_this_time(
    code: int, message: str, never: bool
) -> None:
    assert cannot_limit(code, message) is never


# --- what a host lacks. The words are of libvirt 9.0 and QEMU 7.2, as they came

FILES = ("/images/kernel", "/images/initrd", "/images/root.img")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("internal error: qemu unexpectedly closed the monitor: qemu-system-x86_64: cannot set up"
         " guest memory 'pc.ram': Cannot allocate memory", NoMemory),
        ("cannot fork child process: Cannot allocate memory", NoMemory),
        ("out of memory", NoMemory),
        ("Cannot create directory '/var/lib/libvirt/qemu/domain-11-web': No space left on device",
         DiskFull),
        ("Unable to write to '/images/root.img': No space left on device", DiskFull),
        ("qemu-system-x86_64: -netdev user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:60113-:8080:"
         " Could not set up host forwarding rule 'tcp:127.0.0.1:60113-:8080'", NoPort),
        ("qemu: could not open kernel file '/images/kernel': No such file or directory", ImageLost),
        ("qemu: error reading initrd /images/initrd: Failed to open file “/images/initrd”: open()"
         " failed: No such file or directory", ImageLost),
        ("Cannot access storage file '/images/root.img': No such file or directory", ImageLost),
        ("Could not open '/images/root.img': Permission denied", ImageLost),
        ("Cannot find QEMU binary /usr/bin/qemu-system-x86_64: No such file", DomainRefused),
        ("Network not found: no network with matching name 'default'", DomainRefused),
    ],
)  # fmt: skip
def test_what_a_host_lacks_is_told_apart_with_what_to_do(
    message: str, kind: type[DomainRefused]
) -> None:
    found = refusal(message, FILES)
    assert type(found) is kind
    assert str(found) == (f"{message}; {kind.fix}" if kind.fix else message)
    assert isinstance(found, ImageUnavailable) == (kind is ImageLost)


def test_what_our_own_side_lacks_is_told_apart_too() -> None:
    assert isinstance(own_refusal(OSError(errno.ENOSPC, "full"), "a console"), DiskFull)
    assert isinstance(own_refusal(OSError(errno.EADDRINUSE, "taken"), "a port"), NoPort)
    assert isinstance(own_refusal(OSError(errno.ENOMEM, "none"), "a thread"), NoMemory)
    assert own_refusal(OSError(errno.ENOENT, "no such file"), "a console") is None
    assert own_refusal(ValueError("not XML"), "a domain") is None


def test_a_shortage_is_no_reason_to_throw_a_saved_guest_away() -> None:
    assert is_shortage(refusal("cannot set up guest memory 'pc.ram': Cannot allocate memory"))
    assert is_shortage(refusal("No space left on device"))
    assert is_shortage(refusal("Too many open files"))
    assert is_shortage(refusal("internal error: nobody knows", free_bytes=lambda: 0))
    assert not is_shortage(refusal("operation failed: image magic is incorrect"))


def test_libvirts_own_words_of_a_full_disk() -> None:
    """As they came with LBCTL_HOME on a full tmpfs: the C library's are not among them."""
    words = "local refuses web-1: internal error: failed to write master key file for domain 7"
    assert type(refusal(words)) is DiskFull


@pytest.mark.parametrize(
    ("message", "free", "kind"),
    [
        ("internal error: process ended", 4096, DiskFull),
        ("qemu-img ended with exit status 1", 0, DomainRefused),  # neither asked nor to blame
        ("internal error: process ended", LEAST_FREE_BYTES, DomainRefused),
        ("internal error: process ended", None, DomainRefused),
        ("internal error: cannot open /usr/bin/q: Permission denied", 0, DomainRefused),
        ("internal error: Cannot allocate memory", 0, NoMemory),
    ],
)
def test_where_the_words_name_no_cause_the_room_that_is_left_does(
    message: str, free: int | None, kind: type[DomainRefused]
) -> None:
    found = refusal(message, FILES, lambda: free)
    assert type(found) is kind
    assert ("its disk has 4 KiB free" in str(found)) is (kind is DiskFull)


def test_of_a_command_that_failed_its_cause_is_shown_and_not_its_environment() -> None:
    environment = " ".join(f"NAME_{number}=/some/where/(else)" for number in range(20))
    told = in_one_line(
        f"internal error: Child process (LC_ALL=C PATH=/usr/bin:/bin {environment}"
        " /usr/bin/qemu-system-x86_64 -S -no-user-config) unexpected exit status 1:\n"
        " libvirt: error : cannot write\n"
    )
    assert told == (
        "internal error: qemu-system-x86_64 ended with exit status 1: libvirt: error : cannot write"
    )
    assert len(in_one_line("word " * 1000)) == 400
