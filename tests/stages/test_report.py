"""The page: what it shows of which images, what it says of numbers, that it asks for nothing."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
from PIL import Image

from pipeline.engine import compared
from pipeline.engine.completion import complete_config
from pipeline.engine.metrics import list_numbers, load_metrics
from pipeline.results.table import Scored, build_table, to_percent
from pipeline.stages.report.shown_images import SIDE, choose_images, shorten
from pipeline.stages.report.view_model import VERSION
from pipeline.types import Score
from tests.conftest import PUBLISHED, ROOT, TINY, Cli

pytestmark = pytest.mark.usefixtures("shared_results")

RUN = ("+experiment=cam", *TINY)
NUMBERS = list_numbers(load_metrics().values())
OURS = {f"../{name}" for name in PUBLISHED}
EVALUATED = "latest/stages/evaluate"
ALSO = {"../comparison.json"}  # where there are two to compare


class Page(HTMLParser):
    """What a browser would see: text, what the page asks for, and the view model that it holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: Counter[str] = Counter()
        self.asked: list[str] = []
        self.words: list[str] = []
        self.hidden = False
        self.feed(text)
        models = re.findall(r'<script type="application/json" id="view-model">(.*?)</script>', text)
        self.model: dict[str, Any] = json.loads(models[0]) if models else {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.hidden = tag in ("script", "style")
        found = dict(attrs)
        keys = ("src", "href", "srcset", "data", "action")
        self.asked += [v for k in keys if (v := found.get(k)) and not v.startswith("#")]

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(outputs: Path) -> Page:
    page = Page((outputs / "latest/report/index.html").read_text(encoding="utf-8"))
    for asked in page.asked:
        assert asked.startswith("data:image/") or asked in OURS | ALSO, asked[:80]
    for link in (OURS | ALSO) & set(page.asked):
        assert (outputs / "latest/report" / link).is_file(), link
    assert "@import" not in page.text
    assert "fetch(" not in page.text
    assert "connect-src" not in page.text
    assert page.model["version"] == VERSION
    ids = [image["id"] for image in page.model["images"]]
    assert len(ids) == len(set(ids)) == page.model["gallery"]["shown"]
    return page


def picture_of(image: dict[str, Any]) -> np.ndarray:
    """The picture of an image of the view model."""
    data = base64.b64decode(image["picture"].removeprefix("data:image/jpeg;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


def test_one_method(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN) == 0
    page = page_of(tmp_path / "outputs")
    model = page.model
    assert set(page.asked) >= OURS
    assert "24 images (val)" in page.said
    assert "skipped" not in page.said
    assert model["gallery"]["sentence"] == "all 24 images"
    assert sorted(image["rank"] for image in model["images"]) == list(range(1, 25))
    assert "Confidences are not calibrated" in page.said
    assert "data=shapes model=small saliency=cam segmenter=threshold" in page.said
    assert "segmenter.threshold=auto" in page.said
    assert "seed=0" in page.said
    assert "What the words mean" in page.said
    assert [stage["name"] for stage in model["stages"]][:2] == ["train", "explain"]
    assert all(stage["seconds"] is not None for stage in model["stages"])
    assert len(page.text) < 3e6


def test_images_are_what_the_stages_made(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN) == 0
    outputs = tmp_path / "outputs"
    model = page_of(outputs).model
    records = {r["id"]: r for r in json.loads((outputs / EVALUATED / "images.json").read_text())}
    boxes = {b["image_id"]: b for b in json.loads((outputs / "latest/boxes.json").read_text())}
    for image in model["images"]:
        record, box = records[image["id"]], boxes[image["position"] + 1]
        ((result,),) = image["results"]
        assert image["labels"] == [record["class"]]
        assert image["predicted"] == record["predicted"]
        assert [corners for _, *corners in image["true"]] == record["true"]
        assert result["iou"] == record["iou"]
        x, y, width, height = box["bbox"]
        np.testing.assert_allclose(result["boxes"][0][:4], [x, y, x + width, y + height], atol=0.02)
        assert result["confidence"] == pytest.approx(box["confidence"], abs=1e-4)
        picture = picture_of(image)
        assert picture.shape == (image["picture_height"], image["picture_width"], 3)
        assert max(picture.shape) <= SIDE
        values = np.frombuffer(base64.b64decode(result["map"]["data"]), np.uint8)
        assert values.size == result["map"]["height"] * result["map"]["width"] <= 56 * 56
        assert {values.min(), values.max()} <= {0, 255}
        ((label, width, height, outline, ignored),) = image["true_masks"]
        assert (label, ignored) == (record["class"], "")
        steps = [re.findall(r"-?\d+", part) for part in outline.split("z")[:-1]]
        points = np.concatenate([np.array(s, float).reshape(-1, 2).cumsum(0) for s in steps])
        scale = [image["width"] / width, image["height"] / height]
        box = np.concatenate([points.min(0) * scale, (points.max(0) + 1) * scale])
        whole = np.array(record["true"])
        np.testing.assert_allclose(box, [*whole[:, :2].min(0), *whole[:, 2:].max(0)], atol=1)
    assert model["gallery"]["masks"] == "All of them have annotated masks: a layer, off at first."
    assert all(image["file"] is None for image in model["images"])  # drawn, so there is no file


def test_the_slider_reaches_what_evaluate_measured(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN) == 0
    outputs = tmp_path / "outputs"
    (method,) = page_of(outputs).model["methods"]
    slider = method["slider"]
    assert slider["n"] == 24
    assert slider["of"] == "all 24 scored images"
    assert "segmenter.threshold_source=oracle" in slider["command"]
    assert "oracle" in slider["warning"]
    records = json.loads((outputs / "latest/metrics.json").read_text())
    used = {
        f"{record['iou']:g}": pytest.approx(record["value"], abs=1e-4)
        for record in records
        if record["name"] == "gt_known_loc" and record["group"] is None
        and record["threshold"]["kind"] == "auto"
    }  # fmt: skip
    assert slider["used"] == used
    for line in json.loads((outputs / EVALUATED / "curve.json").read_text())["lines"]:
        shares = [share for _, share in line["points"]]
        assert slider["accuracy"][f"{line['iou']:g}"][:100] == pytest.approx(shares, abs=1e-4)


def test_a_threshold_that_was_chosen_on_the_page_is_named_oracle(cli: Cli, tmp_path: Path) -> None:
    chosen = ("segmenter.threshold=0.37", "segmenter.threshold_source=oracle")
    assert cli(*RUN, *chosen) == 0
    outputs = tmp_path / "outputs"
    (method,) = page_of(outputs).model["methods"]
    assert method["slider"]["at"] == 37
    assert method["slider"]["kind"] == "oracle"
    rows = [row["cells"][0] for row in method["table"]["rows"]]
    assert "GT-known Loc (oracle, given 0.37)" in rows
    assert "GT-known Loc (oracle)" in rows
    assert "threshold_source=oracle" in method["table"]["advice"]
    records = json.loads((outputs / "latest/metrics.json").read_text())
    used = [
        r for r in records if r["name"] == "gt_known_loc" and r["iou"] == 0.5 and not r["group"]
    ]
    given = next(r for r in used if (r["threshold"] or {}).get("source") == "given")
    assert given["threshold"] == {"kind": "oracle", "value": 0.37, "source": "given"}
    assert given["value"] == pytest.approx(method["slider"]["accuracy"]["0.5"][37], abs=1e-4)


def test_causes_at_a_step_are_those_of_a_run_at_its_threshold(cli: Cli, tmp_path: Path) -> None:
    seen = set()
    models = {}
    for step in (37, 80):
        assert cli(*RUN, f"segmenter.threshold={step / 100}", "segmenter.components=all") == 0
        models[step] = page_of(tmp_path / "outputs").model
    for model in models.values():
        codes = {cause["key"]: cause["code"] for cause in model["causes"]} | {None: "0"}
        for step, other in models.items():
            for image, of_run in zip(model["images"], other["images"], strict=True):
                cause = of_run["results"][0][0]["cause"]
                assert image["results"][0][0]["steps"]["causes"][step] == codes[cause]
                seen.add(cause)
            for cause in other["causes"]:
                counts = model["methods"][0]["slider"]["causes"].get(cause["key"], [0] * 101)
                assert counts[step] == cause["count"]["cam"]
    assert len(seen) > 2


def test_segmenters_without_steps_say_why(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, "segmenter=grabcut") == 0
    model = page_of(tmp_path / "outputs").model
    assert model["methods"][0]["slider"]["steps"] == []
    assert "grabcut" in model["methods"][0]["slider"]["why"]
    masks = [image["results"][0][0]["masks"] for image in model["images"]]
    assert all(mask is not None and mask[0]["width"] <= 56 for mask in masks)


def test_several_methods_stand_side_by_side(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, "explain.methods=[cam,cam_positive]") == 0
    page = page_of(tmp_path / "outputs")
    assert "<h1>cam, cam_positive on shapes</h1>" in page.text
    assert "Methods compared" in page.said
    assert "Better, or luck?" in page.said
    assert "all differences" in page.said
    for method in ("cam", "cam_positive"):
        assert f"{method}: all numbers, curve, classes" in page.said
    assert [method["name"] for method in page.model["methods"]] == ["cam", "cam_positive"]
    for image in page.model["images"]:
        ious = [result["iou"] for (result,) in image["results"]]
        assert image["spread"] == pytest.approx(max(ious) - min(ious), abs=1e-4)
        assert all(set(cause["count"]) == {"cam", "cam_positive"} for cause in page.model["causes"])


def test_more_images_than_are_shown_are_a_random_sample(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, "report.images=5") == 0
    model = page_of(tmp_path / "outputs").model
    assert model["gallery"]["sentence"] == "5 of 24 images, drawn at random (seed 0)"
    assert model["methods"][0]["slider"]["of"] == "the 5 scored images of this page"
    assert cli(*RUN, "report.images=0") == 0
    assert page_of(tmp_path / "outputs").model["images"] == []


def test_a_sample_is_seeded_and_of_each_image_once() -> None:
    records = [n for n in range(50) for _ in range(2)]
    assert choose_images(records, 100, 0) == list(range(50))
    sample = choose_images(records, 7, 1)
    assert sample == sorted(set(sample))
    assert len(sample) == 7
    assert sample == choose_images(records, 7, 1) != choose_images(records, 7, 2)


def test_runs_stand_side_by_side(
    cli: Cli,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = tmp_path / "outputs"
    runs = []
    for saliency in ("cam", "cam_positive"):
        assert cli(*RUN, f"saliency={saliency}") == 0
        runs.append(str((outputs / "latest").resolve()))
    opened = []

    def complete(*given: Any) -> Any:
        opened.append(given)
        return complete_config(*given)

    monkeypatch.setattr(compared, "complete_config", complete)
    assert cli("+experiment=compare", f"runs=[{','.join(runs)}]") == 0
    assert len(opened) == 1, "the other run is opened once, for all stages"
    assert (outputs / "latest").resolve() == Path(runs[1]), "nothing new was made"
    (made,) = (outputs / "runs/compare").iterdir()
    page = Page((made / "report/index.html").read_text(encoding="utf-8"))
    assert [method["name"] for method in page.model["methods"]] == ["cam", "cam_positive"]
    assert page.model["first_order"] == "spread-down"
    (chart,) = (c for c in page.model["charts"]["list"] if c["key"] == "threshold")
    assert chart["marks"], "thresholds of each run"
    assert "Better, or luck?" in page.said
    for n, run in enumerate(runs):
        records = json.loads((Path(run) / "stages/evaluate/images.json").read_text())
        ious = {record["id"]: record["iou"] for record in records}
        for image in page.model["images"]:
            assert image["results"][n][0]["iou"] == ious[image["id"]]
    capfd.readouterr()
    assert cli("+experiment=compare", f"runs=[{runs[0]}]") == 2
    assert "expected two runs or more" in capfd.readouterr().err
    assert cli("+experiment=compare", f"runs=[{runs[0]},{runs[0]}]") == 2
    assert "named twice" in capfd.readouterr().err
    assert cli("+experiment=compare", f"runs=[{runs[0]},{tmp_path}]") == 2
    assert "no folder of a run" in capfd.readouterr().err


def test_without_annotations_it_says_so(cli: Cli, folder_of_images: Path, tmp_path: Path) -> None:
    (folder_of_images / "val/red/0.png").write_bytes(b"no image")
    arguments = ("+experiment=cam", "data=folder", f"data.root={folder_of_images}", "data.size=64",
                 "train.epochs=1", "train.batch=8")  # fmt: skip
    assert cli(*arguments) == 0
    page = page_of(tmp_path / "outputs")
    assert "8 images (val), 1 skipped" in page.said
    assert "No box was measured" in page.said
    assert "data.boxes=FILE" in page.said
    assert "instances_val.json" in page.said
    assert "<td></td>" not in page.text
    assert len(page.model["images"]) == 7
    assert not page.model["causes"]
    (method,) = page.model["methods"]
    assert method["slider"]["accuracy"] is None
    assert "oracle" not in method["slider"]["command"]
    for image in page.model["images"]:
        assert image["true"] == []
        assert Path(url2pathname(urlsplit(image["file"]).path)).is_file()
    made = json.loads((tmp_path / "outputs/latest/stages/evaluate/table.json").read_text())
    assert [row["cells"][0] for row in made["rows"]] == ["classification, top-1"]
    assert made["classes"]["head"] == ["class", "n", "top-1"]
    assert cli(*arguments, "report.paths=false") == 0
    assert str(folder_of_images) not in page_of(tmp_path / "outputs").text


def test_hostile_names_and_unlabelled_images(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, "stages=[train]") == 0
    photos = tmp_path / "photos"
    photos.mkdir()
    names = ['<b>"x"&\'.jpg', "{{ 7 * 7 }}.jpg", "plain.jpg", "<script>alert(1)<!--.jpg"]
    for n, name in enumerate(names):
        Image.fromarray(np.full((40, 60, 3), 60 * n, np.uint8)).save(photos / name)
    assert cli("+experiment=predict", "checkpoint=outputs/latest", f"images={photos}") == 0
    page = page_of(tmp_path / "outputs")
    assert sorted(image["id"] for image in page.model["images"]) == sorted(names)
    assert "alert(1)" not in page.said
    assert "<script>alert" not in page.text
    assert "These images have no labels" in page.said
    found = json.loads((tmp_path / "outputs/latest/boxes.json").read_text())
    scores = [box[4] for image in page.model["images"] for one in image["results"][0]
              for box in one["boxes"]]  # fmt: skip
    assert sorted(scores) == pytest.approx(sorted(one["score"] for one in found), abs=1e-4)


def test_shortened_keeps_both_ends() -> None:
    assert shorten("short.jpg") == "short.jpg"
    long = shorten("a" * 50 + "_0001.jpg")
    assert len(long) <= 36
    assert long.endswith("_0001.jpg")


def score(value: float, kind: str = "fixed", at: Any = 0.2, **more: Any) -> Score:
    return Score("gt_known_loc", value, more.pop("n", 30), 0.5, {"kind": kind, "value": at},
                 interval=more.pop("interval", (value, value)), **more)  # fmt: skip


def test_nothing_has_no_sign() -> None:
    assert [to_percent(v) for v in (-0.0, -1e-12, -0.0004, -0.0006, 0.0)] == [
        "0.0", "0.0", "0.0", "-0.1", "0.0"]  # fmt: skip


def test_equal_shares_are_written_alike() -> None:
    assert {to_percent(v) for v in (0.9375, 0.9375 - 1e-15, 0.9375 + 1e-15)} == {"93.8"}


def test_a_share_of_all_has_a_bound_and_not_an_interval_without_width() -> None:
    (card,) = build_table([score(1.0)], ["a", "b"], NUMBERS)["cards"]
    assert card["spread"] == "at least 88.6 (Wilson)"
    (card,) = build_table([score(0.0)], ["a", "b"], NUMBERS)["cards"]
    assert card["spread"] == "at most 11.4 (Wilson)"
    (card,) = build_table([score(0.5, interval=(0.3, 0.7))], ["a", "b"], NUMBERS)["cards"]
    assert card["spread"] == "30.0 to 70.0"


def test_without_boxes_numbers_are_of_images_and_an_average_precision_has_no_interval() -> None:
    map_ = Score(name="classification_ap", value=1.0, n=14, interval=None)
    table = build_table([map_], ["a", "b"], NUMBERS, Scored("pairs of an image and a class", 30))
    assert table["head"][0] == "percent over 14 images"
    (card,) = table["cards"]
    assert card["spread"] == ""


def test_advice_where_the_oracle_is_far_ahead() -> None:
    near, far = score(0.52, "oracle", 0.46), score(0.7, "oracle", 0.46)
    assert build_table([score(0.5), near], ["a"], NUMBERS)["advice"] is None
    advice = build_table([score(0.5), far], ["a"], NUMBERS)["advice"]
    assert "segmenter.threshold=0.46" in advice
    assert "optimistic" in advice
    other = score(0.65, "validation", 0.41)
    made = build_table([score(0.5), other, far], ["a"], NUMBERS)
    assert "segmenter.threshold=validation, chosen on other images, reaches 65.0" in made["advice"]
    assert [card["value"] for card in made["cards"]] == ["50.0", "65.0", "70.0"]
    assert [row["cells"][0] for row in made["rows"]] == [
        "GT-known Loc (fixed 0.2)", "GT-known Loc (validation)", "GT-known Loc (oracle)"
    ]  # fmt: skip
    halves = score(0.65, "validation", [0.41, 0.47])
    assert "65.0 %" in build_table([score(0.5), halves, far], ["a"], NUMBERS)["advice"]


@pytest.mark.parametrize(("classes", "there"), [(5, False), (6, True)])
def test_top5_of_five_classes_says_nothing(classes: int, there: bool) -> None:
    scores = [Score(f"classification_top{k}", 0.9, 10, interval=(0.8, 1.0)) for k in (1, 5)]
    rows = build_table(scores, [str(n) for n in range(classes)], NUMBERS)["rows"]
    assert any("top-5" in row["cells"][0] for row in rows) == there


def test_every_metric_is_explained(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, "explain.target=[true,top5]") == 0
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    records = json.loads((tmp_path / "outputs/latest/metrics.json").read_text())
    for name in {record["name"] for record in records} | set(records[0]):
        assert f"`{name}`" in text, name
