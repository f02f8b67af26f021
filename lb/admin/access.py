"""How lbctl finds a running `lbctl up` and may give it orders: two small files in LBCTL_HOME.

Owns `token` (the secret that changing calls must show, readable by its owner alone) and `admin.url`
(where the API listens). Knows nothing of HTTP, and light enough for lbctl's start.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

from lb.errors import LbError

_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,128}")


class AccessError(LbError):
    """The state folder cannot hold what lbctl needs to get in."""


def ensure_token(home: Path) -> str:
    """The token, made at the first call. Raises AccessError where the folder cannot be used.

    One that others could have read, or that is not a token, is replaced by a new one.
    """
    try:
        return _ensure_token(home)
    except OSError as error:
        raise AccessError(
            f"the token cannot be kept in {home}: {(error.strerror or str(error)).lower()}:"
            " make it writable, or set LBCTL_HOME"
        ) from error


def _ensure_token(home: Path) -> str:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home / "token"
    known = read_token(home)
    if known is not None and not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return known
    # Written whole under another name, then given its own: whoever reads sees all or nothing.
    draft = home / f".token-{secrets.token_hex(8)}"
    token = secrets.token_urlsafe(32)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            draft.replace(path)
            return token
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            # another process made it first: its token is the token
            return read_token(home) or token
        except OSError:
            draft.replace(path)  # a file system without hard links
        return token
    finally:
        draft.unlink(missing_ok=True)


def read_token(home: Path) -> str | None:
    """The token, None where there is none that this user can read."""
    try:
        text = (home / "token").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if _TOKEN.fullmatch(text) else None


def write_address(home: Path, url: str) -> None:
    """Say where the API listens. Without it lbctl still finds the default address."""
    draft = home / f".admin.url-{secrets.token_hex(8)}"
    try:
        draft.write_text(url + "\n", encoding="ascii")
        draft.replace(home / "admin.url")
    finally:
        draft.unlink(missing_ok=True)


def read_address(home: Path) -> str | None:
    """Where the API was last said to listen. After a kill -9 nobody may be there."""
    try:
        text = (home / "admin.url").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if re.fullmatch(r"https?://[!-~]+", text) else None


def forget_address(home: Path, url: str) -> None:
    """At the end; a successor's entry stays."""
    with contextlib.suppress(OSError):
        if read_address(home) == url:
            (home / "admin.url").unlink(missing_ok=True)
