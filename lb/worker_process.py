"""One more process of this program: how it is started, and how its end is said.

It runs `lb.worker` with the same interpreter, in a session of its own, so that Ctrl-C on a terminal
reaches the first process alone. Never runs anything else.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from lb.tally import Tally

_ROOT: Final = Path(__file__).resolve().parent.parent
"""Where our packages are, wherever the process was started."""


async def start(
    end: socket.socket, home: Path, number: int, tally: Tally | None
) -> asyncio.subprocess.Process:
    """Worker `number`, from 0, with `end` of the socket pair for its link. Raises OSError."""
    file = tally.file if tally is not None else -1
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # nothing is imported from the current folder
        "-m",
        "lb.worker",
        str(end.fileno()),
        str(home),
        str(number),
        str(file),
        pass_fds=tuple(one for one in (end.fileno(), file) if one >= 0),
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


def end_in_words(code: int) -> str:
    """Why it is gone, as `returncode` says it."""
    if code >= 0:
        return f"it ended with status {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"
