"""One JSON value in one file of LBCTL_HOME: whoever reads it finds all of one version, or nothing.

For what is good to have after a restart and not worth failing for: a file that cannot be read or
written costs a warning, once. Knows nothing of what the value means. Blocking.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class StateFile:
    """`what` names it in the log, such as "overrides"."""

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what
        self._complained = False

    def read(self) -> Any:
        """The value; None where there is none that can be read. What a killed writer left beside
        it goes: whoever reads is the only one there, and has written nothing yet."""
        with contextlib.suppress(OSError):
            for draft in self._path.parent.glob(f".{self._path.name}-{'[0-9a-f]' * 16}"):
                draft.unlink()
        try:
            return json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            self.complain(f"cannot be read and is ignored: {_why(error)}")
            return None

    def write(self, value: Any) -> None:
        """Put `value` in its place, readable by its owner alone."""
        path = self._path
        draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                with os.fdopen(os.open(draft, flags, 0o600), "w", encoding="utf-8") as file:
                    json.dump(value, file, ensure_ascii=False, allow_nan=False)
                    file.write("\n")
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
        except (OSError, ValueError) as error:
            self.complain(f"cannot be written, so a restart forgets them: {_why(error)}")
        else:
            self._complained = False

    def complain(self, why: str) -> None:
        """Once, until a write has gone well."""
        if not self._complained:
            self._complained = True
            log.warning("%s in %s: %s", self._what, self._path, why)


def _why(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
