"""The operator's pages: which one is shown, and what is said of a file that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lb.config import ConfigError, parse_config
from lb.error_pages import LARGEST_BYTES, ErrorPages


def test_the_most_exact_page_is_shown(tmp_path: Path) -> None:
    (tmp_path / "busy.html").write_bytes(b"<p>busy")
    (tmp_path / "ours.JSON").write_bytes(b"{}")
    (tmp_path / "rest").write_bytes(b"\0")
    pages = ErrorPages.load(
        {"503": "busy.html", "5xx": str(tmp_path / "ours.JSON"), "default": "rest"}, tmp_path
    )
    assert pages.page(503) == (b"text/html; charset=utf-8", b"<p>busy")
    assert pages.page(502) == (b"application/json", b"{}")
    assert pages.page(404) == (b"application/octet-stream", b"\0")
    (tmp_path / "busy.html").unlink()
    assert pages.page(503) == (b"text/html; charset=utf-8", b"<p>busy"), "no disk at the time"


def test_without_a_page_for_it_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ä")
    assert ErrorPages().page(503) is None
    pages = ErrorPages.load({"4xx": "a.txt"}, tmp_path)
    assert pages.page(503) is None
    assert pages.page(431) == (b"text/plain; charset=utf-8", "ä".encode())


def test_an_empty_file_is_a_page(tmp_path: Path) -> None:
    (tmp_path / "empty.html").touch()
    assert ErrorPages.load({"default": "empty.html"}, tmp_path).page(500) == (
        b"text/html; charset=utf-8",
        b"",
    )


def test_a_file_that_cannot_be_read_names_key_and_path(tmp_path: Path) -> None:
    key = "service.web.error_pages"
    with pytest.raises(ConfigError) as caught:
        ErrorPages.load({"503": "no.html"}, tmp_path, key=key)
    assert str(caught.value) == (
        f"{key}.503: cannot read {tmp_path}/no.html: no such file or directory"
    )
    with pytest.raises(ConfigError, match=r"5xx: cannot read .*: is a directory"):
        ErrorPages.load({"5xx": "."}, tmp_path, key=key)


def test_a_page_is_no_download(tmp_path: Path) -> None:
    (tmp_path / "large.html").write_bytes(b"x" * LARGEST_BYTES)
    assert ErrorPages.load({"503": "large.html"}, tmp_path).page(503) is not None
    (tmp_path / "large.html").write_bytes(b"x" * (LARGEST_BYTES + 1))
    with pytest.raises(ConfigError, match=r"large\.html is larger than 1024 KiB"):
        ErrorPages.load({"503": "large.html"}, tmp_path)


@pytest.mark.parametrize("key", ["200", "6xx", "50", "5XX", "", "error"])
def test_what_a_page_cannot_be_for(key: str) -> None:
    data: Any = {"service": {"web": {"error_pages": {key: "a.html"}}}}
    with pytest.raises(ConfigError, match="error_pages"):
        parse_config(data)
