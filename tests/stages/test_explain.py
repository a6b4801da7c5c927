"""Methods made of others, methods that look at training images first, and no training at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.engine import methods
from pipeline.engine.choices import fill_defaults, instantiate, list_targets
from pipeline.errors import UserError
from pipeline.formats.arrays import read_arrays
from pipeline.model.classifier import INPUT
from pipeline.saliency.ddt import DDT
from pipeline.saliency.layercam import LayerCAM
from pipeline.saliency.views import Views
from scripts.measure.runs import compose
from tests.conftest import TINY, Cli

STAGES = "stages=[train,explain]"
VIEWS = "pipeline.saliency.views.Views"


def result(root: Path, stage: str) -> Path:
    (folder,) = (root / "outputs" / stage).iterdir()
    return folder


def test_an_argument_may_be_a_choice_by_name_or_a_node() -> None:
    node = {"_target_": VIEWS, "method": "layercam_below", "flips": False}
    whole = fill_defaults("saliency", node)
    assert whole["method"]["layers"] == ["below"]  # so that keys change when the choice's YAML does
    assert list_targets(whole) == [VIEWS, "pipeline.saliency.layercam.LayerCAM"]
    for given in (node, whole):
        method = instantiate("saliency", given)
        assert method == Views(LayerCAM(("below",)), flips=False)
    average = {"_target_": "pipeline.saliency.average.Average", "methods": ["cam", dict(node)]}
    assert len(instantiate("saliency", average).methods) == 2


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("layercan", r"saliency.method=layercan: no such choice; did you mean 'layercam'"),
        (3, r"saliency.method=3: expected a choice of saliency"),
        ({"_target_": "os.system"}, r"refused"),
    ],
)
def test_a_wrong_choice_as_an_argument_is_refused(value: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        instantiate("saliency", {"_target_": VIEWS, "method": value}, within="pipeline.saliency.")


def test_a_method_that_looks_at_training_images_first(cli: Cli, tmp_path: Path) -> None:
    """Its sums are those of the train split alone, kept, and used again by another run."""
    assert cli("+experiment=cam", *TINY, STAGES, "saliency=ddt") == 0
    folder = result(tmp_path, "statistics")
    sums, _ = read_arrays(folder / "statistics.safetensors")
    cells = 16 * 16  # of the embedded network's maps of 64 pixels
    plan = json.loads((folder.parents[1] / "train").glob("*/history.json").__next__().read_text())
    assert plan  # it was trained
    assert sums["0/count"] % cells == 0
    assert 60 < sums["0/count"] / cells <= 96
    before = (folder / "cache_key.json").stat().st_mtime_ns
    assert cli("+experiment=cam", *TINY, STAGES, "saliency=ddt", "explain.target=predicted") == 0
    assert (result(tmp_path, "statistics") / "cache_key.json").stat().st_mtime_ns == before


def test_killed_while_it_looks_at_images_it_goes_on_to_the_same_sums(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("+experiment=cam", *TINY, STAGES, "saliency=ddt", "train.epochs=0",
               "runtime.batch=16")  # fmt: skip
    assert cli(*command, "outputs=whole") == 0
    monkeypatch.setattr(methods, "PART_SECONDS", -1.0)
    measure = DDT.statistics
    batches: list[int] = []

    def counted(method: DDT, *arguments: Any) -> Any:
        if len(batches) == 3:
            raise RuntimeError("killed")
        batches.append(1)
        return measure(method, *arguments)

    monkeypatch.setattr(DDT, "statistics", counted)
    with pytest.raises(RuntimeError, match="killed"):
        cli(*command, "outputs=cut", "runtime.workers=0")
    batches[:] = [1] * 4
    assert cli(*command, "outputs=cut", "runtime.workers=0") == 0
    (whole,) = (tmp_path / "whole/statistics").iterdir()
    (cut,) = (tmp_path / "cut/statistics").iterdir()
    name = "statistics.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert len(batches) == 4 + 3, "of 6 batches the first 3 are not computed again"
    assert not (cut / methods.UNFINISHED).exists()


def test_views_of_a_method_that_looks_first(cli: Cli, tmp_path: Path) -> None:
    command = ("+experiment=cam", *TINY, STAGES, "saliency=ddt_per_class", "explain.flips=true")
    assert cli(*command, "explain.scales=[1,1.5]") == 0
    shard = sorted(result(tmp_path, "explain").glob("shard-*"))[0]
    arrays, _ = read_arrays(shard)
    assert arrays["row_map"].shape[1:] == (24, 24)
    assert arrays["row_map"].min() >= 0
    assert np.isfinite(arrays["row_map"].astype(np.float32)).all()


def test_files_with_several_pages_or_frames_are_counted(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = [Image.new("L", (40, 30), 60 * n) for n in range(3)]
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for n in range(2):
                pages[n].copy().save(tmp_path / "set" / split / name / f"{n}.png")
    several: dict[str, Any] = {"save_all": True, "append_images": pages[1:]}
    pages[0].save(tmp_path / "set/val/a/stack.tif", **several)
    pages[0].copy().save(tmp_path / "set/val/b/moves.gif", **several)
    command = ("+experiment=cam", "data=folder", "data.root=set", "data.size=32", "model=small",
               "train.epochs=1", "runtime.device=cpu", STAGES)  # fmt: skip
    for _ in range(2):  # the second time from the result that is kept
        assert cli(*command) == 0
        note = (
            "explain: 2 images ('val/a/stack.tif', 'val/b/moves.gif') of 6 with several pages or "
            "frames: only the first is used; save each"
        )
        assert note in " ".join(capsys.readouterr().out.split())
        notes = json.loads((tmp_path / "outputs/latest/notes.json").read_text())
        assert any(record["count"] == 2 and note in record["text"] for record in notes)


def test_images_scaled_by_a_range_of_their_own_are_counted(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (30, 40)).astype(np.uint16)
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for n in range(2):
                Image.fromarray(pixels + n).save(tmp_path / "set" / split / name / f"{n}.png")
    Image.fromarray((pixels / 4095).astype(np.float32)).save(tmp_path / "set/val/b/float.tif")
    command = ("+experiment=cam", "data=folder", "data.root=set", "data.size=32", "model=small",
               "train.epochs=1", "runtime.device=cpu", STAGES)  # fmt: skip
    for _ in range(2):  # the second time from the result that is kept
        assert cli(*command) == 0
        note = "explain: 1 image ('val/b/float.tif') of 5 with more than 8 bits scaled by a range"
        assert note in " ".join(capsys.readouterr().out.split())
        notes = json.loads((tmp_path / "outputs/latest/notes.json").read_text())
        assert any(record["count"] == 1 and note in record["text"] for record in notes)


def test_colours_are_kept_where_asked_for(cli: Cli, tmp_path: Path) -> None:
    from pipeline.results.maps import iterate_channels

    assert cli("+experiment=cam", *TINY, STAGES, "saliency=gradient", "explain.colour=true") == 0
    shard = sorted(result(tmp_path, "explain").glob("shard-*"))[0]
    found = list(iterate_channels(shard))
    assert len(found) == 8
    assert all(channels.shape == (3, 64, 64) for _, _, channels in found)
    assert all(np.abs(channels).max() == 1 for _, _, channels in found)


def test_wrong_views_are_refused_at_start(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("+experiment=cam", *TINY, "explain.scales=[0,1]") == 2
    assert "saliency.scales: 0" in capsys.readouterr().err


def test_a_pretrained_network_needs_no_training_and_no_labels(
    cli: Cli, tmp_path: Path, folder_of_images: Path
) -> None:
    """All the classes of its own head, whatever kind that is."""
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    torch.save(squeezenet1_1().state_dict(), tmp_path / "w.pth")
    command = ("+experiment=predict", "stages=[train,explain]", "train.head=own",
               "model=squeezenet1_0", "model.name=squeezenet1_1", f"model.weights={tmp_path}/w.pth",
               f"images={folder_of_images}/val", "data.size=64",
               "saliency=gradcam", "explain.target=top3")  # fmt: skip
    assert cli(*command) == 0
    card = json.loads((result(tmp_path, "train") / "card.json").read_text())
    assert len(card["classes"]) == 1000
    assert card["recipe"] == "own"
    shard = sorted(result(tmp_path, "explain").glob("shard-*"))[0]
    assert len(read_arrays(shard)[0]["row_class"]) == 3 * 8


def test_predict_with_a_pretrained_network_needs_no_run_before_it(
    folder_of_images: Path,
) -> None:
    given = ("model=resnet18", f"images={folder_of_images}/val", "train.head=own")
    assert compose("predict", *given).config["stages"][:2] == ["train", "explain"]
    named = compose("predict", *given, "stages=[explain]")
    assert named.config["stages"] == ["explain"]


def test_a_network_without_weights_has_nothing_to_explain(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("+experiment=predict", "stages=[train,explain]", "train.head=own", "model=resnet18",
               "model.weights=null", f"images={folder_of_images}/val")  # fmt: skip
    assert cli(*command) == 2
    assert "checkpoint is missing: model=resnet18 has no weights" in capsys.readouterr().err


def test_the_image_is_a_layer() -> None:
    from pipeline.model.classifier import Classifier, MeanLinear
    from pipeline.model.small import Small

    body, channels = Small().body()
    net = Classifier(body, MeanLinear(channels, 2), "ab").eval()
    images = torch.randn(2, 3, 32, 32)
    answer = net(images, at=(INPUT,))
    (slopes,) = torch.autograd.grad(answer.logits[:, 1].sum(), answer.activations[INPUT])
    watched = images.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(net(watched).logits[:, 1].sum(), watched)
    torch.testing.assert_close(slopes, wanted)
    assert not images.requires_grad


def test_one_method_by_name_runs_alone_whatever_the_experiment_lists(
    cli: Cli, tmp_path: Path
) -> None:
    command = ("+experiment=explain", "data=shapes", *TINY, "explain.target=true", "model=small",
               "train.head=auto", "saliency=occlusion", "saliency.window=16", "saliency.stride=16",
               "stages=[train,explain]")  # fmt: skip
    assert cli(*command) == 0
    assert len(list((tmp_path / "outputs" / "explain").iterdir())) == 1


def test_options_that_reach_no_method_are_refused(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    several = "explain.methods=[gradcam,layercam]"
    assert cli("+experiment=cam", *TINY, several, "saliency.weights=positive") == 2
    said = capsys.readouterr().err
    assert "saliency.weights=positive: an option of saliency=cam, which is not among" in said
    assert cli("+experiment=cam", *TINY, several, "saliency.layers=[block6]") == 2
    assert "saliency.layers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("saliency=gradcam", "saliency.layers=[blok6]"), "near ones: block6"),
        (("explain.methods=[cam,guided_backprop]", "model=convnext_tiny", "model.weights=null"),
         "another activation, GELU"),
    ],
)  # fmt: skip
def test_what_the_network_cannot_have_is_refused_before_training(
    arguments: tuple[str, ...], said: str, cli: Cli, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert cli("+experiment=cam", *TINY, *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "outputs" / "train").exists()
