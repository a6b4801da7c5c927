"""Segmenters through the stages: what they fell back on, their masks, and refined maps scored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.conftest import TINY, Cli


def latest(tmp_path: Path, name: str) -> Any:
    return json.loads((tmp_path / "outputs/latest" / name).read_text(encoding="utf-8"))


STAGES = "stages=[train,explain,localize,evaluate,report]"


@pytest.mark.usefixtures("shared_results")
def test_grabcut_gives_masks_and_its_maps_are_scored(cli: Cli, tmp_path: Path) -> None:
    assert cli("+experiment=cam", *TINY, STAGES, "segmenter=grabcut", "runtime.workers=1") == 0
    boxes = latest(tmp_path, "boxes.json")
    for one in boxes:
        x, y, width, height = one["bbox"]
        x0, y0, w, h = coco_mask.toBbox(one["segmentation"])
        assert abs(x0 - x) <= 1 >= abs(y0 - y)
        assert abs(w - width) <= 1 >= abs(h - height)
    found = latest(tmp_path, "metrics.json")
    refined = {(r["name"], r["iou"], r["threshold"]["kind"])
               for r in found if r["method"] == "cam+grabcut"}  # fmt: skip
    used = next(r["threshold"]["kind"] for r in found if r["name"] == "gt_known_loc")
    assert refined == {
        ("max_box_acc", 0.5, "oracle"), ("max_box_acc_v2", None, "oracle"),
        *(("max_box_acc_v2", iou, "oracle") for iou in (0.3, 0.5, 0.7)),
        *((f"{name}_loc", iou, kind) for name in ("gt_known", "top1", "top5")
          for iou in (0.3, 0.5, 0.7) for kind in {"fixed", "auto", "oracle"} - {used}),
    }  # fmt: skip
    assert found[0]["method"] == "cam"


def test_the_same_boxes_with_one_two_and_four_workers(cli: Cli, tmp_path: Path) -> None:
    stages = "stages=[train,explain,localize]"
    found = set()
    for workers in (1, 2, 4):
        assert cli("+experiment=cam", *TINY, stages, "segmenter=grabcut",
                   f"runtime.workers={workers}") == 0  # fmt: skip
        latest = tmp_path / "outputs/latest"
        found.add(
            ((latest / "boxes.json").read_bytes(), (latest / "predictions.json").read_bytes())
        )
        rmtree(tmp_path / "outputs/localize")
    assert len(found) == 1


@pytest.mark.parametrize("segmenter", ["threshold", "grabcut"])
def test_photographs_of_any_size_have_boxes_in_their_own_pixels(
    cli: Cli, tmp_path: Path, segmenter: str
) -> None:
    """Height and width stay what they are; 12 megapixels are decoded at what the cut needs."""
    sizes = {"low": (37, 101), "high": (101, 37), "photo": (3000, 4000), "upright": (4000, 3000)}
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("red", "blue"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
    for n in range(4):
        for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
            image = squared((48, 64), colour, rng)
            image.save(tmp_path / "images/train" / name / f"{n}.png")
    for name, size in sizes.items():
        image = squared(size, (220, 30, 30), rng)
        image.save(tmp_path / "images/val/red" / f"{name}.jpg", quality=80)
    arguments = ("data=folder", f"data.root={tmp_path / 'images'}", "data.size=64", "model=small",
                 "train.epochs=1", "train.batch=4", "stages=[train,explain,localize]")  # fmt: skip
    assert cli("+experiment=cam", *arguments, f"segmenter={segmenter}") == 0
    found = latest(tmp_path, "predictions.json")
    named = {Path(one["file_name"]).stem: one for one in found["images"]}
    assert {k: (v["height"], v["width"]) for k, v in named.items()} == sizes
    boxes = {one["image_id"]: one for one in found["annotations"]}
    for name, (height, width) in sizes.items():
        one = boxes[named[name]["id"]]
        x, y, w, h = one["bbox"]
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        assert max(w / width, h / height) > 0.05  # in these pixels, not in those of the cut
        if segmenter == "grabcut":
            assert one["segmentation"]["size"] == [height, width]
            assert np.allclose(coco_mask.toBbox(one["segmentation"]), one["bbox"], atol=1.01)


def squared(
    size: tuple[int, int], colour: tuple[int, int, int], rng: np.random.Generator
) -> Image.Image:
    """A coloured square, off the centre, on grey noise."""
    height, width = size
    small = rng.integers(90, 130, (height // 4 + 1, width // 4 + 1, 3)).astype(np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)
    side = min(size) // 2
    image.paste(colour, (width - side - width // 10, height // 10,
                         width - width // 10, height // 10 + side))  # fmt: skip
    return image


def test_falling_back_is_counted(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("segmenter=grabcut", "segmenter.agree=1.0")
    assert cli("+experiment=cam", *TINY, STAGES, *arguments) == 0
    said = capsys.readouterr()
    assert "maps were cut alone, without the image" in said.out + said.err
    (folder,) = (tmp_path / "outputs/evaluate").iterdir()
    notes = json.loads((folder / "notes.json").read_text())
    assert any("colours and map do not agree" in note["text"] for note in notes)


def test_images_that_cannot_be_read_any_more_are_noted(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("+experiment=cam", "data=folder", f"data.root={folder_of_images}", "data.size=32",
               "train.epochs=1", "train.batch=8", "segmenter=grabcut")  # fmt: skip
    assert cli(*command, "stages=[train,explain]") == 0
    path = sorted((folder_of_images / "val/red").iterdir())[0]
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))  # the same size and time: its map is kept
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    capsys.readouterr()
    assert cli(*command, "stages=[train,explain,localize]") == 0
    printed = capsys.readouterr().out
    assert "explain    kept" in printed
    assert "note: localize: 1 of 8 images could not be read and have no box" in printed


@pytest.mark.usefixtures("shared_results")
@pytest.mark.parametrize("rule", ["otsu", "quantile", "value"])
def test_each_way_to_cut_goes_through(cli: Cli, tmp_path: Path, rule: str) -> None:
    several = ("segmenter.components=all", "segmenter.share=0.1", "segmenter.merge=0.5")
    number = () if rule == "otsu" else ("segmenter.threshold=0.2",)
    assert cli("+experiment=cam", *TINY, STAGES, f"segmenter.at={rule}", *number, *several) == 0
    used = [r for r in latest(tmp_path, "metrics.json") if r["name"] == "mean_iou"]
    assert used[0]["threshold"]["kind"] == "auto"
    assert used[0]["threshold"]["value"] is None


@pytest.mark.usefixtures("shared_results")
def test_classes_that_the_network_does_not_see_have_no_boxes(cli: Cli, tmp_path: Path) -> None:
    arguments = ("explain.target=[true,top3]", "segmenter.probability=0.4")
    assert cli("+experiment=cam", *TINY, STAGES, *arguments) == 0
    few = len(latest(tmp_path, "boxes.json"))
    assert cli("+experiment=cam", *TINY, STAGES, arguments[0]) == 0
    assert few < len(latest(tmp_path, "boxes.json"))
