"""The format of corrections is found by content; what has none is refused with the choices."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.exporter.cvat import Cvat
from pipeline.exporter.label_studio import LabelStudio
from pipeline.exporter.labelme import Labelme
from pipeline.formats.corrections import READERS, read_corrections
from pipeline.protocols import Exporter
from tests.exporter.subjects import drawn_source, found_boxes

WRITTEN: dict[str, tuple[Exporter, str]] = {
    "label_studio": (LabelStudio(), "tasks.json"),
    "cvat": (Cvat(), "annotations.xml"),
    "labelme": (Labelme(), "."),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_each_format_is_that_of_one_reader(name: str, tmp_path: Path) -> None:
    exporter, file = WRITTEN[name]
    exporter(found_boxes(source=drawn_source()), tmp_path)
    matching = [reader.__name__ for reader in READERS if reader.matches(tmp_path / file)]
    assert [each.rpartition(".")[2] for each in matching] == [name]
    assert read_corrections(tmp_path / file).format == name


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_what_is_no_file_of_a_tool_matches_nothing(reader, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    contents = {"a.json": "[]", "b.json": "{", "c.json": "3", "d.xml": "<", "e.txt": "a", "f": ""}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    for path in tmp_path.iterdir():
        assert not reader.matches(path), path
    assert not reader.matches(tmp_path / "missing.json")


def test_refusals_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing: no such file or folder; expected an export"):
        read_corrections(tmp_path / "missing")
    (tmp_path / "a.zip").touch()
    with pytest.raises(UserError, match=r"a\.zip: an archive; unpack it"):
        read_corrections(tmp_path / "a.zip")
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"a file of no format.*label_studio, cvat.*docs/tools"):
        read_corrections(tmp_path / "a.txt")
