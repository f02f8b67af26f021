"""`lbctl up` before it serves: what it needs and does not find, and how it logs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lb.commands.base import FailedError
from lb.commands.serve import libvirt_or_fail, log_to_stderr


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            "ImportError('libvirt.so.0: cannot open shared object file', name='libvirtmod')",
            "the Python package libvirtmod cannot be loaded: libvirt.so.0: cannot open shared"
            " object file: run `./run setup`",
        ),
        (
            "ModuleNotFoundError('x', name='libvirt')",
            "the Python package libvirt is missing: run `./run setup`",
        ),
    ],
)
def test_what_serving_needs_and_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: str, said: str
) -> None:
    (tmp_path / "needs_libvirt.py").write_text(f"raise {raised}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FailedError) as caught:
        libvirt_or_fail("needs_libvirt")
    assert str(caught.value) == said


def test_one_line_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        log_to_stderr("info")
        log = logging.getLogger("lb.test")
        log.debug("not shown")
        log.info("two\nlines")
        log.error("failed", exc_info=ValueError("inner"))
    finally:
        root.handlers[:], root.level = before
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("INFO lb.test: two\\nlines")
    assert second.endswith("ERROR lb.test: failed\\nValueError: inner")
