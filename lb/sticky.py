"""Sticky sessions: a cookie that names a backend, so that only we can have written or can read it.

Owns the cookie. Pure: the secret is the caller's, and so is what becomes of a client whose backend
is gone.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Iterable
from typing import Final

from lb.config_service import StickyConfig
from lb.cookies import cookie_values

_TAG_BYTES: Final = 16
"""Of HMAC-SHA256's 32: to guess one of 2¹²⁸ is hopeless, and a cookie goes with every request."""

_LONGEST: Final = 512
"""Characters of a value. A name has at most 253 and a port."""

_MOST: Final = 4
"""Cookies of our name that are looked at: other domains and paths may have set some beside ours."""


class Sticky:
    """`secret` is random, and stays the same over restarts. Raises ValueError below 16 bytes.

    A value is the name's HMAC tag and the name under a mask that hangs on the tag (the synthetic
    IV of RFC 5297, on HMAC): the tag proves that it is ours, the mask keeps the addresses inside
    the network from whoever reads cookies.
    """

    def __init__(self, secret: bytes, config: StickyConfig) -> None:
        if len(secret) < _TAG_BYTES:
            raise ValueError(f"a secret of {len(secret)} bytes can be guessed")
        self._config = config
        self._cookie = config.cookie.encode("ascii")
        # The cookie's name is in both keys: one service's cookie is nothing to another's.
        self._signing = hmac.digest(secret, b"sign " + self._cookie, "sha256")
        self._masking = hmac.digest(secret, b"mask " + self._cookie, "sha256")

    def backend(self, fields: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The backend that a request's cookie names; None for one without, forged or foreign."""
        for number, value in enumerate(cookie_values(fields, self._cookie)):
            if number == _MOST:
                break
            name = self._name(value)
            if name is not None:
                return name
        return None

    def cookie(self, backend: str, *, https: bool) -> bytes:
        """The value of a Set-Cookie field that brings this client back to `backend`.

        A browser takes `same_site = "none"` over https only.
        """
        config = self._config
        name = backend.encode()
        tag = self._tag(name)
        text = urlsafe_b64encode(tag + self._masked(tag, name)).rstrip(b"=")
        same_site = config.same_site.capitalize().encode()
        value = self._cookie + b"=" + text + b"; Path=/; HttpOnly; SameSite=" + same_site
        if config.max_age:
            value += b"; Max-Age=%d" % max(1, round(config.max_age))
        return value + b"; Secure" if https else value

    def _name(self, value: bytes) -> str | None:
        if len(value) > _LONGEST:
            return None
        try:
            token = urlsafe_b64decode(value + b"=" * (-len(value) % 4))
        except NotBase64:
            return None
        tag, masked = token[:_TAG_BYTES], token[_TAG_BYTES:]
        name = self._masked(tag, masked)
        if not hmac.compare_digest(tag, self._tag(name)):
            return None
        return name.decode()

    def _tag(self, name: bytes) -> bytes:
        return hmac.digest(self._signing, name, "sha256")[:_TAG_BYTES]

    def _masked(self, tag: bytes, text: bytes) -> bytes:
        stream = hashlib.shake_256(self._masking + tag).digest(len(text))
        return bytes(a ^ b for a, b in zip(text, stream, strict=True))
