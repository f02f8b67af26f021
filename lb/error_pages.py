"""The operator's own pages for the answers that we give in a backend's place.

Reads the files when the process starts and when the configuration is read again, never in between:
an answer that says that something is wrong must not depend on a disk. Which answer gets one is the
proxy's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from lb.config import ConfigError

LARGEST_BYTES: Final = 1024 * 1024
"""It is kept in memory and sent to each client that fails: an error must stay cheap."""

_CONTENT_TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".htm": b"text/html; charset=utf-8",
    ".json": b"application/json",
    ".txt": b"text/plain; charset=utf-8",
    ".xml": b"application/xml",
    ".svg": b"image/svg+xml",
}

Page = tuple[bytes, bytes]
"""Content type and body."""


@dataclass(frozen=True, slots=True)
class ErrorPages:
    """One service's pages, by `503`, `5xx` or `default`: the most exact one is shown."""

    _pages: Mapping[str, Page] = field(default_factory=dict)

    @classmethod
    def load(
        cls, files: Mapping[str, str], folder: Path, *, key: str = "service.NAME.error_pages"
    ) -> Self:
        """Read every file; relative paths are below `folder`. Raises ConfigError, which names the
        entry of `key` and the path."""
        return cls(
            {status: _read(folder / name, f"{key}.{status}") for status, name in files.items()}
        )

    def page(self, status: int) -> Page | None:
        """What to answer with this status, None where the operator has nothing to show."""
        pages = self._pages
        return (
            pages.get(str(status)) or pages.get(f"{status // 100}xx") or pages.get("default")
            if pages
            else None
        )


def _read(path: Path, key: str) -> Page:
    try:
        with path.open("rb") as file:
            body = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigError(f"{key}: cannot read {path}: {why}") from error
    if len(body) > LARGEST_BYTES:
        raise ConfigError(
            f"{key}: {path} is larger than {LARGEST_BYTES // 1024} KiB: link to what is large"
        )
    return _CONTENT_TYPES.get(path.suffix.lower(), b"application/octet-stream"), body
