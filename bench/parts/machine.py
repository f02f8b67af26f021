"""Which machine, and which versions, a benchmark's figures come from."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ELSEWHERE = "/usr/sbin:/sbin:/usr/local/sbin"
"""Where Debian keeps servers, and not everybody looks."""


@dataclass(frozen=True, slots=True)
class Machine:
    cpu: str
    cores: int
    kernel: str
    python: str


def this_machine() -> Machine:
    cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
    return Machine(
        cpu=cpu_model(cpuinfo),
        cores=os.cpu_count() or 1,
        kernel=platform.release(),
        python=platform.python_version(),
    )


def cpu_model(cpuinfo: str) -> str:
    """Its name in /proc/cpuinfo; the architecture where that has none."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def program(name: str) -> str:
    """Its path; SystemExit 2 where it is not installed."""
    found = shutil.which(name) or shutil.which(name, path=ELSEWHERE)
    if not found:
        raise SystemExit(f"{name} is not installed: ./run bench installs it, or apt-get install")
    return found


def version_of(name: str, flag: str = "-v") -> str:
    """The first number with dots of what it says of itself, such as 2.6.12."""
    said = subprocess.run(  # noqa: S603 - a program found in the system's folders
        [program(name), flag], capture_output=True, text=True, check=False, timeout=10
    )
    return version_in(said.stdout + said.stderr)


def version_in(text: str) -> str:
    found = re.search(r"\d+\.\d+(?:\.\d+)*", text)
    return found[0] if found else ""
