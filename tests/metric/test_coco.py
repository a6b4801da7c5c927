import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pycocotools import mask as masks

from pipeline.errors import UserError
from pipeline.metric.coco import coco_box, coco_scores

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
    with pytest.raises(UserError, match="result 0: image_id 3 is none of the 2"):
        coco_scores(CONTENT, [result(3, [0, 0, 1, 1])])
    with pytest.raises(UserError, match="result 0: expected a field 'score'"):
        coco_scores(CONTENT, [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1]}])
    with pytest.raises(UserError, match="expected a list 'images'"):
        coco_scores({"annotations": []}, [])
    with pytest.raises(UserError, match=r"absent\.json"):
        coco_scores(tmp_path / "absent.json", [])
    with pytest.raises(UserError, match="annotation 0: expected a field 'bbox'"):
        coco_scores({**CONTENT, "annotations": [{"image_id": 1, "category_id": 7}]}, [])


def crowded(seed: int, masks_too: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Many boxes of every size, five classes in forty images, with crowds and classes that are only
    found or only there."""
    rng = np.random.default_rng(seed)

    def shape(number: int, category: int) -> dict[str, Any]:
        width, height = rng.integers(4, 120, 2).tolist()
        x, y = int(rng.integers(0, 200 - width)), int(rng.integers(0, 200 - height))
        one = {"image_id": number, "category_id": category, "bbox": [x, y, width, height]}
        if masks_too:
            canvas = np.zeros((200, 200), np.uint8, order="F")
            canvas[y : y + height, x : x + width] = np.tri(height, width, int(width / 3))
            rle = masks.encode(canvas)
            one["segmentation"] = {"size": [200, 200], "counts": rle["counts"].decode()}
        return one

    true, found = [], []
    for number in range(1, 41):
        for _ in range(int(rng.integers(0, 5))):
            one = shape(number, int(rng.choice([2, 3, 5])))
            area = float(rng.integers(20, 20000))
            true.append({**one, "id": len(true) + 1, "area": area,
                         "iscrowd": int(rng.random() < 0.15)})  # fmt: skip
            if rng.random() < 0.7:
                found.append({**one, "score": float(rng.random())})
        found += [
            {**shape(number, int(rng.choice([2, 3, 7]))), "score": float(rng.random())}
            for _ in range(int(rng.integers(0, 4)))
        ]
    images = [{"id": n, "width": 200, "height": 200} for n in range(1, 41)]
    categories = [{"id": n, "name": f"c{n}"} for n in (2, 3, 5, 7, 9)]
    return {"images": images, "annotations": true, "categories": categories}, found


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equals_pycocotools_over_all_classes_at_once(kind: Literal["bbox", "segm"]) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    content, found = crowded(4, kind == "segm")
    scores = coco_scores(content, found, kind, each={2: "two", 5: "five"})
    whole = COCO()
    whole.dataset = {"info": {}, **content}
    whole.createIndex()
    own = [{k: v for k, v in one.items() if k != "bbox"} for one in found]
    other = COCOeval(whole, whole.loadRes(found if kind == "bbox" else own), kind)
    other.evaluate()
    other.accumulate()
    other.summarize()
    assert [s.value for s in scores if s.label is None] == pytest.approx(
        [v for v in other.stats.tolist() if v > -1], abs=1e-12
    )
    assert {s.n for s in scores if s.label is None} == {40}
    # Each class is the part of the same table of precisions.
    for column, name in enumerate(["two", None, "five"]):
        own_ap = [s.value for s in scores if s.label == name and s.iou is None]
        if name is not None:
            expected = other.eval["precision"][:, :, column, 0, -1].mean()
            assert own_ap == [pytest.approx(expected, abs=1e-12)]
    assert {s.label for s in scores} == {None, "two", "five"}


def test_masks_alone_say_how_large_they_are() -> None:
    """A large box around a small mask: the mask is small, wherever the box is given too."""
    canvas = np.zeros((200, 200), np.uint8, order="F")
    canvas[10:20, 10:20] = canvas[180:182, 180:182] = 1
    rle = masks.encode(canvas)
    rle["counts"] = rle["counts"].decode()
    one = {"image_id": 1, "category_id": 7, "bbox": [10, 10, 172, 172], "segmentation": rle}
    content = {**CONTENT, "annotations": [one]}
    names = {s.name for s in coco_scores(content, [{**one, "score": 1.0}], "segm")}
    assert "coco_mask_ap_small" in names
    assert "coco_mask_ap_large" not in names
    names = {s.name for s in coco_scores(content, [{**one, "score": 1.0}], "bbox")}
    assert "coco_box_ap_large" in names
    # A small mask found beside it, in a large box, is ignored among the large ones.
    other = {**CONTENT["annotations"][1], "segmentation": [[0, 0, 150, 0, 150, 150, 0, 150]]}
    content = {**CONTENT, "annotations": [other]}
    found = [
        {"image_id": 2, "category_id": 7, "score": 0.9, "bbox": [0, 0, 150, 150],
         "segmentation": masks.merge(masks.frPyObjects(other["segmentation"], 200, 200))},
        {"image_id": 2, "category_id": 7, "score": 1.0, "bbox": [0, 0, 190, 190],
         "segmentation": rle},
    ]  # fmt: skip
    values = {s.name: s.value for s in coco_scores(content, found, "segm")}
    assert values["coco_mask_ap_large"] == pytest.approx(1)
    assert values["coco_mask_ap"] == pytest.approx(0.5)
