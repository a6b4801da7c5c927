"""The page: what it shows of which images, what it says of numbers, that it asks for nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.engine.metrics import list_numbers, load_metrics
from pipeline.results.table import Scored, build_table, to_percent
from pipeline.stages.report import gallery
from pipeline.types import Score
from tests.conftest import PUBLISHED, ROOT, TINY, Cli

RUN = ("+experiment=cam", *TINY)
NUMBERS = list_numbers(load_metrics().values())
OURS = {f"../{name}" for name in PUBLISHED}
ALSO = {"../comparison.json"}  # where there are two to compare


class Page(HTMLParser):
    """What a browser would see: text, captions, what the page asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: Counter[str] = Counter()
        self.asked: list[str] = []
        self.titles: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        found = dict(attrs)
        self.asked += [
            v for k in ("src", "href", "srcset", "data", "action") if (v := found.get(k))
        ]
        if tag == "span" and (title := found.get("title")):
            self.titles.append(title)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(outputs: Path) -> Page:
    page = Page((outputs / "latest/report/index.html").read_text(encoding="utf-8"))
    for asked in page.asked:
        assert asked.startswith("data:image/") or asked in OURS | ALSO, asked[:80]
    for link in (OURS | ALSO) & set(page.asked):
        assert (outputs / "latest/report" / link).is_file(), link
    assert "url(" not in page.text
    assert "@import" not in page.text
    assert page.tags["script"] <= 1
    assert "fetch(" not in page.text
    return page


def shown_ranks(page: Page) -> list[int]:
    """The ranks of the images, in the order of the page."""
    shown = [int(rank) for rank in re.findall(r'data-rank="(\d+)"', page.text)]
    assert shown == sorted(shown)
    return shown


def test_without_ranks_the_best_come_first(cli: Cli, tmp_path: Path) -> None:
    stages = "stages=[train,explain,localize,evaluate,report]"
    assert cli(*RUN, stages, "report.images=2", "data.val_images=8") == 0
    page = page_of(tmp_path / "outputs")
    for row in ("Best", "Median", "Worst"):
        assert row in page.words
    assert len(page.titles) == len(set(page.titles)) == 6
    assert not page.tags["script"]
    assert "rank" not in page.said


def test_one_method(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, "report.images=3") == 0
    page = page_of(tmp_path / "outputs")
    assert set(page.asked) >= OURS
    assert "24 images (val)" in page.said
    assert "skipped" not in page.said
    shown = shown_ranks(page)
    assert shown[:3] == [1, 2, 3], "the first to review"
    assert len(page.titles) == len(set(page.titles)) == len(shown)
    assert 9 <= len(shown) <= 12, "and the best, the median and the worst"
    assert page.tags["img"] == 2 * len(shown) + 2  # image and map; and the legend
    assert "review_rank confidence, lowest first IoU, lowest first IoU, highest first" in page.said
    assert "Confidences are not calibrated" in page.said
    assert page.said.count("· random confidence 0.") == len(shown)
    assert "data=shapes model=small saliency=cam segmenter=threshold" in page.said
    assert "segmenter.threshold=auto" in page.said
    assert "seed=0" in page.said
    assert "What the words mean" in page.said
    assert len(page.text) < 3e6


def test_several_methods_stand_side_by_side(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, "explain.methods=[cam,cam_positive]", "report.images=2") == 0
    page = page_of(tmp_path / "outputs")
    assert "<h1>cam, cam_positive on shapes</h1>" in page.text
    assert "Methods compared" in page.said
    assert "Better, or luck?" in page.said
    assert "all differences" in page.said
    count = len(shown_ranks(page))
    assert len(page.titles) == len(set(page.titles)) == count
    assert page.tags["img"] == 3 * count + 2  # image and both maps
    assert page.text.index("Methods compared") < page.text.index("Images</h2>")
    for method in ("cam", "cam_positive"):
        assert f"{method}: all numbers, curve, classes" in page.said
        assert page.text.count(f'alt="map of {method}"') == count


def test_few_images_are_shown_once(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, "report.images=12") == 0
    page = page_of(tmp_path / "outputs")
    assert len(page.titles) == len(set(page.titles)) == 24
    assert shown_ranks(page) == list(range(1, 25))
    assert len(re.findall(r"IoU (\d\.\d\d)</span>", page.text)) == 24
    assert cli(*RUN, "report.images=0") == 0
    assert not page_of(tmp_path / "outputs").titles


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
    assert 'alt="dashed white"' not in page.text
    assert len(page.titles) == len(set(page.titles)) == 7
    made = json.loads((tmp_path / "outputs/latest/stages/evaluate/table.json").read_text())
    assert [row["cells"][0] for row in made["rows"]] == ["classification, top-1"]
    assert made["classes"]["head"] == ["class", "n", "top-1"]


def test_hostile_names_and_unlabelled_images(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, "stages=[train]") == 0
    photos = tmp_path / "photos"
    photos.mkdir()
    names = ['<b>"x"&\'.jpg', "{{ 7 * 7 }}.jpg", "plain.jpg"]
    for n, name in enumerate(names):
        Image.fromarray(np.full((40, 60, 3), 60 * n, np.uint8)).save(photos / name)
    assert cli("+experiment=predict", "checkpoint=outputs/latest", f"images={photos}") == 0
    page = page_of(tmp_path / "outputs")
    assert sorted(page.titles) == sorted(names)
    assert not page.tags["b"]
    for name in names:
        assert name in page.words
    assert "These images have no labels" in page.said
    found = json.loads((tmp_path / "outputs/latest/boxes.json").read_text())
    scores = re.findall(r'<span class="number">(\d\.\d\d)</span>', page.text)
    assert sorted(scores) == sorted(f"{one['score']:.2f}" for one in found)
    assert page.tags["table"] == 0


def entry(position: int, iou: float | None = None) -> dict[str, Any]:
    return {"position": position, "iou": iou}


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 8, 20])
@pytest.mark.parametrize("scored", [True, False])
def test_no_image_is_chosen_twice(n: int, scored: bool) -> None:
    images = [entry(i, i / n if scored else None) for i in range(n) for _ in range(2)]
    rows = gallery.choose_records(images, 2)
    positions = [record["position"] for _, group in rows for record in group]
    assert len(positions) == len(set(positions)) == min(n, 6)
    assert len(rows) == (3 if scored and n > 6 else 1)
    if scored and n > 6:
        assert positions[0] == n - 1
        assert positions[-2] == 0, "the worst comes first"
    assert gallery.choose_records(images, 0) == []


def test_annotated_and_found_are_told_apart_on_any_ground() -> None:
    for ground in (0, 128, 255):
        image = np.full((60, 80, 3), ground, np.uint8)
        boxes = [([10.0, 10.0, 70.0, 50.0], gallery.TRUE, True)]
        alone = gallery.draw_lines(image, boxes, 1)
        assert (alone == 255).all(2).any()
        assert (alone == gallery.DARK).all(2).any()
        both = gallery.draw_lines(image, [*boxes, (boxes[0][0], gallery.FOUND, False)], 1)
        assert (both == gallery.FOUND).all(2).sum() > 50, "seen through the gaps"
        assert (both == 255).all(2).sum() > 50
        edge = gallery.draw_lines(image, [([0.0, 0.0, 80.0, 60.0], gallery.FOUND, False)], 1)
        assert (edge == gallery.FOUND).all(2).any(1)[:4].any()
    assert gallery.draw_lines(np.zeros((1, 1, 3), np.uint8), boxes, 0.01).shape == (1, 1, 3)


def test_shortened_keeps_both_ends() -> None:
    assert gallery.shorten("short.jpg") == "short.jpg"
    long = gallery.shorten("a" * 50 + "_0001.jpg")
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
