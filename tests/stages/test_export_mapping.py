"""What exporters do with single images: the same files in threads, and in workers of a runner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.engine import runtime, spread_items
from pipeline.engine.choices import build_choices, list_choices
from pipeline.engine.spreading import Spread, spread_shards
from pipeline.stages.export.mapping import map_images
from tests.engine.shuffled import Shuffled
from tests.exporter.subjects import drawn_source, found_boxes, image_source, write_images

pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")

EXPORTERS = list_choices("exporter")
WITH_FILES = {"labelme", "voc", "yolo"}  # a file for each image, whatever is asked for
OPTIONS: tuple[dict[str, Any], ...] = (
    {"images": "link", "outlines": "rle"},
    {"images": "copy", "outlines": "polygon", "upright": True},
    {"images": "none", "outlines": "rle", "image_paths": "embed"},
)
WITH_MASKS = {
    "rle": {"cvat", "fiftyone", "label_studio", "labelme"},
    "polygon": {"coco", "cvat", "fiftyone", "label_studio", "labelme", "yolo"},
}
"""The formats in which a mask is more than its run lengths, by `outlines`."""


@pytest.fixture(autouse=True)
def in_small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images a job, and what a worker changes in its process."""
    monkeypatch.setattr(spread_items, "ITEMS", 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(runtime, "_most_threads", None)
    monkeypatch.setattr(Shuffled, "tasks", 0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


def export(
    name: str,
    folder: Path,
    options: Mapping[str, Any],
    root: Path | None,
    runner: Shuffled | None = None,
    masks: bool = True,
) -> tuple[dict[str, bytes], list[str]]:
    """Write a format; return its files by path, which do not tell the folder, and its notes."""
    folder.mkdir(parents=True)
    source = drawn_source() if root is None else image_source(root)
    found = replace(
        found_boxes(masks=masks, source=source),
        mapper=partial(map_images, threads=2, folder=folder),
    )
    exporter: Any = build_choices("exporter", [name], options)[name]
    with spread_shards(None if runner is None else Spread(runner, uses_gpu=False), "export"):
        notes = exporter(found, folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    contents = {
        path.relative_to(folder).as_posix(): path.read_bytes().replace(
            str(folder).encode(), b"FOLDER"
        )
        for path in files
    }
    return contents, list(notes or ())


@pytest.mark.parametrize("options", OPTIONS, ids=["link", "copy", "none"])
@pytest.mark.parametrize("name", EXPORTERS)
def test_the_same_files_and_notes(
    name: str, options: Mapping[str, Any], root: Path, tmp_path: Path
) -> None:
    for images in (root, None):
        place = tmp_path / ("files" if images else "drawn")
        here = export(name, place / "here", options, images)
        assert here[0]
        writes: tuple[Literal["driver", "workers"], ...] = ("driver", "workers")
        for seed, write in enumerate(writes):
            runner = Shuffled(seed, write, halves=0.5)
            assert export(name, place / write, options, images, runner) == here


@pytest.mark.parametrize("outlines", ["rle", "polygon"])
@pytest.mark.parametrize("name", EXPORTERS)
def test_what_costs_little_stays_in_this_process(
    name: str, outlines: str, root: Path, tmp_path: Path
) -> None:
    options = {"outlines": outlines, "images": "none"}

    def is_spread(write: Any, masks: bool) -> bool:
        Shuffled.tasks = 0
        place = tmp_path / f"{write}-{masks}"
        export(name, place, options, root, Shuffled(write=write), masks)
        return Shuffled.tasks > 0

    assert not is_spread("driver", masks=False)
    assert is_spread("driver", masks=True) == (name in WITH_MASKS[outlines])
    assert is_spread("workers", masks=False) == (name in WITH_FILES)
