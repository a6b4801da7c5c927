"""Small files are replaced as a whole, and nothing is left where that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.formats.text_files import replace_text


def test_a_file_is_replaced_and_its_links_keep_their_content(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    replace_text(path, "old")
    os.link(path, tmp_path / "link.xml")
    replace_text(path, "Zaunkönig")
    assert path.read_bytes() == "Zaunkönig".encode()
    assert (tmp_path / "link.xml").read_text() == "old"
    assert {file.name for file in tmp_path.iterdir()} == {"a.xml", "link.xml"}


def test_a_failure_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.xml"
    replace_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        replace_text(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.xml"]
