"""Confidences of images of several classes are fitted on each class of each image, and say so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from pipeline.engine.images import SplitImages
from pipeline.ops.iou import best_iou
from pipeline.protocols import AnnotatedDataSet, DataSet
from pipeline.results.confidence import load_examples
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.segmenter.confidence import MIN_EXAMPLES
from pipeline.segmenter.threshold import Threshold
from pipeline.stages.calibrate.calibration import count_boxed, find_boxed_images
from pipeline.stages.calibrate.examples import collect_examples
from pipeline.stages.rank.ranking import add_agreement, fit_models
from pipeline.stages.rank.stage import describe_kind
from pipeline.types import GroundTruth
from tests.stages.test_evaluate_several import DATA, IDS, TRUTH, write_results

FEW = {id: TRUTH[id] for id in IDS[:14]}  # fewer images than a fit takes, and more pairs


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("results"))[0]


def test_each_class_of_an_image_is_an_example(maps: Path, tmp_path: Path) -> None:
    segmenter, images = Threshold(0.5), SplitImages(cast(DataSet, DATA), "val")
    found = collect_examples(images, maps, FEW, lambda _: segmenter, 0, "two_fold")
    expected = [
        (saliency.id, saliency.explained, best_iou(boxes.boxes[0], true) >= 0.5)
        for _, saliency in iterate_maps(list_shards(maps)[0], IDS)
        if saliency.id in FEW
        and len(true := FEW[saliency.id].of_class(saliency.explained))
        and len((boxes := segmenter(saliency, None)).boxes)
    ]
    assert len(FEW) < MIN_EXAMPLES < len(found.ids) == len(expected)
    assert [(*key, right) for key, right in zip(found.keys, found.right, strict=True)] == expected
    assert 0 < found.right.sum() < len(found.ids), "or nothing is compared"

    found.write(tmp_path)
    read = load_examples(tmp_path)
    assert read.keys == found.keys
    np.testing.assert_array_equal(read.features, found.features)
    models = fit_models("classifier", read, [])
    assert models.used.kind == "calibrated"
    assert models.used.examples == len(found.ids)
    assert describe_kind(models, len(found.ids), is_multi_label=True) == []
    assert (add_agreement(read, [read])[:, -1] == 1).all(), "with the box of the same class"


def test_too_few_pairs_are_called_so() -> None:
    from pipeline.results.confidence import ConfidenceModels
    from pipeline.segmenter.confidence import default_model

    models = ConfidenceModels(default_model("classifier", False))
    (note,) = describe_kind(models, 18, is_multi_label=True)
    assert "18 pairs of an image and one of its classes have boxes to fit them on, and 20" in note


def test_an_image_counts_where_any_of_its_classes_has_a_box() -> None:
    boxes = np.array([[0, 0, 5, 5]], np.float32)
    known = {
        "a": GroundTruth("a", 0, (9, 9), boxes, np.array([1])),
        "b": GroundTruth("b", 0, (9, 9), boxes, np.array([-1])),
        "c": GroundTruth("c", 0, (9, 9), boxes),
        "d": GroundTruth("d", -1, (9, 9), boxes[:0], np.array([], np.int64)),
    }
    assert count_boxed(known) == 1
    assert count_boxed(known, is_multi_label=True) == 2


@dataclass(frozen=True)
class HeldBack:
    """A data set with boxes of some held-back images."""

    count: int

    def truth(self, split: str) -> dict[str, Any]:
        number = {"held_back": self.count, "val": 24}.get(split, 0)
        return {id: TRUTH[id] for id in IDS[:number]}


@pytest.mark.parametrize("count", [0, 1, 9, 10])
def test_a_held_back_part_with_few_boxes_is_named(count: int) -> None:
    boxed = find_boxed_images(cast(AnnotatedDataSet, HeldBack(count)))
    assert boxed.source == ("held_back" if count == 10 else "two_fold")
    if count in (0, 10):
        assert not boxed.notes
    else:
        (note,) = boxed.notes
        assert f"has {count} of the 10 images with boxes that this takes: not used" in note
        assert "the scored images choose it, each half of them for the other" in note
