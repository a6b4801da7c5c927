"""Boxes of explained images, their numbers and their pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from pipeline.errors import UserError
from tests.api.test_explaining import NAMES, PREPARED, Network
from tests.conftest import Cli


@pytest.fixture
def explained(tmp_path: Path) -> Any:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    paths = []
    for n, size in enumerate(((40, 60), (80, 50), (64, 64))):
        path = tmp_path / "photos" / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    network = pipeline.wrap(Network(), classes=NAMES, preprocessing=PREPARED)
    return pipeline.explain(network, paths, "gradcam", target=[0, 1, 2]), paths


def write_annotations(path: Path) -> Path:
    sizes = ((40, 60), (80, 50), (64, 64))
    path.write_text(
        json.dumps(
            {
                "images": [
                    {"id": 7 + n, "file_name": f"photos/{n}.png", "height": h, "width": w}
                    for n, (h, w) in enumerate(sizes)
                ],
                "categories": [{"id": 3 + n, "name": name} for n, name in enumerate(NAMES)],
                "annotations": [
                    {
                        "id": n + 1,
                        "image_id": 7 + n,
                        "category_id": 3 + n,
                        "iscrowd": 0,
                        "bbox": [0, 0, w, h * 0.9],
                        "area": w * h * 0.9,
                    }
                    for n, (h, w) in enumerate(sizes)
                ],
            }
        )
    )
    return path


def test_boxes_are_in_pixels_of_the_photographs(explained: Any) -> None:
    result, paths = explained
    boxes = pipeline.localize(result)
    assert [p[0].map.size for p in boxes] == [(40, 60), (80, 50), (64, 64)]
    assert [p[0].label for p in boxes] == list(NAMES[:3])
    for (prediction,) in boxes:
        height, width = prediction.map.size
        assert (prediction.boxes <= [width, height, width, height]).all()
        assert prediction.probability == pytest.approx(prediction.map.score)
        assert prediction.confidences.shape == prediction.scores.shape
    masks = pipeline.localize(result, segmenter="grabcut")
    assert masks[0][0].masks is not None
    again = pipeline.localize(result, [Image.open(path) for path in paths], "grabcut")
    np.testing.assert_allclose(again[1][0].boxes, masks[1][0].boxes)
    low = pipeline.localize(result, threshold=0.01)[0][0].boxes[0]
    assert (low[2:] - low[:2]).prod() >= (
        boxes[0][0].boxes[0, 2:] - boxes[0][0].boxes[0, :2]
    ).prod()


def test_what_cannot_be_localized_is_refused(explained: Any) -> None:
    result, paths = explained
    with pytest.raises(UserError, match="2 for 3 that were explained"):
        pipeline.localize(result, paths[:2])
    with pytest.raises(UserError, match="thresold"):
        pipeline.localize(result, thresold=0.3)
    tensors = pipeline.explain(Network(), torch.randn(1, 3, 32, 48), target=0)
    assert pipeline.localize(tensors)[0][0].map.size == (32, 48)
    with pytest.raises(UserError, match="this segmenter reads the photograph"):
        pipeline.localize(tensors, segmenter="grabcut")


def test_numbers_are_those_of_the_command_line(explained: Any, tmp_path: Path, cli: Cli) -> None:
    result, _ = explained
    boxes = pipeline.localize(result)
    annotations = write_annotations(tmp_path / "instances.json")
    scores = pipeline.evaluate(boxes, annotations)
    results = [
        {"image_id": 7 + n, "category_id": 3 + n, "score": float(p.scores[0]),
         "bbox": [*p.boxes[0, :2].tolist(), *(p.boxes[0, 2:] - p.boxes[0, :2]).tolist()]}
        for n, (p,) in enumerate(boxes)
    ]  # fmt: skip
    theirs = tmp_path / "boxes.json"
    theirs.write_text(json.dumps(results))
    assert cli("+experiment=evaluate", f"boxes={theirs}", f"annotations={annotations}") == 0
    records = json.loads((tmp_path / "outputs/latest/metrics.json").read_text())
    values = [(r["name"], r["iou"], r["class"], r["value"], r["n"]) for r in records]
    ours = [(s.name, s.iou, s.label, s.value, s.n) for s in scores.all]
    assert ours == values
    assert scores["gt_known_loc"] == pipeline.evaluate(theirs, annotations)["gt_known_loc"]
    assert "of 3 images" in str(scores) or "3 images" in str(scores)


def test_images_and_classes_that_are_not_annotated_are_refused(
    explained: Any, tmp_path: Path
) -> None:
    _, paths = explained
    annotations = write_annotations(tmp_path / "instances.json")
    network = pipeline.wrap(Network(), preprocessing=PREPARED)
    unnamed = pipeline.localize(pipeline.explain(network, paths))
    with pytest.raises(UserError, match=r"name the network's classes: explain\(..., classes="):
        pipeline.evaluate(unnamed, annotations)
    in_memory = pipeline.localize(pipeline.explain(network, [Image.open(paths[0])]))
    with pytest.raises(UserError, match="image 1: not among the 3 images"):
        pipeline.evaluate(in_memory, annotations)


def test_wrong_types_and_names_of_numbers_say_the_remedy(explained: Any, tmp_path: Path) -> None:
    result, _ = explained
    annotations = write_annotations(tmp_path / "instances.json")
    with pytest.raises(TypeError, match=r"these are maps; evaluate\(localize\(result\)"):
        pipeline.evaluate(result, annotations)
    with pytest.raises(TypeError, match=r"expected what localize returned, .* got list"):
        pipeline.evaluate([], annotations)  # type: ignore[arg-type]
    boxes = pipeline.localize(result)
    with pytest.raises(TypeError, match=r"expected the path of a COCO data set .* got dict"):
        pipeline.evaluate(boxes, json.loads(annotations.read_text()))
    scores = pipeline.evaluate(boxes, annotations)
    with pytest.raises(KeyError, match="gtknown: no such number; did you mean 'gt_known_loc'"):
        _ = scores["gtknown"]
    assert "gtknown" not in scores


def test_results_print_what_they_are_on_a_line(explained: Any) -> None:
    result, paths = explained
    assert repr(result) == (
        "Explained(method='gradcam', maps=[3, 8, 12], labels=['cat', 'dog', 'fox'], 4 classes, "
        "input=32x48)"
    )
    boxes = repr(pipeline.localize(result))
    assert boxes.startswith(f"Localized(3 images; '{paths[0]}': 'cat' with 1 box")
    network = pipeline.wrap(Network(), classes=NAMES)
    several = pipeline.explain(network, torch.randn(9, 3, 32, 48), target="top2")
    assert "..." in repr(several)
    assert max(len(repr(several)), len(repr(pipeline.localize(several)))) < 400


def test_pictures_have_a_panel_for_each_class(explained: Any, tmp_path: Path) -> None:
    result, paths = explained
    picture = pipeline.show(paths[0], result, boxes=pipeline.localize(result))
    assert picture.size == (2 * 60, 40)
    network = pipeline.wrap(Network(), classes=NAMES)
    tensor = torch.randn(1, 3, 32, 48)
    several = pipeline.explain(network, tensor, target=[[0, 1, 2]])
    assert pipeline.show(tensor, several, save=tmp_path / "a.png").size == (4 * 48, 32)
    assert Image.open(tmp_path / "a.png").size == (4 * 48, 32)
    with pytest.raises(UserError, match="place=3: 3 images were explained"):
        pipeline.show(paths[0], result, 3)
    second = pipeline.show(paths[1], result)
    assert second.tobytes() == pipeline.show(paths[1], result, 1).tobytes()
    with pytest.raises(UserError, match=r"3 images were explained .* say which: place=0"):
        pipeline.show(Image.open(paths[1]), result)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.jpeg", "JPEG"), ("a.webp", "WEBP")]
)
def test_a_picture_has_the_format_of_its_suffix(
    explained: Any, tmp_path: Path, name: str, kind: str
) -> None:
    result, paths = explained
    picture = pipeline.show(paths[0], result, save=tmp_path / name)
    with Image.open(tmp_path / name) as written:
        assert written.format == kind
        assert written.size == picture.size
        difference = np.abs(np.asarray(written, int) - np.asarray(picture, int))
        assert difference.mean() < (8 if kind == "JPEG" else 0.5)


def test_wrong_arguments_of_a_picture_are_refused(explained: Any, tmp_path: Path) -> None:
    result, paths = explained
    with pytest.raises(UserError, match=r"'\.gif' is of no format .* expected one of \.png, \.jpg"):
        pipeline.show(paths[0], result, save=tmp_path / "a.gif")
    assert not (tmp_path / "a.gif").exists()
    with pytest.raises(TypeError, match="they are swapped"):
        pipeline.show(result, paths[0])
    boxes = pipeline.localize(result)
    with pytest.raises(TypeError, match="boxes of localize are given as boxes="):
        pipeline.show(paths[0], boxes)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected what localize returned, got list"):
        pipeline.show(paths[0], result, boxes=[])  # type: ignore[arg-type]
    for several in (paths, torch.zeros(3, 3, 32, 48)):
        with pytest.raises(UserError, match=r"3 images, and show draws one: show\(images\[0\]"):
            pipeline.show(several, result)


def test_methods_say_what_a_network_can_have() -> None:
    listed = {method.name: method for method in pipeline.methods(Network())}
    assert {method.name for method in pipeline.methods()} == set(listed)
    assert listed["gradcam"].works
    assert listed["cam"].works
    assert "fitted to training images" in (listed["ddt"].refusal or "")
    assert "no branch 'foreground'" in (listed["foreground"].refusal or "")
    assert listed["layercam_below"].options == {"layers": ["below"], "relu": True}
    bare = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 4))
    listed = {method.name: method for method in pipeline.methods(
        bare, preprocessing={**PREPARED, "size": 64})}  # fmt: skip
    assert listed["gradient"].works
    refusal = listed["gradcam"].refusal or ""
    assert "no layer of the network gives feature maps" in refusal
    assert "last=NAME" not in refusal  # no name can help
