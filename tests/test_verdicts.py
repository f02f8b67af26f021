"""libvirt's errors, told apart."""

from __future__ import annotations

import libvirt
import pytest

from autoscale.verdicts import Code, Origin, cannot_limit, is_creation_lost, is_lost


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
