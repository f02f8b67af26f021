"""`lbctl up` before it serves: what it needs and does not find, and how it logs."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import lb.process
from lb.cli import cli
from lb.commands.base import FailedError
from lb.commands.serve import LIBVIRT_LOG, libvirt_or_fail, log_to_stderr


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


def test_a_restart_does_not_wait_for_what_serving_can_do_without() -> None:
    heavy = ("cryptography", "jinja2", "matplotlib", "rich")
    script = f"import sys, lb.cli, lb.process; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_nobody_looks_for_garbage_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def run(*_given: object) -> int:
        seen.append(gc.isenabled())
        return 0

    monkeypatch.setenv(LIBVIRT_LOG, f"4:file:{os.devnull}")
    monkeypatch.setattr(lb.process, "run", run)
    monkeypatch.setattr("lb.commands.serve.log_to_stderr", lambda _level: None)
    assert CliRunner().invoke(cli, ["up"]).exit_code == 0
    assert (seen, gc.isenabled()) == ([False], True)
