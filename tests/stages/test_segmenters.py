"""Segmenters through the stages: what they fell back on, their masks, and refined maps scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as coco_mask

from tests.conftest import TINY, Cli


def latest(tmp_path: Path, name: str) -> Any:
    return json.loads((tmp_path / "outputs/latest" / name).read_text(encoding="utf-8"))


STAGES = "stages=[train,explain,localize,evaluate,report]"


def test_grabcut_gives_masks_and_its_maps_are_scored(cli: Cli, tmp_path: Path) -> None:
    assert cli("+experiment=cam", *TINY, STAGES, "segmenter=grabcut", "runtime.workers=1") == 0
    boxes = latest(tmp_path, "boxes.json")
    for one in boxes:
        x, y, width, height = one["bbox"]
        x0, y0, w, h = coco_mask.toBbox(one["segmentation"])
        assert abs(x0 - x) <= 1 >= abs(y0 - y)
        assert abs(w - width) <= 1 >= abs(h - height)
    found = latest(tmp_path, "metrics.json")
    refined = {(r["name"], r["iou"]) for r in found if r["method"] == "cam+grabcut"}
    assert refined == {
        ("max_box_acc", 0.5), ("max_box_acc_v2", None),
        *((name, iou) for name in ("max_box_acc_v2", "gt_known_loc") for iou in (0.3, 0.5, 0.7)),
    }  # fmt: skip
    assert all(r["threshold"]["kind"] == "oracle" for r in found if r["method"] == "cam+grabcut")
    assert found[0]["method"] == "cam"
    other = tmp_path / "two"
    assert cli("+experiment=cam", *TINY, STAGES, "segmenter=grabcut", "runtime.workers=2",
               f"outputs={other}") == 0  # fmt: skip
    assert json.loads((other / "latest/boxes.json").read_text()) == boxes


def test_falling_back_is_counted(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("segmenter=grabcut", "segmenter.agree=1.0")
    assert cli("+experiment=cam", *TINY, STAGES, *arguments) == 0
    said = capsys.readouterr()
    assert "maps were cut alone, without the image" in said.out + said.err
    (folder,) = (tmp_path / "outputs/evaluate").iterdir()
    notes = json.loads((folder / "notes.json").read_text())
    assert any("colours and map do not agree" in note for note in notes)


@pytest.mark.parametrize("rule", ["otsu", "quantile", "value"])
def test_each_way_to_cut_goes_through(cli: Cli, tmp_path: Path, rule: str) -> None:
    several = ("segmenter.components=all", "segmenter.share=0.1", "segmenter.merge=0.5")
    assert cli("+experiment=cam", *TINY, STAGES, f"segmenter.at={rule}", *several) == 0
    used = [r for r in latest(tmp_path, "metrics.json") if r["name"] == "mean_iou"]
    assert used[0]["threshold"]["kind"] == "auto"
    assert used[0]["threshold"]["value"] is None


def test_classes_that_the_network_does_not_see_have_no_boxes(cli: Cli, tmp_path: Path) -> None:
    arguments = ("explain.target=[true,top3]", "segmenter.probability=0.4")
    assert cli("+experiment=cam", *TINY, STAGES, *arguments) == 0
    few = len(latest(tmp_path, "boxes.json"))
    assert cli("+experiment=cam", *TINY, STAGES, arguments[0]) == 0
    assert few < len(latest(tmp_path, "boxes.json"))
