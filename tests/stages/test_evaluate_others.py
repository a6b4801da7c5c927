"""Others' boxes and maps: numbers by hand, comparisons, refusals, and our own runs scored again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.formats.coco_boxes import xyxy_to_xywh
from pipeline.metric.components import curves
from pipeline.metric.max_box_acc import two_fold_thresholds
from pipeline.ops.bootstrap import Comparison
from pipeline.ops.maps import upsample
from pipeline.results.comparison import sentence_of
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.results.thresholds import fold_of_image
from pipeline.segmenter.auto import auto_threshold
from pipeline.stages.evaluate.map_folder import find_oddity
from pipeline.stages.evaluate.others import Named
from tests.conftest import TINY, Cli
from tests.metric import reference

EVALUATE = "+experiment=evaluate"


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def annotate(folder: Path, boxes: Mapping[int, Sequence[tuple[int, Sequence[float]]]]) -> Path:
    """Images of 100 x 100; class 3 is cat, 5 is dog."""
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 100} for n in boxes]
    found = [
        {"id": 10 * n + k, "image_id": n, "category_id": c, "bbox": box}
        for n, own in boxes.items()
        for k, (c, box) in enumerate(own)
    ]
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}]
    whole = {"images": images, "annotations": found, "categories": categories}
    return write(folder / "instances.json", whole)


def result(image: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def metrics(tmp_path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    records = json.loads((tmp_path / "outputs/latest/metrics.json").read_text())
    return {
        (r["name"], r["iou"], (r["threshold"] or {}).get("kind"), r["class"]): r for r in records
    }


def stage(tmp_path: Path, name: str) -> Any:
    return json.loads((tmp_path / "outputs/latest/stages/evaluate" / name).read_text())


BOXES = {1: [(3, [10, 10, 40, 40])], 2: [(5, [0, 0, 20, 20]), (5, [50, 50, 40, 40])],
         3: [(3, [5, 5, 5, 5])], 4: []}  # fmt: skip


def test_boxes_by_hand(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = annotate(tmp_path, BOXES)
    theirs = [
        result(1, 3, [10, 10, 40, 40], 0.9),  # exact, but dog is thought more likely
        result(1, 5, [0, 0, 5, 5], 0.95),
        result(2, 5, [0, 0, 20, 10], 0.8),  # IoU 0.5
        result(4, 3, [0, 0, 9, 9], 0.1),  # where nothing is annotated
        result(9, 3, [0, 0, 9, 9], 0.1),
        result(1, 3, [50, 50, -9, 9], 0.1),
    ]
    boxes = write(tmp_path / "theirs.json", theirs)
    assert cli(EVALUATE, f"boxes={boxes}", f"annotations={truth}") == 0
    found = metrics(tmp_path)
    third = pytest.approx(1 / 3)
    for iou, wanted in ((0.3, 2 / 3), (0.5, 2 / 3), (0.7, 1 / 3)):
        assert found["gt_known_loc", iou, None, None]["value"] == pytest.approx(wanted)
    assert found["gt_known_loc", 0.5, None, None]["n"] == 3
    low, high = found["gt_known_loc", 0.5, None, None]["interval"]
    assert low < 2 / 3 < high
    assert found["top1_loc", 0.5, None, None]["value"] == third
    assert found["top5_loc", 0.5, None, None]["value"] == pytest.approx(2 / 3)
    assert found["corloc", 0.5, None, None]["value"] == pytest.approx(0.25)
    assert found["mean_iou", None, None, None]["value"] == pytest.approx(0.5)
    assert found["box_precision", 0.5, None, None]["value"] == pytest.approx(2 / 3)
    assert found["box_recall", 0.5, None, None]["value"] == pytest.approx(2 / 4)
    assert found["box_f1", 0.5, None, None]["value"] == pytest.approx(4 / 7)
    assert found["gt_known_loc", 0.5, None, "dog"]["value"] == 1
    assert found["box_precision", 0.5, None, "dog"]["value"] == pytest.approx(1 / 2)
    assert found["gt_known_loc", 0.5, None, "size: small"]["group"] == "size"
    assert found["gt_known_loc", 0.5, None, "size: small"]["n"] == 1
    assert found["box_recall", 0.5, None, "number: 2 objects"]["value"] == pytest.approx(1 / 2)
    assert found["full_image_loc", 0.5, None, None]["value"] == 0
    # pycocotools, by hand: dog at 0.5 finds one of two, the wrong dog first; cat one of two.
    ap = found["coco_box_ap", 0.5, None, None]
    assert ap["interval"] is None
    assert ap["n"] == 4
    assert found["coco_box_ap", 0.5, None, "cat"]["value"] == pytest.approx(51 / 101)
    assert found["coco_box_ap", 0.5, None, "dog"]["value"] == pytest.approx(51 / 101 / 2)
    assert ap["value"] == pytest.approx(51 / 101 * 3 / 4)
    notes = " ".join(note["text"] for note in stage(tmp_path, "notes.json"))
    for told in ("1 record ('results[4]') with an image_id",
                 "1 record ('results[5]') whose bbox has a",
                 "1 image ('4.jpg') has no annotation", "1 annotated image ('3.jpg') has no box",
                 "have no interval"):  # fmt: skip
        assert told in notes
    images = stage(tmp_path, "images.json")
    assert [one["id"] for one in images] == ["1.jpg", "2.jpg", "3.jpg"]
    assert [one["iou"] for one in images] == [1, 0.5, 0]
    told = capsys.readouterr().out
    assert "theirs.json, percent over 3 of 4 images" in told
    assert "COCO AP, boxes, n = 4" in told
    assert "precision and device not known (made elsewhere); scored with label2box " in told
    assert ap["precision"] is None
    assert set(ap["versions"]) >= {"label2box", "torch", "numpy"}
    assert "box F1, precision/recall" in told
    assert "57.1 (66.7/50.0)" in told
    assert cli(EVALUATE, f"boxes={boxes}", f"annotations={truth}") == 0
    assert "evaluate   kept" in capsys.readouterr().out


def test_images_without_a_box_can_be_left_out(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = annotate(tmp_path, BOXES)
    theirs = [result(1, 3, [10, 10, 40, 40], 0.9), result(2, 5, [0, 0, 20, 10], 0.8)]
    boxes = write(tmp_path / "theirs.json", theirs)
    run = (EVALUATE, f"boxes={boxes}", f"annotations={truth}")
    assert cli(*run) == 0
    assert metrics(tmp_path)["gt_known_loc", 0.5, None, None]["value"] == pytest.approx(2 / 3)
    assert "has no box: counted as not found; missing=skip leaves" in capsys.readouterr().out
    assert cli(*run, "missing=skip") == 0
    found = metrics(tmp_path)
    assert found["gt_known_loc", 0.5, None, None]["value"] == 1
    assert found["gt_known_loc", 0.5, None, None]["n"] == 2
    # By hand: cat is found; of the two dogs of image 2 one is, the first of the results.
    assert found["coco_box_ap", 0.5, None, "cat"]["value"] == pytest.approx(1)
    assert found["coco_box_ap", 0.5, None, "dog"]["value"] == pytest.approx(51 / 101)
    told = capsys.readouterr().out
    assert "1 annotated image ('3.jpg') of 3 not scored (missing=skip)" in told
    assert "no annotation" not in told  # image 4 has neither boxes nor annotations
    nothing = write(tmp_path / "none.json", [])
    assert cli(EVALUATE, f"boxes={nothing}", f"annotations={truth}", "missing=skip") == 2
    assert "none of its 3 annotated images is among the 0" in capsys.readouterr().err


def test_no_box_at_all_is_nothing_found(cli: Cli, tmp_path: Path) -> None:
    boxes = write(tmp_path / "b.json", [])
    assert cli(EVALUATE, f"boxes={boxes}", f"annotations={annotate(tmp_path, BOXES)}") == 0
    assert metrics(tmp_path)["gt_known_loc", 0.5, None, None]["value"] == 0
    assert metrics(tmp_path)["coco_box_ap", None, None, None]["value"] == 0


def test_classes_that_were_given_make_no_top1(cli: Cli, tmp_path: Path) -> None:
    truth = annotate(tmp_path, BOXES)
    boxes = write(tmp_path / "b.json", [result(1, 3, [10, 10, 40, 40], 0.9)])
    assert cli(EVALUATE, f"boxes={boxes}", f"annotations={truth}") == 0
    assert ("top1_loc", 0.5, None, None) not in metrics(tmp_path)
    assert any("was given, not predicted" in note["text"] for note in stage(tmp_path, "notes.json"))


def test_masks_of_results_get_an_ap_too(cli: Cli, tmp_path: Path) -> None:
    truth = annotate(tmp_path, {1: [(3, [10, 10, 40, 40])], 2: [(3, [0, 0, 20, 20])]})
    whole = json.loads(truth.read_text())
    for one in whole["annotations"]:
        x, y, w, h = one["bbox"]
        one["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    write(truth, whole)
    theirs = [
        {**result(one["image_id"], 3, one["bbox"], 0.9), "segmentation": one["segmentation"]}
        for one in whole["annotations"]
    ]
    boxes = write(tmp_path / "b.json", theirs)
    assert cli(EVALUATE, f"boxes={boxes}", f"annotations={truth}") == 0
    assert metrics(tmp_path)["coco_mask_ap", None, None, None]["value"] == pytest.approx(1)
    del theirs[0]["segmentation"]
    write(boxes, theirs)
    assert cli(EVALUATE, f"boxes={boxes}", f"annotations={truth}") == 0
    assert ("coco_mask_ap", None, None, None) not in metrics(tmp_path)
    assert any("no AP of masks" in note["text"] for note in stage(tmp_path, "notes.json"))


def test_several_classes_in_an_image_are_units_each(cli: Cli, tmp_path: Path) -> None:
    truth = annotate(tmp_path, {1: [(3, [0, 0, 10, 10]), (5, [50, 50, 10, 10])]})
    boxes = write(tmp_path / "b.json", [result(1, 3, [0, 0, 10, 10], 0.9)])
    assert cli(EVALUATE, f"boxes={boxes}", f"annotations={truth}") == 0
    assert metrics(tmp_path)["gt_known_loc", 0.5, None, None]["n"] == 2
    assert metrics(tmp_path)["gt_known_loc", 0.5, None, None]["value"] == 0.5


def test_two_results_are_compared_image_by_image(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = [10, 10, 40, 40]
    truth = annotate(tmp_path, {n: [(3, box)] for n in range(1, 41)})
    right = [result(n, 3, box, 0.9) for n in range(1, 41)]
    wrong = [{**one, "bbox": [80, 80, 9, 9]} if n < 12 else one for n, one in enumerate(right)]
    a, b = write(tmp_path / "a.json", wrong), write(tmp_path / "b.json", right)
    assert cli(EVALUATE, f"boxes={a}", f"annotations={truth}", f"against={b}") == 0
    told = stage(tmp_path, "comparison.json")
    assert told["sentence"].startswith(
        "b.json is better than a.json by 30.0 points in GT-known Loc at IoU 0.5 over 40 images "
    )
    assert told["sentence"] in capsys.readouterr().out
    record = metrics(tmp_path)["difference:gt_known_loc", 0.5, None, None]
    assert record["value"] == pytest.approx(0.3)
    assert record["p_value"] < 0.01
    assert record["interval"][0] > 0.1
    assert ("difference:box_f1", 0.5, None, None) in metrics(tmp_path)

    assert cli(EVALUATE, f"boxes={b}", f"annotations={truth}", f"against={a}") == 0
    told = stage(tmp_path, "comparison.json")["sentence"]
    assert told.startswith("b.json is better than a.json by 30.0 points")

    assert cli(EVALUATE, f"boxes={a}", f"annotations={truth}", f"against={a}") == 0
    told = stage(tmp_path, "comparison.json")["sentence"]
    assert told.startswith("no difference that 40 images could tell")
    assert all(one["record"]["value"] == 0 and one["record"]["p_value"] == 1
               for one in stage(tmp_path, "comparison.json")["differences"])  # fmt: skip


def test_a_difference_is_told_only_where_it_is_sure() -> None:
    told = sentence_of(Comparison(0.021, (0.004, 0.038), 0.0196, 250), "X", ["A", "B"], "images")
    assert (
        told == "B is better than A by 2.1 points in X over 250 images (95 %: 0.4 to 3.8, p = 0.02)"
    )
    told = sentence_of(Comparison(0.021, (-0.004, 0.05), 0.2, 250), "X", ["A", "B"], "images")
    assert told.startswith("no difference that 250 images could tell between A and B in X: ")
    assert "B minus A is 2.1 points (95 %: -0.4 to 5.0, p = 0.2)" in told


def test_why_there_is_no_difference_is_said() -> None:
    def say(interval: tuple[float, float], p: float, times: int = 1) -> str:
        result = Comparison(-0.625, interval, p, 8)
        return sentence_of(result, "X", ["A", "this run"], "images", times=times)

    told = say((-1.0, -0.25), 0.065)
    assert "this run minus A is -62.5 points (95 %: -100.0 to -25.0, p = 0.065; the" in told
    assert "the interval excludes 0, but p is not below 0.05: needed are both" in told
    assert "p is below 0.05, but the interval includes 0" in say((-1.0, 0.0), 0.04)
    assert "p = 0.065, corrected for 3 comparisons" in say((-1.0, -0.25), 0.065, 3)
    assert "p = 0.01, corrected for 2 comparisons" in say((-1.0, -0.25), 0.01, 2)
    assert "corrected" not in told


def test_those_that_are_compared_have_names_of_their_own() -> None:
    def called(boxes: str, against: str | None) -> list[str]:
        return Named(boxes=boxes, against=against).names()

    assert called("/a/boxes.json", None) == ["boxes.json"]
    assert called("/a/1/boxes.json", "/a/2/boxes.json") == ["1/boxes.json", "2/boxes.json"]
    assert called("/a/b.json", "/a/b.json") == ["b.json", "b.json (against)"]


# -- maps


def metadata(folder: Path, size: int, boxes: dict[str, str], classes: bool = True) -> Path:
    write(folder / "image_ids.txt", "\n".join(boxes))
    if classes:
        lines = [f"{one},{n % 2}" for n, one in enumerate(boxes)]
        write(folder / "class_labels.txt", "\n".join(lines))
    write(folder / "image_sizes.txt", "\n".join(f"{one},{size},{size}" for one in boxes))
    write(folder / "localization.txt", "\n".join(f"{k},{v}" for k, v in boxes.items() if v))
    return folder


def square(size: int, low: int, high: int) -> np.ndarray:
    values = np.zeros((size, size), np.float32)
    values[low:high, low:high] = 1
    return values


def test_maps_by_hand(cli: Cli, tmp_path: Path) -> None:
    true = dict.fromkeys(("v/1.jpg", "v/2.jpg", "v/3.jpg", "v/4.jpg"), "10,10,19,19")
    folder = metadata(tmp_path / "maps", 40, {**true, "v/5.jpg": ""})
    (folder / "v").mkdir()
    np.save(folder / "v/1.jpg.npy", square(40, 10, 20) * 5 - 2)  # any range is brought to [0, 1]
    np.save(folder / "v/2.npy", square(40, 30, 40))
    np.save(folder / "v/4.npy", np.full((4, 4), np.nan))
    np.save(folder / "v/5.npy", square(40, 10, 20))
    np.save(folder / "v/6.npy", square(40, 10, 20))
    assert cli(EVALUATE, f"maps={folder}", "missing=skip") == 0
    found = metrics(tmp_path)
    for place in (("max_box_acc", 0.5, "oracle", None), ("max_box_acc_v2", None, "oracle", None),
                  ("gt_known_loc", 0.5, "fixed", None), ("gt_known_loc", 0.7, "oracle", None),
                  ("energy_pointing_game", None, None, None),
                  ("mean_iou", None, "fixed", None)):  # fmt: skip
        assert (found[place]["value"], found[place]["n"]) == (0.5, 2), place
    assert found["gt_known_loc", 0.5, "fixed", None]["threshold"]["value"] == 0.2
    # The wrong one's peak, (30.5, 30.5), is 14.85 pixels from the box's corner: within 15.
    assert found["pointing_game", None, None, None]["value"] == 1
    assert found["gt_known_loc", 0.5, "fixed", "0"]["value"] == 1
    assert ("pyramid_max_box_acc_v2", None, "oracle", None) in found
    notes = " ".join(note["text"] for note in stage(tmp_path, "notes.json"))
    for told in (
        "1 image ('v/3.jpg') has no map",
        "1 image ('v/4.jpg') has a map with values",
        "1 image ('v/5.jpg') has no annotation",
        "1 map ('v/6.npy') is of no image",
    ):
        assert told in notes
    assert [one["found"] for one in stage(tmp_path, "images.json")] == [
        [[10, 10, 20, 20]], [[30, 30, 40, 40]]]  # fmt: skip
    assert stage(tmp_path, "curve.json")["fixed"] == 0.2


PERFECT = (
    ("max_box_acc", 0.5, "oracle", None), ("max_box_acc_v2", None, "oracle", None),
    ("max_box_acc_v2", 0.7, "oracle", None), ("gt_known_loc", 0.3, "fixed", None),
    ("gt_known_loc", 0.5, "auto", None), ("gt_known_loc", 0.7, "oracle", None),
    ("mean_iou", None, "fixed", None), ("pointing_game", None, None, None),
    ("energy_pointing_game", None, None, None),
)  # fmt: skip
UNUSABLE: dict[str, Any] = {
    "absent": None, "nan": np.full((4, 4), np.nan), "text": "no array", "cube": np.ones((3, 4, 4)),
    "empty": np.zeros((0, 4)), "words": np.array([["a"]]), "infinite": np.full((4, 4), np.inf),
}  # fmt: skip


def test_maps_that_are_constant_or_transposed_are_named(cli: Cli, tmp_path: Path) -> None:
    names = [f"{n}.jpg" for n in range(4)]
    folder = metadata(tmp_path / "maps", 40, dict.fromkeys(names, "10,10,19,19"))
    write(folder / "image_sizes.txt", "\n".join(f"{name},40,20" for name in names))
    values = np.zeros((20, 40), np.float32)
    values[10:20, 10:20] = 1
    np.save(folder / "0.npy", values)
    np.save(folder / "1.npy", values[..., None])
    np.save(folder / "2.npy", np.ascontiguousarray(values.T))
    np.save(folder / "3.npy", np.full((20, 40), 0.5, np.float32))
    assert cli(EVALUATE, f"maps={folder}") == 0
    notes = " ".join(note["text"] for note in stage(tmp_path, "notes.json"))
    assert "maps: 1 image ('2.jpg') of 4 has a map of the shape of the transp" in notes
    assert "maps: 1 image ('3.jpg') of 4 has a map with the same value everywhere" in notes
    ious = {record["id"]: record["iou"] for record in stage(tmp_path, "images.json")}
    assert (ious["0.jpg"], ious["1.jpg"], ious["3.jpg"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((64, 48), (48, 64), "transposed"),
        ((7, 10), (300, 425), None),
        ((10, 7), (300, 425), "transposed"),
        ((14, 14), (300, 400), None),
        ((5, 4), (100, 101), None),
        ((48, 48), (48, 48), None),
    ],
)
def test_a_map_is_transposed_only_where_its_shape_says_so(
    shape: tuple[int, int], size: tuple[int, int], expected: str | None
) -> None:
    oddity = find_oddity(np.arange(shape[0] * shape[1]).reshape(shape), size)
    assert (oddity is None) if expected is None else (expected in str(oddity))


def write_unusable(path: Path, content: Any) -> None:
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        np.save(path, content)


@pytest.mark.parametrize("protocol", ["default", "wsolevaluation"])
def test_images_without_a_usable_map_count_as_not_found(
    protocol: str, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 10 images 3 have a perfect map: everywhere 3 of 10, and 3 of 3 with missing=skip."""
    names = [*UNUSABLE, "a", "b", "c", "bare"]
    size = 224
    lines = {f"{name}.jpg": "0,0,49,49" for name in names} | {"bare.jpg": ""}
    folder = metadata(tmp_path / "maps", size, lines)
    for name, content in UNUSABLE.items():
        write_unusable(folder / f"{name}.npy", content)
    for name in "abc":
        np.save(folder / f"{name}.npy", square(size, 0, 50))
    run = (EVALUATE, f"maps={folder}", f"protocol={protocol}")
    assert cli(*run) == 0
    counted = metrics(tmp_path)
    said = capsys.readouterr().out
    assert "percent over 10 of 11 images" in said
    notes = " ".join(note["text"] for note in stage(tmp_path, "notes.json"))
    assert "('absent.jpg') has no map: counted as not found; missing=skip leaves" in notes
    assert "2 images ('nan.jpg', 'infinite.jpg') have a map with values that are not f" in notes
    records = {one["id"]: one for one in stage(tmp_path, "images.json")}
    assert len(records) == 10
    assert (records["nan.jpg"]["iou"], records["nan.jpg"]["found"]) == (0, [])
    assert records["nan.jpg"]["true"] == [[0, 0, 50, 50]]

    assert cli(*run, "missing=skip") == 0
    skipped = metrics(tmp_path)
    assert "percent over 3 of 11 images" in capsys.readouterr().out
    assert "not scored (missing=skip)" in " ".join(
        note["text"] for note in stage(tmp_path, "notes.json")
    )
    for place in PERFECT:
        assert (counted[place]["n"], skipped[place]["n"]) == (10, 3), place
        assert counted[place]["value"] == pytest.approx(0.3 * skipped[place]["value"]), place
        assert skipped[place]["value"] > 0.95, place
    # What does not depend on the maps is measured on all annotated images.
    assert counted["pyramid_max_box_acc_v2", None, "oracle", None]["n"] == 10
    assert counted["full_image_loc", 0.5, None, None]["n"] == 10


def test_masks_without_a_map_are_not_found_at_any_threshold(cli: Cli, tmp_path: Path) -> None:
    import cv2

    names = ("1", "2", "3")
    folder = metadata(tmp_path / "maps", 40, {f"{n}.jpg": f"{n}.png," for n in names})
    for n, high in zip(names, (20, 20, 40), strict=True):
        cv2.imwrite(str(folder / f"{n}.png"), (square(40, 0, high) * 255).astype(np.uint8))
    np.save(folder / "1.npy", square(40, 0, 20))
    # The map of 2 is half right; that of 3, whose object fills the image, is missing.
    np.save(folder / "2.npy", square(40, 0, 20) + np.where(square(40, 20, 40) > 0, 1, 0))
    assert cli(EVALUATE, f"maps={folder}", "missing=skip") == 0
    skipped = metrics(tmp_path)
    assert cli(EVALUATE, f"maps={folder}") == 0
    counted = metrics(tmp_path)
    share = 800 / (800 + 1600)  # of the pixels of objects that have a map
    for name, kind in (("pxap", None), ("pxiou", "oracle")):
        place = (name, None, kind, None)
        assert (counted[place]["n"], skipped[place]["n"]) == (3, 2)
        assert counted[place]["value"] < skipped[place]["value"]
    value = skipped["pxap", None, None, None]["value"]
    assert counted["pxap", None, None, None]["value"] == pytest.approx(share * value)
    assert counted["pointing_game", None, None, None]["value"] == pytest.approx(2 / 3)
    assert counted["pyramid_pxap", None, None, None]["n"] == 3


def test_maps_are_scored_at_each_kind_of_threshold(cli: Cli, tmp_path: Path) -> None:
    """Auto by the rule, validation at the threshold that is best for the other half."""
    rng = np.random.default_rng(0)
    names = [f"{n}.jpg" for n in range(30)]
    folder = metadata(tmp_path / "maps", 40, dict.fromkeys(names, "10,10,24,24"))
    true, measured, auto = np.array([[10, 10, 25, 25]], np.float32), {}, {}
    for name in names:
        values = upsample((square(40, 8, 27) + 0.8 * rng.random((40, 40))).astype(np.float32),
                          (40, 40))  # fmt: skip
        np.save(folder / f"{name}.npy", values)
        measured[name], auto[name] = curves(values, true).largest, auto_threshold(values)
    assert cli(EVALUATE, f"maps={folder}") == 0
    found = metrics(tmp_path)
    halves = [
        np.stack([measured[name] for name in names if fold_of_image(name) == half])
        for half in (0, 1)
    ]
    chosen = {
        f"{iou:g}": two_fold_thresholds([(rows >= iou).mean(0) for rows in halves])
        for iou in (0.3, 0.5, 0.7)
    }

    def reached(iou: float, thresholds: dict[str, float]) -> float:
        """GT-known Loc of these maps, each cut at its own threshold."""
        at = {name: round(1000 * value) for name, value in thresholds.items()}
        return float(np.mean([measured[name][at[name]] >= iou for name in names]))

    for iou in (0.3, 0.5, 0.7):
        assert found["gt_known_loc", iou, "auto", None]["value"] == pytest.approx(
            reached(iou, auto)
        )
        score = found["gt_known_loc", iou, "validation", None]
        assert score["threshold"] == {
            "kind": "validation", "value": chosen[f"{iou:g}"], "source": "two_fold",
        }  # fmt: skip
        by_fold = {name: chosen[f"{iou:g}"][fold_of_image(name)] for name in names}
        assert score["value"] == pytest.approx(reached(iou, by_fold))
        for kind in ("fixed", "auto", "validation", "oracle"):
            assert found["gt_known_loc", iou, kind, None]["n"] == 30
            assert found["gt_known_loc", iou, kind, "1"]["n"] == 15
    table = (tmp_path / "outputs/latest/stages/evaluate/table.txt").read_text()
    rows = [line.split("(")[1].split()[0].rstrip(")")
            for line in table.split("\n") if "GT-known" in line]  # fmt: skip
    assert rows == ["fixed", "auto", "validation", "oracle"]


def test_few_maps_choose_no_threshold(cli: Cli, tmp_path: Path) -> None:
    folder = metadata(tmp_path / "maps", 40, {f"{n}.jpg": "10,10,19,19" for n in range(9)})
    for n in range(9):
        np.save(folder / f"{n}.npy", square(40, 10, 20))
    assert cli(EVALUATE, f"maps={folder}") == 0
    assert {place[2] for place in metrics(tmp_path) if place[0] == "gt_known_loc"} == {
        "fixed", "auto", "oracle"}  # fmt: skip
    (note,) = json.loads((tmp_path / "outputs/latest/notes.json").read_text())
    assert "no number at a validation threshold" in note["text"]
    assert "at least 10 images with boxes are scored, and 9 are" in note["text"]
    assert note["method"] is None


def test_their_protocol_measures_a_pixel_more(cli: Cli, tmp_path: Path) -> None:
    folder = metadata(tmp_path / "maps", 224, {"1.jpg": "50,50,99,99"}, classes=False)
    np.save(folder / "1.npy", square(224, 50, 100))
    assert cli(EVALUATE, f"maps={folder}", "protocol=wsolevaluation") == 0
    iou = metrics(tmp_path)["mean_iou", None, "fixed", None]["value"]
    assert iou == pytest.approx(50**2 / 51**2)
    assert cli(EVALUATE, f"maps={folder}") == 0
    assert metrics(tmp_path)["mean_iou", None, "fixed", None]["value"] == 1
    assert not any("224x224" in note["text"] for note in stage(tmp_path, "notes.json"))


def test_masks_with_ignore(cli: Cli, tmp_path: Path) -> None:
    import cv2

    folder = metadata(tmp_path / "maps", 40, {"1.jpg": "o.png,i.png"})
    cv2.imwrite(str(folder / "o.png"), (square(40, 10, 20) * 255).astype(np.uint8))
    cv2.imwrite(str(folder / "i.png"), (square(40, 10, 30) * 255).astype(np.uint8))
    np.save(folder / "1.npy", square(40, 10, 30))  # wrong only where nobody looks
    assert cli(EVALUATE, f"maps={folder}") == 0
    found = metrics(tmp_path)
    assert found["pxap", None, None, None]["value"] == 1
    assert found["pxiou", None, "oracle", None]["value"] == 1
    assert found["pointing_game", None, None, None]["value"] == 1
    assert found["energy_pointing_game", None, None, None]["value"] == 1
    assert ("pyramid_pxap", None, None, None) in found


@reference.needed
def test_their_protocol_gives_their_numbers(cli: Cli, tmp_path: Path) -> None:
    """From files to metrics.json, equal to the evaluator itself: boxes of the CAMs, and masks."""
    import cv2

    answers, arrays = reference.answers(), reference.arrays()
    own = answers["groups"]["cam"]
    lines = {
        f"c/{i}.jpg": [",".join(map(str, box)) for box in answers["boxes"][i]] for i in own["index"]
    }
    folder = metadata(tmp_path / "maps", 224, dict.fromkeys(lines, ""))
    every = [f"{one},{box}" for one, boxes in lines.items() for box in boxes]
    write(folder / "localization.txt", "\n".join(every))
    (folder / "c").mkdir()
    for i in own["index"]:
        np.save(folder / f"c/{i}.jpg.npy", arrays["maps"][i])
    assert cli(EVALUATE, f"maps={folder}", "protocol=wsolevaluation") == 0
    found = metrics(tmp_path)
    single = found["max_box_acc", 0.5, "oracle", None]["value"]
    assert 100 * single == pytest.approx(own["single"]["max_box_acc"]["50"], abs=1e-9)
    for iou in (30, 50, 70):
        multi = found["max_box_acc_v2", iou / 100, "oracle", None]["value"]
        assert 100 * multi == pytest.approx(own["multi"]["max_box_acc"][str(iou)], abs=1e-9)

    masked = {f"{n}.jpg": f"{n}.png,{n}_ignore.png" for n in range(len(arrays["masks"]))}
    folder = metadata(tmp_path / "masked", 224, masked)
    for n, (values, mask) in enumerate(zip(arrays["mask_maps"], arrays["masks"], strict=True)):
        cv2.imwrite(str(folder / f"{n}.png"), (mask == 1).astype(np.uint8) * 255)
        cv2.imwrite(str(folder / f"{n}_ignore.png"), (mask == 255).astype(np.uint8) * 255)
        np.save(folder / f"{n}.npy", values)
    assert cli(EVALUATE, f"maps={folder}", "protocol=wsolevaluation") == 0
    found = metrics(tmp_path)
    assert 100 * found["pxap", None, None, None]["value"] == pytest.approx(
        answers["pxap"], abs=1e-9
    )


def test_two_folders_of_maps_are_compared_on_all_annotated_images(cli: Cli, tmp_path: Path) -> None:
    names = {f"{n}.jpg": "10,10,19,19" for n in range(12)}
    known = metadata(tmp_path / "meta", 40, names)
    for folder, low in (("a", 28), ("b", 10)):
        (tmp_path / folder).mkdir()
        for n in range(12 if folder == "a" else 11):
            np.save(tmp_path / folder / f"{n}.npy", square(40, low, low + 10))
    arguments = (f"maps={tmp_path / 'a'}", f"metadata={known}")
    assert cli(EVALUATE, *arguments, f"against={tmp_path / 'b'}") == 0
    told = stage(tmp_path, "comparison.json")
    assert told["sentence"].startswith("b is better than a by ")
    assert "points in MaxBoxAccV2 (oracle) over 12 images" in told["sentence"]
    assert told["differences"][0]["record"]["n"] == 12
    assert "by 91.7 points" in told["sentence"], "11 of 12: the twelfth has no map in b"
    assert cli(EVALUATE, *arguments, f"against={tmp_path / 'b'}", "missing=skip") == 0
    told = stage(tmp_path, "comparison.json")
    notes = [note["text"] for note in stage(tmp_path, "notes.json")]
    assert [note.partition(":")[0] for note in notes] == ["b"], "the set that has no map"
    latest = tmp_path / "outputs/latest"
    assert json.loads((latest / "comparison.json").read_text()) == told
    assert "over 11 images" in told["sentence"]
    assert told["differences"][0]["record"]["n"] == 11
    assert cli(EVALUATE, *arguments, f"against={tmp_path / 'a'}") == 0
    told = stage(tmp_path, "comparison.json")
    assert told["sentence"].startswith("no difference that 12 images could tell")


def test_no_usable_map_names_what_is_there(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = metadata(tmp_path / "meta", 40, {f"val/{n}.jpg": "10,10,19,19" for n in range(3)})
    (tmp_path / "base/maps/val").mkdir(parents=True)
    for n in range(3):
        np.save(tmp_path / f"base/maps/val/{n}.npy", square(40, 10, 20))
        (tmp_path / f"base/{n}.png").write_bytes(b"")
    for how in ("not_found", "skip"):
        arguments = (f"maps={tmp_path / 'base'}", f"metadata={known}", f"missing={how}")
        assert cli(EVALUATE, *arguments) == 2
        error = capsys.readouterr().err
        assert f"give the folder {tmp_path / 'base/maps'}" in error
        assert "3 .png files" in error
        assert "missing=" not in error, "neither value helps"


# -- our own


def test_our_own_run_scored_again_gives_its_own_numbers(cli: Cli, tmp_path: Path) -> None:
    from pipeline.data.shapes import Shapes

    fixed = ("segmenter.threshold=0.2", "stages=[train,explain,localize,evaluate]")
    assert cli("+experiment=cam", *TINY, *fixed) == 0
    run = (tmp_path / "outputs/latest").resolve()
    own = metrics(tmp_path)
    data = Shapes(images=96, val_images=24)
    ids, numbers, truth = data.ids("val"), data.coco_names("val"), data.truth("val")
    images, found = [], []
    for number, name in zip(numbers.image_ids, ids, strict=True):
        one = truth[name]
        height, width = one.size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        category = numbers.category_ids[one.label]
        found += [{"image_id": number, "category_id": category, "bbox": xyxy_to_xywh(box)}
                  for box in one.of_label()]  # fmt: skip
    named = zip(numbers.category_ids, data.classes, strict=True)
    categories = [{"id": number, "name": name} for number, name in named]
    whole = {"images": images, "annotations": found, "categories": categories}
    known = write(tmp_path / "instances.json", whole)
    assert cli(EVALUATE, f"boxes={run}/boxes.json", f"annotations={known}") == 0
    again = metrics(tmp_path)
    for name in ("gt_known_loc", "corloc", "mean_iou"):
        for iou in (0.3, 0.5, 0.7, None):
            for label in (None, "heart"):
                mine = own.get((name, iou, "fixed", label))
                if mine is not None:
                    beside = again[name, iou, None, label]
                    assert beside["n"] == mine["n"]
                    assert beside["value"] == pytest.approx(mine["value"], abs=1e-4)

    folder = tmp_path / "maps"
    sizes, boxes = [], []
    for shard in list_shards(run / "stages/explain"):
        for _, one in iterate_maps(shard, ids):
            path = folder / f"{one.id}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, one.raw())
            sizes.append(f"{one.id},{one.size[1]},{one.size[0]}")
            boxes += [f"{one.id},{x0},{y0},{x1 - 1},{y1 - 1}"
                      for x0, y0, x1, y1 in truth[one.id].of_label().tolist()]  # fmt: skip
    write(folder / "image_ids.txt", "\n".join(ids))
    write(folder / "image_sizes.txt", "\n".join(sizes))
    write(folder / "localization.txt", "\n".join(boxes))
    assert cli(EVALUATE, f"maps={folder}") == 0
    again = metrics(tmp_path)
    for place in (("max_box_acc_v2", None, "oracle", None), ("max_box_acc", 0.5, "oracle", None),
                  ("gt_known_loc", 0.5, "fixed", None), ("gt_known_loc", 0.5, "oracle", None),
                  ("pyramid_max_box_acc_v2", None, "oracle", None)):  # fmt: skip
        assert again[place]["value"] == own[place]["value"], place
        assert again[place]["interval"] == own[place]["interval"], place


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], ["boxes=null, maps=null", "give boxes=RESULTS.json"]),
        (["boxes=b.json"], ["boxes=b.json", "give annotations=INSTANCES.json"]),
        (["boxes=b.json", "annotations=no.json"], ["boxes=b.json: no such file"]),
        (["boxes=b.json", "maps=m"], ["boxes=b.json, maps=m", "leave one away"]),
        (["boxes=b.json", "annotations=a.json", "metadata=m"], ["metadata=m", "leave it away"]),
        (["boxes=b.json", "annotations=a.json", "protocol=wsolevaluation"], ["protocol="]),
        (["maps=.", "missing=none"], ["missing=none", "choices: not_found, skip"]),
        (["maps=m", "annotations=a.json"], ["annotations=a.json", "metadata=FOLDER"]),
        (["maps=nowhere"], ["maps=nowhere: no such folder"]),
        (["maps=.", "protocol=theirs"], ["protocol=theirs", "choices: default, wsolevaluation"]),
        (["maps=."], ["image_ids.txt is not there", "metadata=FOLDER"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_combination_is_refused_at_start(
    arguments: list[str], told: list[str], cli: Cli, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert cli(EVALUATE, *arguments) == 2
    error = capsys.readouterr().err
    for part in told:
        assert part in error
    assert "Traceback" not in error
    assert not (tmp_path / "outputs").exists()


def test_boxes_without_the_stage_that_scores_them_are_refused(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("+experiment=cam", "boxes=b.json") == 2
    assert "+experiment=evaluate" in capsys.readouterr().err


def test_files_in_which_all_is_bad_fail(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = annotate(tmp_path, BOXES)
    boxes = write(tmp_path / "b.json", [result(77, 3, [1, 1, 5, 5], 0.5)])
    assert cli(EVALUATE, f"boxes={boxes}", f"annotations={truth}") == 2
    assert "none of its 1 records can be scored" in capsys.readouterr().err
    folder = metadata(tmp_path / "maps", 40, {"1.jpg": "1,1,2,2"})
    assert cli(EVALUATE, f"maps={folder}") == 2
    assert "no map could be scored" in capsys.readouterr().err
