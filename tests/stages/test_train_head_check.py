"""A pretrained head is checked on labelled training images before it is trusted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from pipeline.errors import UserError
from pipeline.formats.files import read_json
from pipeline.model import classes as model_classes
from pipeline.model import pretrained
from pipeline.model.classes import list_imagenet_classes
from pipeline.model.torchvision import Torchvision
from pipeline.model.weights import WeightFile, read_weights
from pipeline.stages.train.head_check import MAX_IMAGES, HeadCheck, draw_sample
from pipeline.stages.train.training import match_head
from tests.conftest import Cli

RUN = ("+experiment=cam", "data=folder", "data.root=images", "data.held_back=0", "data.size=64",
       "model=resnet18", "stages=[train]", "train.epochs=1")  # fmt: skip


def test_a_sample_has_at_most_as_many_images_of_each_class() -> None:
    labels = np.array([0] * 100 + [1] * 5 + [-1] * 20)
    drawn = draw_sample(labels, 3)
    assert drawn == draw_sample(labels, 3) == sorted(set(drawn))
    assert np.bincount(labels[drawn]).tolist() == [MAX_IMAGES, 5]


def test_classes_fail_below_half_of_the_way_from_chance() -> None:
    two = HeadCheck(("kite", "ball", "few"), (6, 16, 0), (10, 16, 7))
    assert two.judged == [0, 1]
    assert two.lowest_top1 == pytest.approx(2 / 3)
    assert two.failing == [0]
    line = two.describe_failing("a new head is learned")
    assert line.names == ("kite",)
    assert (
        "fails on 1 of 2 classes: 'kite' right on 6 of 10 (median class 80%, expected 67%)" in line
    )
    right, unjudged = two.describe()
    assert "right on 22 of 26 labelled training images of 2 of 3 classes" in right
    assert unjudged.names == ("few",)
    assert "not checked on 1 of 3 classes ('few'), which have fewer than 8" in unjudged
    # The median class is at 0.4 here: half of it is less than what is expected anyway.
    assert HeadCheck(tuple("abc"), (4, 4, 1), (10, 10, 10)).failing == [0, 1, 2]


def test_the_head_of_a_file_of_the_user_fails_below_one_half() -> None:
    own = HeadCheck(("kite", "ball"), (5, 4), (10, 10), is_users=True)
    assert own.failing == [1]
    line = own.describe_failing("a new head is learned")
    assert "expected 50%); the rows may be in another order, or the network does not know" in line


@pytest.fixture
def trained(folder_of_images: Path) -> dict[str, Any]:
    """A network that tells the two colours apart, as a state dict: its rows are blue, red."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=2).eval()
    head, network.fc = network.fc, torch.nn.Identity()
    pixels, labels = [], []
    for label, name in enumerate(("blue", "red")):
        for path in sorted((folder_of_images / "train" / name).iterdir()):
            pixels.append(np.asarray(Image.open(path).resize((64, 64))))
            labels.append(label)
    builder = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        images = builder(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255)
        features = network(images)
        centre = features.mean(0)
        targets = torch.eye(2)[labels] * 20 - 10
        head.weight.copy_((torch.linalg.pinv(features - centre) @ targets).T)
        head.bias.copy_(-head.weight @ centre)
    network.fc = head
    return dict(network.state_dict())


def swap(state: dict[str, Any]) -> dict[str, Any]:
    """Return the weights with the rows of the head in the other order."""
    return {k: v.flip(0) if k.startswith("fc.") else v for k, v in state.items()}


def card(tmp_path: Path, outputs: str) -> Any:
    (folder,) = (tmp_path / outputs / "train").iterdir()
    notes = [record["text"] for record in read_json(folder / "notes.json")]
    assert notes == read_json(folder / "card.json")["notes"]
    return read_json(folder / "card.json")


def test_the_head_of_a_file_is_kept_and_checked(
    cli: Cli, trained: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {f"model.{k}": v for k, v in trained.items()}}, "mine.pth")
    file = "model.weights=mine.pth"
    assert cli(*RUN, file, "outputs=kept") == 0
    out = capsys.readouterr().out
    assert "mine.pth: the prefix 'model.' of 122 names is left out" in out
    assert "taken for the data set's classes in its order, 'blue', 'red'; model.classes" in out
    assert "right on 24 of 24 labelled training images of 2 of 2 classes" in out
    kept = card(tmp_path, "kept")
    assert kept["recipe"] == "own"
    assert "the pretrained head has a row for each of the 2 classes; nothing to train" in out
    assert kept["head_check"]["classes"] == {"blue": [12, 12], "red": [12, 12]}
    assert str(tmp_path) not in str(kept)

    torch.save(swap(trained), "mine.pth")
    assert cli(*RUN, file, "outputs=swapped") == 0
    out = capsys.readouterr().out
    assert "fails on 2 of 2 classes: 'blue' right on 0 of 12, 'red' right on 0 of 12" in out
    assert "the rows may be in another order, or the network does not know these images" in out
    assert "keeps the pretrained one; model.classes=[...] gives the order of its rows" in out
    assert card(tmp_path, "swapped")["recipe"] == "head"
    assert card(tmp_path, "swapped")["head_check"]["failing"] == ["blue", "red"]

    assert cli(*RUN, file, "outputs=own", "train.head=own") == 0
    assert "the rows may be in another order" in capsys.readouterr().out
    assert card(tmp_path, "own")["recipe"] == "own"

    # The remedy of the message.
    assert cli(*RUN, file, "outputs=named", "model.classes=[red,blue]") == 0
    assert "right on 24 of 24" in capsys.readouterr().out
    named = card(tmp_path, "named")
    assert (named["recipe"], named["classes"]) == ("own", ["blue", "red"])
    assert named["model"]["classes"] is None


def test_the_check_is_computed_once(cli: Cli, trained: dict[str, Any], tmp_path: Path) -> None:
    torch.save(trained, "mine.pth")
    for seed in (0, 1):
        assert cli(*RUN, "model.weights=mine.pth", f"seed={seed}") == 0
    assert len(list((tmp_path / "outputs/train").iterdir())) == 2
    assert len(list((tmp_path / "outputs/head_check").iterdir())) == 1


@pytest.mark.parametrize("head", ["auto", "own"])
def test_a_file_that_was_trained_from_is_not_read_again(
    head: str,
    cli: Cli,
    trained: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(trained, "mine.pth")
    Path("classes.txt").write_text("blue\nred\n")
    run = (*RUN, "model.weights=mine.pth", "model.classes=classes.txt", f"train.head={head}")
    assert cli(*run) == 0
    read: list[Path] = []

    def note_reading(path: Path) -> WeightFile:
        read.append(path)
        return read_weights(path)

    monkeypatch.setattr(pretrained, "read_weights", note_reading)
    pretrained._describe_file.cache_clear()
    capsys.readouterr()
    assert cli(*run) == 0
    assert "train      kept" in capsys.readouterr().out
    assert not read
    Path("classes.txt").write_text("red\nblue\n")
    assert cli(*run) == 0
    assert read
    assert len(list((tmp_path / "outputs/train").iterdir())) == 2


def test_a_damaged_file_is_refused_before_anything_is_written(
    cli: Cli, trained: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(trained, "whole.pth")
    Path("mine.pth").write_bytes(Path("whole.pth").read_bytes()[:100_000])
    assert cli(*RUN, "model.weights=mine.pth") == 2
    assert "mine.pth: not a file of weights that loads safely" in capsys.readouterr().err
    assert not (tmp_path / "outputs/train").exists()


def test_a_head_that_does_not_fit_is_dropped_and_said(
    cli: Cli, trained: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": trained, "classes": ["cat", "dog"]}, "mine.pth")
    assert cli(*RUN, "model.weights=mine.pth") == 0
    out = capsys.readouterr().out
    assert "mine.pth: a head of 2 classes, which the file names" in out
    assert "the file does not know ['blue', 'red'], 2 of 2 classes; it knows cat, dog: it is" in out
    assert card(tmp_path, "outputs")["recipe"] == "head"
    more = {k: v.repeat(2, *[1] * (v.ndim - 1)) if k.startswith("fc.") else v
            for k, v in trained.items()}  # fmt: skip
    torch.save(more, "mine.pth")
    assert cli(*RUN, "model.weights=mine.pth", "outputs=more") == 0
    assert "tells 4 classes apart, the data set has 2: it is dropped" in capsys.readouterr().out
    assert cli(*RUN, "model.weights=mine.pth", "train.head=own") == 2
    assert "model.classes=[...] names the rows of the file's head" in capsys.readouterr().err
    assert cli(*RUN, "model.weights=mine.pth", "model.classes=[blue,a,b,red]", "outputs=some") == 0
    assert card(tmp_path, "some")["recipe"] == "own"  # of four rows the two that are named so


def test_classes_with_few_images_are_not_judged(
    cli: Cli, trained: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted((tmp_path / "images/train/red").iterdir())[5:]:
        path.unlink()
    torch.save(trained, "mine.pth")
    assert cli(*RUN, "model.weights=mine.pth") == 0
    out = capsys.readouterr().out
    assert "was not checked on 1 of 2 classes ('red'), which have fewer than 8 training im" in out
    assert card(tmp_path, "outputs")["recipe"] == "own"


def test_images_that_the_check_cannot_read_are_named_where_the_head_is_kept(
    cli: Cli, trained: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sorted((tmp_path / "images/train/red").iterdir())[0]
    path.write_bytes(path.read_bytes()[:60])
    torch.save(trained, "mine.pth")
    assert cli(*RUN, "model.weights=mine.pth") == 0
    out = capsys.readouterr().out
    assert "right on 23 of 23 labelled training images" in out
    assert "1 of 24 training images that were drawn to check the pretrained head could not" in out
    assert path.name in out
    assert card(tmp_path, "outputs")["recipe"] == "own"
    (note,) = (n for n in read_json(tmp_path / "outputs/latest/notes.json") if "drawn" in n["text"])
    assert note["count"] == 1


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (None, "timm is not installed: pip install 'label2box[timm]', or classes.txt gives them"),
        ({"n01440764": 0}, "1 id ('n00000001') is none of the 1000 that the pretrained head has"),
    ],
)
def test_ids_of_imagenet_without_a_row_are_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, rows: dict[str, int] | None, why: str
) -> None:
    monkeypatch.setattr(model_classes, "load_wnids", lambda: rows)
    given = (Torchvision("resnet18"), ("n01440764", "n00000001"), list_imagenet_classes())
    match = match_head(*given, is_required=False)
    assert match.rows is None
    (note,) = match.notes
    assert why in note
    assert note.endswith("a new head is learned for all classes")
    with pytest.raises(UserError) as refused:
        match_head(*given, is_required=True)
    assert why in str(refused.value)
    assert "a new head is learned for all" not in str(refused.value)


def test_explaining_with_the_head_of_a_file(
    cli: Cli, trained: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(trained, "mine.pth")
    explain = ("+experiment=explain", "images=images/val/red/0.png", "data.size=64",
               "model=resnet18", "model.weights=mine.pth", "explain.methods=[gradcam]")  # fmt: skip
    assert cli(*explain) == 0
    assert (tmp_path / "outputs/latest/explained/000001-0/class_1").is_dir()
    assert cli(*explain, "model.classes=[blue,red]") == 0
    assert (tmp_path / "outputs/latest/explained/000001-0/red").is_dir()
    capsys.readouterr()
    torch.save({k: v for k, v in trained.items() if not k.startswith("fc.")}, "mine.pth")
    assert cli(*explain) == 2
    error = capsys.readouterr().err
    assert "no head that can be kept (mine.pth: it has no head under fc); explaining im" in error
    assert "checkpoint=outputs/latest" in error
    torch.save(torchvision.models.squeezenet1_1().state_dict(), "mine.pth")
    assert cli(*explain) == 2
    assert "They are those of torchvision's squeezenet1_1" in capsys.readouterr().err


def test_a_class_that_only_shares_its_name(
    cli: Cli, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parachutes in a folder `kite`: ImageNet's kite is a bird of prey."""
    for wnid, name in (("n03888257", "kite"), ("n03445777", "golf ball")):
        folder = tmp_path / "images/train" / name
        folder.mkdir(parents=True)
        files = sorted((shared / "data/imagenette/train" / wnid).iterdir())[:20]
        for file in files:
            shutil.copy(file, folder)
    weights = shared / "data/weights/mobilenet_v2_imagenet.pth"
    assert cli("+experiment=cam", "data=folder", "data.root=images", "model=mobilenet_v2",
               f"model.weights={weights}", "stages=[train]", "train.epochs=1") == 0  # fmt: skip
    assert "fails on 1 of 2 classes: 'kite' right on" in capsys.readouterr().out
    assert card(tmp_path, "outputs")["recipe"] == "head"
