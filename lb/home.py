"""Where lbctl keeps its state. Stdlib only: every lbctl command needs this, few need the config."""

from __future__ import annotations

import os
from pathlib import Path


def home_folder() -> Path:
    """`LBCTL_HOME`, else ~/.local/share/lbctl."""
    return Path(os.environ.get("LBCTL_HOME") or "~/.local/share/lbctl").expanduser().absolute()
