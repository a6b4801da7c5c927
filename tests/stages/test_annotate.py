"""The review page and its marks: what it shows, what comes back, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pipeline.formats import human_boxes
from pipeline.stages.report.marking import HUMAN
from tests.conftest import Cli
from tests.stages.test_report import Page

CLASSES = ('red <b>"', "bläu & co")
NAMES = ("<script>alert(1).png", '"it\'s" #1 {{ 7 }}.png', "Zaunkönig צבי.png")
STAGES = "stages=[train,explain,localize,rank,evaluate,annotate,report]"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Squares on grey, in folders and files whose names HTML and JSON must escape."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for split in ("train", "val"):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for file in NAMES:
                image = rng.integers(90, 130, (48, 64, 3)).astype(np.uint8)
                image[8:32, 20:44] = ((220, 30, 30), (30, 30, 220))[label]
                Image.fromarray(image).save(root / split / name / file)
    return root


def command(photos: Path) -> tuple[str, ...]:
    return (
        "+experiment=cam", "data=folder", f"data.root={photos}", "data.size=64", "model=small",
        "train.epochs=1", "train.batch=8", "explain.split=all", "rank.sample=4", STAGES,
    )  # fmt: skip


def read_data(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return dict(json.loads(text))


def save_marks(path: Path, data: dict[str, Any], marks: dict[int, str]) -> Path:
    """Write what the page saves, where images are marked by their number."""
    images = [{**data["images"][n]["shown"], "mark": mark, "date": "2026-01-02T03:04:05.678Z"}
              for n, mark in marks.items()]  # fmt: skip
    path.write_text(json.dumps({data["key"]: data["version"], "saved": "", "images": images}))
    return path


def last_line(text: str) -> str:
    return " ".join(text.split())


def test_the_page_and_its_marks(cli: Cli, photos: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli(*command(photos)) == 0
    run = (tmp_path / "outputs/latest").resolve()
    text = (run / "review/index.html").read_text(encoding="utf-8")
    page, data = Page(text), read_data(text)
    ids = {f"{split}/{name}/{file}" for split in ("train", "val") for name in CLASSES
           for file in NAMES}  # fmt: skip
    predictions = COCO(str(run / "predictions.json"))
    ranks = {image["file_name"]: image["review_rank"] for image in predictions.imgs.values()}
    assert [image["shown"]["file_name"] for image in data["images"]] == sorted(ids, key=ranks.get)
    assert [image["is_random"] for image in data["images"]] == [True] * 4 + [False] * 8
    assert page.tags["script"] == 2
    assert page.tags["b"] == page.tags["bdi"] // 2 + 3, "names of classes are no HTML"
    for word in (*ids, *CLASSES, "rank 1 · random"):
        assert word in page.words
    assert all(asked.startswith("data:image/jpeg") for asked in page.asked)
    assert "Confidences are not calibrated" in page.said

    report = Page((run / "report/index.html").read_text(encoding="utf-8"))
    assert "../review/index.html" in report.asked
    assert "Confidences are not calibrated" in report.said
    images = {image["id"]: image for image in report.model["images"]}
    assert sorted(image["rank"] for image in images.values()) == list(range(1, 13)), "all splits"
    for marked in data["images"]:
        image = images[marked["shown"]["file_name"]]
        assert image["record"] == marked["shown"], "a mark of either page counts on the other"
        assert image["stored_as"] == marked["stored_as"]
    about = report.model["marking"]
    assert (about["key"], about["version"]) == (data["key"], data["version"])

    capsys.readouterr()
    given = {0: "right", 1: "wrong", 4: "to_correct", 5: "right"}
    marks = save_marks(tmp_path / "reviewed.json", data, given)
    ingest = ("+experiment=ingest", f"run={run}")
    assert cli(*ingest, f"corrections={marks}", "ingest.reviewed=all") == 0
    said = last_line(capsys.readouterr().out)
    assert (
        "4 images reviewed by a person: 2 left as they were, 0 corrected, 1 marked as wrong, 1 as "
        "to be corrected" in said
    )
    assert "marked as to be corrected: no truth" in said
    assert "of 2 images drawn at random 50 % were right (by a person's mark)" in said
    assert "2 marked as wrong or to be corrected wait for a correction" in said
    names = [image["shown"]["file_name"] for image in data["images"]]
    listed = (tmp_path / "outputs/latest/to_correct.txt").read_text(encoding="utf-8")
    assert listed == f"{names[1]}\n{names[4]}\n"
    human, wrong = human_boxes.read(tmp_path / "outputs/human_boxes.json")
    assert [image.id for image in human] == [names[0], names[5]]
    assert [mark.id for mark in wrong] == [names[1], names[4]]
    by_name = {image["file_name"]: image["id"] for image in predictions.imgs.values()}
    for image in human:
        ours = predictions.imgToAnns[by_name[image.id]]
        assert image.boxes.tolist() == [[x, y, x + w, y + h] for x, y, w, h in
                                        (box["bbox"] for box in ours)]  # fmt: skip

    data["images"][2]["shown"]["boxes"][0]["xyxy"][0] += 0.02
    marks = save_marks(tmp_path / "other.json", data, {0: "right", 2: "right"})
    assert cli(*ingest, f"corrections={marks}") == 2
    said = last_line(capsys.readouterr().err)
    assert "1 of 2 marks are not of the boxes of this run" in said
    assert "the run whose page was marked" in said
    assert len(human_boxes.read(tmp_path / "outputs/human_boxes.json")[0]) == 2

    assert cli(*command(photos)) == 0
    latest = tmp_path / "outputs/latest"
    after = COCO(str(latest / "predictions.json"))
    sources = {after.imgs[box["image_id"]]["file_name"]: box.get("source")
               for box in after.anns.values()}  # fmt: skip
    assert {name for name, source in sources.items() if source == "human"} == {names[0], names[5]}
    again = Page((latest / "review/index.html").read_text(encoding="utf-8"))
    assert again.text.count("<figure") == 12
    assert again.text.count(" data-human>") == 2
    notes = json.loads((latest / "notes.json").read_text())
    assert any("of the random sample marked as wrong" in note["text"] for note in notes)
    images = Page((latest / "report/index.html").read_text(encoding="utf-8")).model["images"]
    kept = {image["id"] for image in images if image["no_mark"] == HUMAN}
    assert kept == {names[0], names[5]} == {i["id"] for i in images if i["record"] is None}
