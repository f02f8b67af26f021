"""What a connection's answers become, and which of them may be missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import libvirt
import pytest

from autoscale.hostinfo import EXPAND_FEATURES, Asked, describe

CAPABILITIES = """<capabilities><host><cpu><arch>x86_64</arch><model>qemu64</model></cpu>
<secmodel><model>dac</model></secmodel></host>
<guest><os_type>hvm</os_type><arch name='x86_64'><domain type='qemu'/><domain type='kvm'/></arch>
</guest></capabilities>"""
ASKED = Asked("box", "qemu:///system", "network:default", "auto", False, False, True)


class Conn:
    def __init__(self, cpu: str | None, version: int = 9_000_000) -> None:
        self._cpu = cpu
        self._version = version

    def getCapabilities(self) -> str:  # noqa: N802 - libvirt's names
        return CAPABILITIES

    def baselineCPU(self, _cpus: list[str], flags: int) -> str:  # noqa: N802
        assert flags == EXPAND_FEATURES
        if self._cpu is None:
            raise KeyError("not supported")
        return self._cpu

    def getInfo(self) -> list[Any]:  # noqa: N802
        return ["x86_64", 2048, 4, 2000, 1, 1, 4, 1]

    def getLibVersion(self) -> int:  # noqa: N802
        return self._version


def or_none(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except KeyError:
        return None


def test_the_number_is_libvirts() -> None:
    assert EXPAND_FEATURES == libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES


@pytest.mark.parametrize(
    ("cpu", "kind"),
    [
        ("<cpu><feature name='vmx'/></cpu>", "kvm"),
        ("<cpu><feature name='sse'/></cpu>", "qemu"),
        (None, "qemu"),
    ],
)
def test_kvm_is_believed_with_a_cpu_that_has_it(cpu: str | None, kind: str) -> None:
    said = describe(Conn(cpu), ASKED, or_none)
    assert said.info.domain_type == kind
    assert (said.info.cores, said.info.memory_bytes) == (4, 2 << 30)
    assert (said.info.libvirt_version, said.relabels, said.by_fifo) == ("9.0.0", True, True)
    assert "does not read our files" in said.info.copies


def test_the_test_driver_is_asked_no_more_than_it_knows() -> None:
    said = describe(Conn(None, 11_000_000), replace(ASKED, is_test=True), or_none)
    assert (said.info.domain_type, said.info.cpu_limits) == ("test", False)
    assert not said.by_fifo
