"""What a host can do, judged by what its libvirt says."""

from __future__ import annotations

import pytest

from autoscale.abilities import domain_type, no_copies, version_text

OFFERS_KVM = """<capabilities><guest><arch name="x86_64"><domain type="kvm"/></arch></guest>
</capabilities>"""


@pytest.mark.parametrize(
    ("configured", "expanded", "expected"),
    [
        ("auto", '<cpu><feature name="svm"/></cpu>', "kvm"),
        ("auto", "<cpu/>", "qemu"),
        ("auto", "", "qemu"),
        ("kvm", "", "kvm"),
        ("qemu", '<cpu><feature name="svm"/></cpu>', "qemu"),
    ],
)
def test_which_domain_type_and_why(configured: str, expanded: str, expected: str) -> None:
    found, why = domain_type(configured, OFFERS_KVM, expanded)
    assert found == expected
    assert (why == "as configured") == (configured != "auto")


@pytest.mark.parametrize(
    ("is_test", "local_files", "network", "agent_fits", "says"),
    [
        (False, True, "user", True, ""),
        (True, True, "user", True, "test driver"),
        (False, False, "user", True, "another host"),
        (False, True, "bridge:br0", True, "on bridge:br0 its address lies inside"),
        (False, True, "user", False, "LBCTL_HOME"),
    ],
)
def test_why_a_host_starts_no_copies(
    is_test: bool, local_files: bool, network: str, agent_fits: bool, says: str
) -> None:
    found = no_copies(
        is_test=is_test, local_files=local_files, network=network, agent_fits=agent_fits
    )
    assert says in found
    assert bool(says) == bool(found)


def test_a_version_is_written_as_people_do() -> None:
    assert version_text(9_000_000) == "9.0.0"
    assert version_text(11_002_003) == "11.2.3"
