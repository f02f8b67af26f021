"""The documentation's pages as a test reads them: fenced blocks, inline code, headings, tables.

Knows enough Markdown for our own pages and no more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)


def blocks(*languages: str, pages: Sequence[Path] = PAGES) -> list[Block]:
    found = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            if match[1] in languages:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(page, line, match[1], match[2]))
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def without_code(page: Path) -> str:
    """The page without any code."""
    return _CODE.sub("", prose(page))


def codes(text: str) -> list[str]:
    """Inline code, as the reader sees it."""
    return [match[2].strip().replace("\\|", "|") for match in _CODE.finditer(text)]


def sections(page: Path) -> dict[str, str]:
    """Text by heading, of any level; a heading's own text ends at the next one."""
    parts = re.split(r"^#+ +(.+)$", prose(page), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    found = []
    for line in text.splitlines():
        if line.startswith("|") and not re.match(r"\|[-:| ]+\|$", line):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found.append([cell.strip() for cell in cells])
    return found[1:]


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    plain = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return plain.replace(" ", "-")


def named(page: Path) -> dict[str, list[str]]:
    """Rows of all tables whose first cell is one or more names in code, by each of these names."""
    found: dict[str, list[str]] = {}
    for text in sections(page).values():
        for row in rows(text):
            found.update(dict.fromkeys(codes(row[0]), row))
    return found
