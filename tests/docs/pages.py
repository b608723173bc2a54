"""What the tests of the documentation share: the pages, their headings, their fenced blocks. No program code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^(?P<depth>#{1,6}) (?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of the page that it begins on."""

    language: str
    text: str
    line: int


def markdown_pages() -> list[Path]:
    """Every page that people read: those at the top of the repository, and all below docs/."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        yield Block(match["language"], match["text"], text.count("\n", 0, match.start()) + 1)


def prose(page: Path) -> str:
    """The page without fenced blocks, so that code is not read as Markdown."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def headings(page: Path, depth: int | None = None) -> list[str]:
    """Texts of the headings, of one depth or of all."""
    return [m["text"].strip() for m in _HEADING.finditer(prose(page)) if depth in (None, len(m["depth"]))]


def sections(page: Path, depth: int = 3) -> dict[str, str]:
    """Heading → what stands below it, up to the next heading of any depth."""
    text = prose(page)
    found = list(_HEADING.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)]
    return {
        match["text"].strip(): text[match.end() : end].strip()
        for match, end in zip(found, ends, strict=True)
        if len(match["depth"]) == depth
    }


def anchor(heading: str) -> str:
    """How forges name a heading in a link."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", lambda m: m[1] or "", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
