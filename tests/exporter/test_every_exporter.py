"""What holds of every exporter: whole files in its folder alone, also where nothing was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.choices import build_choices, list_choices
from pipeline.types import FoundBoxes
from tests.exporter.subjects import drawn_source, found_boxes, image_source, write_images

EXPORTERS = list_choices("exporter")


@pytest.fixture
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FoundBoxes]:
    """Boxes in images that are files."""
    root = tmp_path_factory.mktemp("images")
    write_images(root)

    def make(count: int = 4, masks: bool = False) -> FoundBoxes:
        return found_boxes(count, masks, image_source(root))

    return make


def write(name: str, found: FoundBoxes, folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    exporter: Any = build_choices("exporter", [name], {})[name]
    exporter(found, folder)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("name", EXPORTERS)
def test_files_lie_in_the_folder_alone_and_are_the_same_again(
    name: str, masks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    found: Callable[..., FoundBoxes],
) -> None:  # fmt: skip
    current = tmp_path / "current"
    current.mkdir()
    monkeypatch.chdir(current)
    first = write(name, found(masks=masks), tmp_path / "first")
    assert first
    assert not [file for file in first if file.endswith(".tmp")]
    assert write(name, found(masks=masks), tmp_path / "second") == first
    assert not list(current.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"current", "first", "second"}


@pytest.mark.parametrize("name", EXPORTERS)
def test_nothing_found_can_be_written(name: str, tmp_path: Path) -> None:
    assert write(name, found_boxes(0), tmp_path / "none")


@pytest.mark.parametrize("name", EXPORTERS)
def test_images_that_are_no_files_can_be_written(name: str, tmp_path: Path) -> None:
    assert write(name, found_boxes(source=drawn_source()), tmp_path / "drawn")


@pytest.mark.parametrize("name", EXPORTERS)
def test_more_boxes_give_other_files(
    name: str, tmp_path: Path, found: Callable[..., FoundBoxes]
) -> None:
    fewer, more = (write(name, found(n), tmp_path / str(n)) for n in (1, 2))
    assert fewer != more


@pytest.mark.parametrize("name", EXPORTERS)
def test_files_that_are_there_are_written_anew(
    name: str, tmp_path: Path, found: Callable[..., FoundBoxes]
) -> None:
    exporter: Any = build_choices("exporter", [name], {})[name]
    first = write(name, found(), tmp_path / "files")
    for path in (tmp_path / "files").rglob("*.*"):
        path.unlink()
        path.write_bytes(b"what a killed run left")
    exporter(found(), tmp_path / "files")
    for file, content in first.items():
        assert (tmp_path / "files" / file).read_bytes() == content
