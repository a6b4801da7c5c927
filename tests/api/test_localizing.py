"""Boxes of explained images, their numbers and their pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from pipeline.errors import UserError
from pipeline.plotting.colours import apply_diverging, resize_to_frame, scale_signed
from pipeline.plotting.sheet import GAP, MARGIN, ROW, SMALL, ContactSheet
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


def test_numbers_of_the_explained_images_alone(explained: Any, tmp_path: Path) -> None:
    result, paths = explained
    annotations = write_annotations(tmp_path / "instances.json")
    every = pipeline.evaluate(pipeline.localize(result), annotations)
    network = pipeline.wrap(Network(), classes=NAMES, preprocessing=PREPARED)
    some = pipeline.localize(pipeline.explain(network, paths[:2], "gradcam", target=[0, 1]))
    counted = pipeline.evaluate(some, annotations)
    assert "1 annotated image ('photos/2.png') has no box: counted as not found" in str(counted)
    scores = pipeline.evaluate(some, annotations, missing="skip")
    assert {s.n for s in scores.all if s.name == "mean_iou" and s.group is None} == {2}
    assert scores["mean_iou"] == pytest.approx(counted["mean_iou"] * 3 / 2)
    assert "1 annotated image ('photos/2.png') of 3 not scored (missing=skip)" in str(scores)
    again = pipeline.evaluate(pipeline.localize(result), annotations, missing="skip")
    assert dict(again) == dict(every)
    none_found = replace(some, predictions=[some[0], []])  # looked at, and nothing there
    half = pipeline.evaluate(none_found, annotations, missing="skip")
    assert {s.n for s in half.all if s.name == "mean_iou" and s.group is None} == {2}
    assert "1 annotated image ('photos/1.png') has no box: counted as not found" in str(half)
    with pytest.raises(UserError, match="missing='drop': choices: not_found, skip"):
        pipeline.evaluate(some, annotations, missing="drop")  # type: ignore[arg-type]


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
    picture = pipeline.show(paths[0], result, boxes=pipeline.localize(result), longer_side=300)
    two = 2 * MARGIN + 2 * 300 + GAP
    assert picture.width == two
    network = pipeline.wrap(Network(), classes=NAMES)
    tensor = torch.randn(1, 3, 32, 48)
    several = pipeline.explain(network, tensor, target=[[0, 1, 2]])
    shown = pipeline.show(tensor, several, save=tmp_path / "a.png", longer_side=200)
    assert shown.width == 2 * MARGIN + 4 * 200 + 3 * GAP
    assert Image.open(tmp_path / "a.png").size == shown.size
    with pytest.raises(UserError, match="place=3: 3 images were explained"):
        pipeline.show(paths[0], result, 3)
    second = pipeline.show(paths[1], result)
    assert second.tobytes() == pipeline.show(paths[1], result, 1).tobytes()
    with pytest.raises(UserError, match=r"3 images were explained .* say which: place=0"):
        pipeline.show(Image.open(paths[1]), result)


def test_a_picture_has_a_row_for_each_image(explained: Any) -> None:
    result, paths = explained
    alone = [pipeline.show(path, result, longer_side=64).height for path in paths]
    together = pipeline.show(paths, result, longer_side=64)
    extra = together.height - sum(alone)
    assert extra == pytest.approx(-2 * (alone[0] - (ROW + 22 + 43 + GAP + SMALL + 8)))
    opened = [Image.open(path) for path in paths]
    assert pipeline.show(opened, result, longer_side=64).tobytes() == together.tobytes()
    backwards = pipeline.show(paths[::-1], result, longer_side=64)
    assert backwards.tobytes() == pipeline.show(paths[::-1], result, [2, 1, 0],
                                                longer_side=64).tobytes()  # fmt: skip
    assert backwards.tobytes() != together.tobytes()
    tensors = torch.rand(2, 3, 32, 48)
    maps = pipeline.explain(Network(), tensors)
    assert pipeline.show(tensors, maps).tobytes() == pipeline.show(list(tensors), maps).tobytes()
    with pytest.raises(UserError, match=r"place: 1 for 2 images; give a place for each"):
        pipeline.show(paths[:2], result, 0)
    with pytest.raises(UserError, match=r"these are none of them by path; .* place=\[0, 1\]"):
        pipeline.show([paths[0], paths[0].with_name("other.png")], result)
    with pytest.raises(UserError, match="images: none given"):
        pipeline.show([], result)


def test_panels_are_captioned_and_signed_maps_have_two_colours(
    explained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[ContactSheet] = []

    def keep(sheet: ContactSheet) -> np.ndarray:
        drawn.append(sheet)
        return np.zeros((9, 9, 3), np.uint8)

    monkeypatch.setattr(ContactSheet, "draw", keep)
    result, paths = explained
    pipeline.show(paths[:2], result)
    of_class = [f"{float(p):.1%}".replace("%", " %") for p in result.probabilities.diag()]
    predicted = result.logits.argmax(1).tolist()
    for n, row in enumerate(drawn[0].rows):
        tail = ", predicted" * (predicted[n] == n)
        assert row.captions == ["image", f"{NAMES[n]}, {of_class[n]}{tail}"]
        assert (row.name, row.note) == (f"{n}.png", "gradcam")
    tensor = torch.randn(1, 3, 32, 48)
    fine = pipeline.explain(Network(), tensor, "gradient_times_input")
    pipeline.show(tensor, fine)
    panel = drawn[1].rows[0].panels[1]
    wanted = apply_diverging(
        scale_signed(resize_to_frame(fine.maps[0].numpy(), panel.shape[:2]), 99.0)
    )
    np.testing.assert_array_equal(panel, wanted)
    assert [scale.low for scale in drawn[1].legend] == ["against"]
    own = pipeline.explain(Network(), tensor, target=lambda output: output[:, 0] + 20)
    pipeline.show(tensor, own)
    assert drawn[2].rows[0].captions == ["image", f"score 0, {float(own.logits):.4g}"]


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
