"""Notebooks made of pages: a cell for each heading, paragraph and Python block, without outputs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.pages.commands import FENCE

ROOT = Path(__file__).parents[2]
PAGES = {ROOT / "docs/python.md": ROOT / "docs/python.ipynb"}


def make_notebook(text: str) -> str:
    """Return a page as a Jupyter notebook, format 4.5: each Python block is a cell of code.

    Args:
        text: of the page, in Markdown.
    """
    cells: list[dict[str, Any]] = []
    for kind, source in _split(text):
        lines = source.strip("\n").splitlines(keepends=True)
        cell = {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}, "source": lines}
        cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    language = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    content = {"cells": cells, "metadata": language, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _split(text: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of each cell."""
    end = 0
    for fence in FENCE.finditer(text):
        if fence["language"] != "python":
            continue
        if prose := text[end : fence.start()].strip():
            yield "markdown", prose
        yield "code", fence["body"]
        end = fence.end()
    if prose := text[end:].strip():
        yield "markdown", prose


def main() -> int:
    """Write the notebook of each page of PAGES."""
    for page, notebook in PAGES.items():
        notebook.write_text(make_notebook(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(notebook.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
