import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as masks

from pipeline.metric.coco import coco_box, coco_scores
from pipeline.records import Problem

CONTENT = {
    "images": [{"id": 1, "width": 200, "height": 200}, {"id": 2, "width": 200, "height": 200}],
    "categories": [{"id": 7, "name": "owl"}],
    "annotations": [
        {"image_id": 1, "category_id": 7, "bbox": [10, 10, 100, 100]},
        {"image_id": 2, "category_id": 7, "bbox": [0, 0, 150, 150]},
    ],
}


def result(image: int, box: list[float], score: float = 0.9) -> dict[str, object]:
    return {"image_id": image, "category_id": 7, "bbox": box, "score": score}


def test_perfect_half_and_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    both = [result(1, [10, 10, 100, 100]), result(2, [0, 0, 150, 150])]
    scores = coco_scores(CONTENT, both)
    assert {s.name for s in scores} == {
        f"coco_box_{name}" for name in ("ap", "ap_large", "ar_1", "ar_10", "ar_100", "ar_large")
    }
    assert {s.value for s in scores} == {1.0}
    assert [s.iou for s in scores if s.name == "coco_box_ap"] == [None, 0.5, 0.75]
    assert {s.n for s in scores} == {2}
    half = {(s.name, s.iou): s.value for s in coco_scores(CONTENT, both[:1])}
    assert half["coco_box_ar_100", None] == 0.5
    assert half["coco_box_ap", None] == pytest.approx(51 / 101)  # recalls 0 to .50
    assert {s.value for s in coco_scores(CONTENT, [])} == {0.0}
    assert capfd.readouterr().out == ""


def test_only_some_images(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(CONTENT))
    scores = coco_scores(path, [result(1, [10, 10, 100, 100])], image_ids=[1])
    assert scores[0].value == pytest.approx(1)
    assert scores[0].n == 1


def test_masks() -> None:
    canvas = np.zeros((200, 200), np.uint8, order="F")
    canvas[10:110, 10:110] = 1
    rle = masks.encode(canvas)
    rle["counts"] = rle["counts"].decode()
    content = {
        **CONTENT,
        "annotations": [{**CONTENT["annotations"][0], "segmentation": rle, "area": 10000}],
    }
    found = [{"image_id": 1, "category_id": 7, "segmentation": rle, "score": 1.0}]
    scores = coco_scores(content, found, "segm")
    assert scores[0].name == "coco_mask_ap"
    assert scores[0].value == pytest.approx(1)


def test_box() -> None:
    assert coco_box(np.array([1, 2, 11, 22], np.float32)) == [1, 2, 10, 20]


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="result 0: image_id 3 is none of the 2"):
        coco_scores(CONTENT, [result(3, [0, 0, 1, 1])])
    with pytest.raises(Problem, match="result 0: expected a field 'score'"):
        coco_scores(CONTENT, [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1]}])
    with pytest.raises(Problem, match="expected a list 'images'"):
        coco_scores({"annotations": []}, [])
    with pytest.raises(Problem, match=r"absent\.json"):
        coco_scores(tmp_path / "absent.json", [])
    with pytest.raises(Problem, match="annotation 0: expected a field 'bbox'"):
        coco_scores({**CONTENT, "annotations": [{"image_id": 1, "category_id": 7}]}, [])
