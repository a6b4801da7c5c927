"""Choices from outside the package: a class in a module of a temporary folder, and its YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.engine.choices import EXTRA_FOLDER


def add_choice(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    family: str,
    name: str,
    source: str,
    settings: str,
) -> None:
    """Write a module `outside_<name>` and the YAML of a choice, and let the choice be found.

    Args:
        monkeypatch: Of the test.
        folder: An empty folder, which is put on the path for imports.
        family: A folder of conf/.
        name: Of the choice.
        source: Of the module.
        settings: The content of the YAML.
    """
    conf = folder / "conf"
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv(EXTRA_FOLDER, str(conf))
    (conf / family).mkdir(parents=True, exist_ok=True)
    (folder / f"outside_{name}.py").write_text(source, encoding="utf-8")
    (conf / family / f"{name}.yaml").write_text(settings, encoding="utf-8")
