import numpy as np
import pytest

from pipeline.metric.box_counts import BoxCounts, find_matched, match, precision_recall_f1
from pipeline.metric.coco import coco_box, coco_scores

TRUE = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)


def test_each_true_box_is_matched_once() -> None:
    found = np.array([[0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]])
    assert match(found, np.array([0.5, 0.9, 0.8]), TRUE) == 1
    assert match(found, np.array([0.5, 0.9, 0.8]), TRUE[:0]) == 0
    with pytest.raises(ValueError, match="3 boxes but 1 scores"):
        match(found, np.array([1.0]), TRUE)


def test_many_boxes_do_not_win_for_free() -> None:
    metric = BoxCounts()
    assert metric.compute() == []
    many = np.concatenate([TRUE, TRUE + 100, TRUE + 200, TRUE + 300])
    metric.add(many, np.ones(8), TRUE)
    metric.add(TRUE[:1], np.ones(1), TRUE)
    precision, recall, f1 = (s.value for s in metric.compute())
    assert (precision, recall) == pytest.approx((3 / 9, 3 / 4))
    assert f1 == pytest.approx(2 * 3 / 13)


def test_nothing_found_or_nothing_there() -> None:
    rows = np.array([[0, 0, 0], [0, 0, 2], [0, 2, 0]])
    precision, recall, f1 = precision_recall_f1(rows)
    assert precision.tolist() == recall.tolist() == f1.tolist() == [1, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_recall_is_that_of_coco(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray:
        low = rng.integers(0, 20, (n, 2))
        return np.concatenate([low, low + rng.integers(5, 30, (n, 2))], 1).astype(np.float32)

    limits = np.linspace(0.5, 0.95, 10)
    metric = BoxCounts(ious=limits)
    annotations, results = [], []
    for image in range(1, 6):
        true, found, scores = boxes(4), boxes(6), rng.random(6)
        metric.add(found, scores, true)
        same = {"image_id": image, "category_id": 1}
        annotations += [{**same, "bbox": coco_box(box)} for box in true]
        results += [
            {**same, "bbox": coco_box(box), "score": float(score)}
            for box, score in zip(found, scores, strict=True)
        ]
    content = {
        "images": [{"id": i} for i in range(1, 6)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": annotations,
    }
    # COCO's recall with up to 100 boxes counts matches as we do, at ten IoUs.
    ours = [score.value for score in metric.compute() if score.name == "box_recall"]
    theirs = {score.name: score.value for score in coco_scores(content, results)}
    assert np.mean(ours) == pytest.approx(theirs["coco_box_ar_100"])


def test_precision_over_recall_is_that_of_all_boxes_by_score() -> None:
    rng = np.random.default_rng(0)
    metric = BoxCounts(ious=(0.3, 0.5))
    assert list(metric.curve()) == []
    scores, matched, total = [], [], 0
    for _ in range(20):
        low = rng.integers(0, 20, (6, 2))
        boxes = np.concatenate([low, low + rng.integers(5, 30, (6, 2))], 1).astype(np.float32)
        given = rng.integers(0, 10, 4) / 10  # some are equal
        metric.add(boxes[:4], given, boxes[4:])
        matched.append(find_matched(boxes[:4], given, boxes[4:], (0.5,))[0])
        assert matched[-1].sum() == match(boxes[:4], given, boxes[4:], 0.5)
        scores.append(given.astype(np.float32))
        total += 2
    (line,) = (line for line in metric.curve() if line["iou"] == 0.5)
    every, right = np.concatenate(scores), np.concatenate(matched)
    expected = [
        [right[every >= level].sum() / total, right[every >= level].mean()]
        for level in np.unique(every)[::-1]
    ]
    assert line["points"] == pytest.approx(np.array(expected), abs=1e-4)
    recall, precision = line["points"][-1]
    found = {s.name: s.value for s in metric.compute() if s.iou == 0.5}
    assert precision == pytest.approx(found["box_precision"], abs=1e-4)
    assert recall == pytest.approx(found["box_recall"], abs=1e-4)


def test_boxes_are_matched_at_several_ious_as_at_each() -> None:
    rng = np.random.default_rng(0)
    for found, true in ((0, 2), (3, 0), (0, 0), (1, 1), (6, 4)):
        boxes = [np.sort(rng.integers(0, 9, (n, 2, 2)), 1).reshape(n, 4) for n in (found, true)]
        scores = rng.integers(0, 3, found) / 3
        ious = (0.1, 0.3, 0.5)
        expected = [match(boxes[0], scores, boxes[1], iou) for iou in ious]
        assert find_matched(boxes[0], scores, boxes[1], ious).sum(1).tolist() == expected
