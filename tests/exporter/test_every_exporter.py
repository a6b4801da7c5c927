"""What holds of every exporter: whole files in its folder alone, also where nothing was found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.engine.choices import build_choices, list_choices
from pipeline.ops.rle import encode_rle
from pipeline.types import Boxes, CocoIds, FoundBoxes, Size

EXPORTERS = list_choices("exporter")
SIZES: list[Size] = [(40, 60), (60, 40), (1, 1)]
IDS = ["val/robin/a b.jpg", "val/Zaunkönig/1.png", "x.webp"]


def boxes_of(position: int, masks: bool) -> Boxes:
    """Of the first image two boxes, of the second one, of the third none."""
    size = SIZES[position]
    corners = [[1.5, 2, 30.25, 20], [0, 0, size[1], size[0]]][: 2 - position]
    found = np.array(corners, np.float32).reshape(-1, 4)
    drawn = [encode_rle(np.ones(size, np.uint8), size) for _ in found] if masks else None
    scores = np.array([0.9, 0.1][: len(found)], np.float32)
    return Boxes(IDS[position], position % 2, found, scores, size, drawn)


def found_boxes(count: int = 3, masks: bool = False) -> FoundBoxes:
    def boxes() -> Iterator[tuple[int, Boxes]]:
        yield from ((position, boxes_of(position, masks)) for position in range(count))

    def sizes() -> Iterator[tuple[int, Size]]:
        yield from enumerate(SIZES[:count])

    return FoundBoxes(
        boxes=boxes, sizes=sizes, ids=IDS[:count], classes=("robin", "Zaunkönig"),
        coco=CocoIds([7, 3, 9][:count], IDS[:count], [10, 20]),
    )  # fmt: skip


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
    name: str, masks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = tmp_path / "current"
    current.mkdir()
    monkeypatch.chdir(current)
    first = write(name, found_boxes(masks=masks), tmp_path / "first")
    assert first
    assert all(first.values()), "an empty file"
    assert not [file for file in first if file.endswith(".tmp")]
    assert write(name, found_boxes(masks=masks), tmp_path / "second") == first
    assert not list(current.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"current", "first", "second"}


@pytest.mark.parametrize("name", EXPORTERS)
def test_nothing_found_can_be_written(name: str, tmp_path: Path) -> None:
    assert write(name, found_boxes(0), tmp_path / "none")


@pytest.mark.parametrize("name", EXPORTERS)
def test_more_boxes_give_other_files(name: str, tmp_path: Path) -> None:
    fewer, more = (write(name, found_boxes(n), tmp_path / str(n)) for n in (1, 2))
    assert fewer != more


@pytest.mark.parametrize("name", EXPORTERS)
def test_files_that_are_there_are_written_anew(name: str, tmp_path: Path) -> None:
    exporter: Any = build_choices("exporter", [name], {})[name]
    first = write(name, found_boxes(), tmp_path / "files")
    for path in (tmp_path / "files").rglob("*.*"):
        path.write_bytes(b"what a killed run left")
    exporter(found_boxes(), tmp_path / "files")
    for file, content in first.items():
        assert (tmp_path / "files" / file).read_bytes() == content
