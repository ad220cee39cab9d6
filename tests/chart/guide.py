"""GUIDE.md, by its parts: sections, and the blocks of commands and files in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "GUIDE.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the title of its section, its language, its text."""

    section: str
    language: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0]


def blocks() -> Iterator[Block]:
    """Yield every block in its order."""
    for title, body in re.findall(r"^##+ (.*?)\n(.*?)(?=^##+ |\Z)", GUIDE.read_text(), re.MULTILINE | re.DOTALL):
        for language, text in _BLOCK.findall(body):
            yield Block(title, language, text)


def commands(section: str) -> str:
    """Return the commands of a section as a script. Raises ValueError when it has none."""
    found = [block.text for block in blocks() if block.section == section and block.language == "sh"]
    if not found:
        raise ValueError(f"GUIDE.md has no commands under {section!r}")
    return "".join(found)
