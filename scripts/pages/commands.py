"""The commands that a page tells, in its order: those of fenced blocks, and `inline ones`.

A fence without a language, or with bash, is a shell's, and every line of it a command; what is none
says so (text, python, json, yaml). Inline code counts where it begins as one of ours would.
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
    """A fence, or one piece of inline code, and the line of the page where it begins."""

    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Each as words, as a shell would read it: comments gone, lines that go on joined."""
        if self.language not in SHELL:
            return []
        whole = self.text.replace("\\\n", " ")
        told = (shlex.split(line, comments=True) for line in whole.split("\n"))
        return [words for words in told if words]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, from its top to its end."""
    text = page.read_text(encoding="utf-8")
    found = [(match.start(), match["language"], match["body"]) for match in FENCE.finditer(text)]
    prose = FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)  # every place kept
    found += [
        (match.start(), "bash", " ".join(match[1].split()))
        for match in INLINE.finditer(prose.replace("\n", " "))
    ]
    for start, language, body in sorted(found):
        yield Block(text.count("\n", 0, start) + 1, language, body)
