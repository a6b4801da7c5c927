"""The examples in the docstrings of pipeline/ are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.conftest import ROOT

WITH_EXAMPLES = [
    path for path in sorted((ROOT / "pipeline").rglob("*.py")) if ">>> " in path.read_text()
]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_in_docstrings_are_true(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    results = doctest.testmod(module)  # prints what failed
    assert results.attempted > 0
    assert results.failed == 0


def test_there_are_examples() -> None:
    assert len(WITH_EXAMPLES) >= 6
