"""Images with several labels, through all stages: each class of an image has a map and a box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from pipeline.data.table import Table
from pipeline.engine import checkpoint
from pipeline.formats.arrays import read_arrays
from pipeline.results.boxes import iterate_boxes
from pipeline.results.shards import list_shards
from tests.conftest import Cli

pytestmark = pytest.mark.usefixtures("shared_results")

COLOURS = {"blue": (30, 30, 220), "green": (30, 200, 30), "red": (220, 30, 30)}
TRAIN, VAL, SIDE = 36, 9, 48
FAST = ("data=table", "data.table=labels.csv", "data.several=keep", f"data.size={SIDE}",
        "model.width=8", "train.epochs=8", "train.batch=9", "train.crop=1", "train.lr=0.05",
        "runtime.shard=8", "refine.steps=12", "refine.batch=8",
        "saliency@refine.teacher=cam")  # fmt: skip
ALL = ("stages=[check,train,refine,explain,calibrate,localize,rank,picture,draw,export,annotate,"
       "onnx]")  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Draw one to three squares of different colours an image; a row of the table for each."""
    rng = np.random.default_rng(0)
    rows = ["path,label,split,xmin,ymin,xmax,ymax"]
    for n in range(TRAIN + VAL):
        image = rng.integers(90, 130, (SIDE, 60, 3)).astype(np.uint8)
        names = rng.permutation(list(COLOURS))[: 1 + n % 3]
        corners = rng.permutation([(2, 2), (34, 2), (2, 27), (34, 27)])
        for name, (x, y) in zip(names, corners, strict=False):
            image[y : y + 18, x : x + 20] = COLOURS[name]
            split = "train" if n < TRAIN else "val"
            rows.append(f"{n}.png,{name},{split},{x},{y},{x + 20},{y + 18}")
        Image.fromarray(image).save(tmp_path / f"{n}.png")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return Table(str(tmp_path / "labels.csv"), several="keep", size=SIDE)


def read_maps(folder: Path) -> list[tuple[int, int, float]]:
    """Read position, class and probability of each map."""
    rows = []
    for shard in list_shards(folder):
        arrays, _ = read_arrays(shard)
        columns = (arrays[name].tolist() for name in ("row_image", "row_class", "row_score"))
        rows += list(zip(*columns, strict=True))
    return rows


def read_card(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "card.json").read_text()))


def test_all_stages(cli: Cli, table: Table, tmp_path: Path, capsys: Any) -> None:
    formats = "export.formats=[coco,yolo,voc,csv]"
    assert cli("+experiment=best", *FAST, ALL, formats) == 0
    printed = capsys.readouterr().out
    assert "objective=binary_cross_entropy" in printed
    assert "refine.object_class=true has no effect" in printed
    run = tmp_path / "outputs/latest/stages"
    sets, ids = table.label_sets("val"), table.ids("val")

    # training: each class for itself, and the best epoch by mean average precision
    card = read_card(run / "refine")
    assert card["answers"] == "independent"
    assert card["objective"]["_target_"].endswith("BinaryCrossEntropy")
    history = json.loads((run / "train/history.json").read_text())
    assert card["best"]["held_back_map"] == max(epoch["held_back_map"] for epoch in history) > 0.6
    assert card["branches"]["foreground"]["classes"] == 3
    network = checkpoint.load(run / "refine", torch.device("cpu")).network
    assert network.answers == "independent"

    # pseudo-labels: each class of each training image
    (pseudo,) = (tmp_path / "outputs/pseudo_labels").iterdir()
    arrays = [read_arrays(shard)[0] for shard in list_shards(pseudo)]
    pairs = np.concatenate([np.stack([a["image"], a["class"]], 1) for a in arrays])
    assert pairs.tolist() == np.argwhere(table.label_sets("train"))[:, [0, 1]].tolist()

    # maps and boxes: of each class of each image, most probable first
    maps = read_maps(run / "explain")
    assert sorted((n, c) for n, c, _ in maps) == [
        tuple(pair) for pair in np.argwhere(sets).tolist()
    ]
    boxes = list(iterate_boxes(run / "localize", ids))
    assert [(n, each.label) for n, each in boxes] == [(n, c) for n, c, _ in maps]
    assert [each.probability for _, each in boxes] == [score for _, _, score in maps]
    assert any(len({c for n, c, _ in maps if n == image}) == 3 for image in range(len(ids)))

    # what a person sees
    counts = json.loads((run / "check/check.json").read_text())["classes"]
    assert counts
    sheets = list((run / "picture").rglob("sheet.png"))
    assert len(sheets) == len(ids)
    notes = (tmp_path / "outputs/latest/notes.json").read_text()
    assert f"rank: confidences are not calibrated: {sets.sum()} pairs of an image" in notes
    assert "calibrate: confidences are fitted" not in notes
    predictions = json.loads((tmp_path / "outputs/latest/predictions.json").read_text())
    assert {a["category_id"] for a in predictions["annotations"]} == {1, 2, 3}

    # one file: of each class a map, a box and a score
    exported = json.loads((tmp_path / "outputs/latest/onnx.json").read_text())
    assert exported["outputs"] == ["logits", "maps", "boxes", "scores"]
    assert max(exported["difference_to_pytorch"].values()) < 1e-4

    # from Python: all classes that are at least as likely as not, the most probable first
    images = [str(tmp_path / f"{n}.png") for n in range(TRAIN, TRAIN + VAL)]
    of_images = pipeline.load(tmp_path / "outputs/latest", device="cpu")(images)
    assert max(map(len, of_images)) > 1
    for predictions in of_images:
        scores = [prediction.probability for prediction in predictions]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == 1 or scores[-1] >= 0.5
        assert len({prediction.label for prediction in predictions}) == len(scores)

    # again without labels, from the checkpoint: each class above a probability
    for least in (0.0, 1.0):
        options = (f"explain.min_probability={least}", "stages=[explain]", "images=.")
        assert cli("+experiment=predict", "checkpoint=outputs/latest", *options) == 0
        newest = max((tmp_path / "outputs/explain").iterdir(), key=lambda p: p.stat().st_mtime_ns)
        of_image = np.bincount([n for n, _, _ in read_maps(newest)])
        assert set(of_image.tolist()) == ({3} if least == 0 else {1})


def test_what_is_for_one_class_an_image_is_refused(cli: Cli, table: Table, capsys: Any) -> None:
    for option, message in [
        ("objective=has", "objective=has: it learns one class of each image"),
        ("data.negatives=[red]", "data.several=keep"),
        ("annotate.learn_from_human=true", "annotate.learn_from_human=true: boxes of a person"),
    ]:
        assert cli("+experiment=best", *FAST[:4], option) == 2, option
        assert message in capsys.readouterr().err


def read_pairs(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    records = json.loads((folder / "images.json").read_text())
    pairs = {(record["id"], record["class"]): record for record in records}
    assert len(pairs) == len(records)
    return pairs


def test_maps_of_each_class_are_audited(cli: Cli, table: Table, tmp_path: Path) -> None:
    """A record for each pair; of a class alone the numbers are the same."""
    command = ("+experiment=cam", *FAST[:9], "stages=[train,explain,localize,audit]",
               "audit.tests=[faithfulness,composite,infidelity,fragility]", "audit.steps=3",
               "audit.images=6", "audit.few=5", "audit.attack_steps=2")  # fmt: skip
    assert cli(*command) == 0
    run = tmp_path / "outputs/latest"
    folder = run / "stages/audit"
    pairs, sets = read_pairs(folder), table.label_sets("val")
    positions = {id: n for n, id in enumerate(table.ids("val"))}
    tested = {id for id, _ in pairs}
    assert len(tested) == 6
    assert {*pairs} == {
        (id, table.classes[label]) for id in tested for label in sets[positions[id]].nonzero()[0]
    }
    ((audit,),) = [json.loads((run / "audit.json").read_text())]
    counts = {record["test"]: record["n"] for record in audit["numbers"]}
    assert counts["faithfulness"] == len(pairs) > 6
    assert counts["fragility"] == sum("fragility" in record for record in pairs.values())
    assert "pairs of an image and one of its classes" in (run / "notes.json").read_text()
    assert cli(*command, "explain.target=red") == 0
    of_red = read_pairs(tmp_path / "outputs/latest/stages/audit")
    both = [pair for pair in pairs if pair in of_red]
    assert {label for _, label in both} == {"red"}
    assert len(both) > 1
    for pair in both:
        for test in ("faithfulness", "composite", "infidelity"):
            for name, value in of_red[pair][test].items():
                assert value == pytest.approx(pairs[pair][test][name], abs=1e-3), name


def net_source(scale: int, threshold: float, pool: str) -> str:
    """Return a network whose classes are independent: how red, green and blue an image is."""
    return f"""
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stage = nn.Conv2d(3, 3, 8, 8, bias=False)
        self.fc = nn.Linear(3, 3)
        nn.init.zeros_(self.stage.weight)
        with torch.no_grad():
            for n in range(3):
                self.stage.weight[n, 2 - n] = 1 / 64
            self.fc.weight.copy_(torch.eye(3) * {scale})
            self.fc.bias.fill_(-{scale} * {threshold})

    def forward(self, images):
        return self.fc(self.stage(images).relu().{pool}((2, 3)))
"""


NET = net_source(20, 0.45, "mean")


def test_a_network_of_the_users_own(cli: Cli, table: Table, tmp_path: Path) -> None:
    """Its maps are of each class whose sigmoid is at least a half, not of the greatest alone."""
    (tmp_path / "mynet.py").write_text(NET)
    (tmp_path / "photos").mkdir()
    for name, colour in (("one", (250, 10, 10)), ("two", (250, 10, 250))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"photos/{name}.png")
    given = ("images=photos", "model=module", "model.of=mynet.py:Net", "model.size=64",
             "model.classes=[blue,green,red]", "model.mean=[0,0,0]", "model.std=[1,1,1]",
             "saliency=gradcam", "stages=[train,explain,localize]")  # fmt: skip
    assert cli("+experiment=predict", *given, "model.multi_label=true") == 0
    (folder,) = (tmp_path / "outputs/explain").iterdir()
    assert sorted((n, c) for n, c, _ in read_maps(folder)) == [(0, 2), (1, 0), (1, 2)]
    card = read_card(tmp_path / "outputs/latest/stages/train")
    assert card["answers"] == "independent"
    assert cli("+experiment=predict", *given, "outputs=exclusive") == 0
    (folder,) = (tmp_path / "exclusive/explain").iterdir()
    assert len(read_maps(folder)) == 2


def test_runs_are_compared_pair_by_pair(cli: Cli, table: Table, capsys: Any) -> None:
    """Also with a run before, whose rows are named by image and class."""
    command = ("+experiment=cam", *FAST[:9], "runtime.device=cpu")
    stages = "stages=[train,explain,localize,evaluate,compare]"
    assert cli(*command, stages, "explain.methods=[cam,gradcam]") == 0
    count = int(table.label_sets("val").sum())
    assert f"{count} pairs of an image and one of its classes" in capsys.readouterr().out
    (first,) = json.loads(Path("outputs/latest/comparison.json").read_text())
    assert {d["record"]["n"] for d in first["differences"]} == {count}
    assert cli(*command, stages, "saliency=gradcam", "against=outputs/latest") == 0
    assert f"{count} pairs of an image and one of its classes" in capsys.readouterr().out
    of_one = ("data=shapes", "data.images=40", "data.val_images=8", "model.width=8",
              "train.epochs=1")  # fmt: skip
    assert cli("+experiment=cam", *of_one, stages, "against=outputs/latest") == 2
    assert "it scored pairs of an image and one of its classes" in capsys.readouterr().err
