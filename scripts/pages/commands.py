"""The commands of a page in their order: those of fenced blocks, and `inline` commands.

A fence without a language, or with bash, holds shell commands, a command in each line; other fences
name their language (text, python, json, yaml). Inline code is a command if it begins like one of
ours.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^```[ \t]*$", re.M | re.S)
INLINE = re.compile(r"`((?:(?:python -m pipeline|label2box) [^`]+)|(?:\./scripts/\w+(?: [^`]*)?))`")
SHELL = ("", "bash")


@dataclass(frozen=True)
class Block:
    """A fence, or a piece of inline code, and the line of the page where it begins."""

    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command: comments are removed, continued lines joined."""
        if self.language not in SHELL:
            return []
        whole = self.text.replace("\\\n", " ")
        lines = (shlex.split(line, comments=True) for line in whole.split("\n"))
        return [words for words in lines if words]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page, from its top to its end."""
    text = page.read_text(encoding="utf-8")
    starts = [(match.start(), match["language"], match["body"]) for match in FENCE.finditer(text)]
    prose = FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)  # the same length
    starts += [
        (match.start(), "bash", " ".join(match[1].split()))
        for match in INLINE.finditer(prose.replace("\n", " "))
    ]
    for start, language, body in sorted(starts):
        yield Block(text.count("\n", 0, start) + 1, language, body)
