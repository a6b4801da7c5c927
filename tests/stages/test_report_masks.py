"""Annotated masks of a data set on the page: which images have one, and which are lost."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.conftest import Cli
from tests.data import drawn_sets

RUN = ("+experiment=cam", "data=wsolevaluation", "data.size=32", "model=small", "train.epochs=1",
       "train.batch=4", "stages=[train,explain,localize,evaluate,report]")  # fmt: skip


def test_masks_of_wsolevaluation_are_drawn_and_lost_ones_counted(cli: Cli, tmp_path: Path) -> None:
    drawn_sets.openimages(tmp_path / "set")
    (tmp_path / "set/masks/001.Crested_Auklet/test_0_a.png").write_bytes(b"no mask")
    folders = (f"data.root={tmp_path / 'set/metadata'}", f"data.images={tmp_path / 'set/dataset'}",
               f"data.masks={tmp_path / 'set/masks'}")  # fmt: skip
    assert cli(*RUN, *folders) == 0
    text = (tmp_path / "outputs/latest/report/index.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'id="view-model">(.*?)</script>', text)
    model = json.loads(found)
    by_name = {image["id"]: image for image in model["images"]}
    assert len(by_name) == 6
    with_mask = {id for id, image in by_name.items() if image["true_masks"]}
    lost = set(by_name) - with_mask
    assert len(lost) == 1
    assert model["gallery"]["masks"].startswith("5 of the 6 shown have annotated masks")
    height, width = drawn_sets.SIZE
    x0, y0, *_ = drawn_sets.BOX
    for id in with_mask:
        ((label, w, h, outline, ignored),) = by_name[id]["true_masks"]
        assert [label] == by_name[id]["labels"]
        assert (w, h) == (width, height)
        assert outline.startswith(f"M{x0} {y0}")
        assert ignored.startswith("M0 0")
    notes = [note for note in model["notes"] if "mask that cannot be read" in note["text"]]
    assert len(notes) == 1
    assert any(name in notes[0]["text"] + str(notes[0]["names"]) for name in ("test_0_a", *lost))
