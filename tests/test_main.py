"""The way through, end to end on small data: runs, sweeps, single stages, resuming, refusals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from pycocotools.coco import COCO

from pipeline.__main__ import main
from tests.conftest import PUBLISHED, ROOT, TINY, Cli

RUN = ("+experiment=cam", *TINY)


def folders(outputs: Path, stage: str) -> list[Path]:
    return [path for path in (outputs / stage).iterdir() if (path / "DONE").is_file()]


def test_the_main_job_leaves_what_a_person_opens(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN) == 0
    latest = tmp_path / "outputs" / "latest"
    for name in ("boxes.json", "predictions.json", "metrics.json", "report/index.html",
                 "config.yaml"):  # fmt: skip
        assert (latest / name).is_file(), name
    assert latest.resolve().parent == (tmp_path / "outputs/runs/cam").resolve()

    data_set = COCO(str(latest / "predictions.json"))
    results = data_set.loadRes(str(latest / "boxes.json"))
    assert len(data_set.imgs) == 24
    assert min(data_set.imgs) == 1
    assert len({image["file_name"] for image in data_set.imgs.values()}) == 24
    assert len(results.anns) == len(data_set.anns) > 0
    for annotation in data_set.anns.values():
        x, y, w, h = annotation["bbox"]
        image = data_set.imgs[annotation["image_id"]]
        assert x >= 0 and y >= 0 and w > 0 and h > 0  # noqa: PT018
        assert x + w <= image["width"] + 0.01
        assert y + h <= image["height"] + 0.01
        assert 0 <= annotation["score"] <= 1

    records = json.loads((latest / "metrics.json").read_text())
    assert {"name", "value", "n", "iou", "threshold", "class"} <= set(records[0])
    headline = {(r["name"], r["iou"], (r["threshold"] or {}).get("kind")): r
                for r in records if r["class"] is None}  # fmt: skip
    for place in (("gt_known_loc", 0.5, "fixed"), ("gt_known_loc", 0.5, "oracle"),
                  ("top1_loc", 0.5, "fixed"), ("top5_loc", 0.7, "fixed"),
                  ("max_box_acc_v2", None, "oracle"), ("classification_top1", None, None),
                  ("full_image_loc", 0.5, None), ("centre_box_loc", 0.5, "oracle")):  # fmt: skip
        assert 0 <= headline[place]["value"] <= 1, place
    assert headline["gt_known_loc", 0.5, "fixed"]["n"] == 24
    assert headline["gt_known_loc", 0.5, "fixed"]["threshold"]["value"] == 0.2
    assert any(r["class"] == "heart" for r in records)

    page = (latest / "report/index.html").read_text()
    links = set(re.findall(r"(?:src|href)=\"([^\"]*)", page))
    links = {link for link in links if not link.startswith(("data:", "#"))}
    assert links == {f"../{name}" for name in PUBLISHED}


def test_what_is_done_is_kept_and_a_sweep_trains_and_explains_once(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "outputs"
    assert cli(*RUN) == 0
    first = (outputs / "latest/boxes.json").read_bytes()
    capsys.readouterr()
    assert cli(*RUN) == 0
    output = capsys.readouterr().out
    assert output.count(" kept ") == 7
    assert " made " not in output
    assert (outputs / "latest/boxes.json").read_bytes() == first

    assert cli("-m", *RUN, "segmenter.threshold=0.2,0.3,0.5") == 0
    assert [len(folders(outputs, s)) for s in ("train", "explain", "localize")] == [1, 2, 4]
    # Two of explain: the scored images, and the held-back ones that calibrate reads.
    assert not (tmp_path / "multirun").exists()
    assert len(list((outputs / "runs/cam").iterdir())) == 5

    assert cli(*RUN, "stages=[localize,evaluate,report]", "segmenter.threshold=0.4") == 0
    assert [len(folders(outputs, s)) for s in ("train", "explain", "localize")] == [1, 2, 5]


def test_a_stage_whose_upstream_is_missing_says_what_to_do(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*RUN, "stages=[localize]") == 2
    output = capsys.readouterr().err
    assert "stage train has no result" in output
    assert "stages=" in output


@pytest.mark.usefixtures("shared_results")
def test_several_methods_in_one_run(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, "explain.methods=[cam,cam_positive]", "outputs=elsewhere") == 0
    latest = tmp_path / "elsewhere/latest"
    assert not (tmp_path / "outputs").exists()
    assert (latest / "boxes.json").read_bytes() != (latest / "cam_positive/boxes.json").read_bytes()
    records = json.loads((latest / "metrics.json").read_text())
    assert records[0]["method"] == "cam"
    assert {r["method"] for r in records} == {"cam", "cam_positive"}
    assert len(folders(tmp_path / "elsewhere", "train")) == 1


@pytest.mark.usefixtures("shared_results")
def test_a_link_that_a_killed_run_left_is_removed(cli: Cli, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for name in ("old", "new"):
        (outputs / f".latest.{name}.tmp").symlink_to("nowhere")
    hours_ago = time.time() - 7200
    os.utime(outputs / ".latest.old.tmp", (hours_ago, hours_ago), follow_symlinks=False)
    assert cli(*RUN, "stages=[train]") == 0
    assert [path.name for path in outputs.glob(".latest*")] == [".latest.new.tmp"]


@pytest.mark.usefixtures("shared_results")
def test_targets(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, "explain.target=[true,predicted,top5]", "stages=[train,explain,localize]") == 0
    results = json.loads((tmp_path / "outputs/latest/boxes.json").read_text())
    each: dict[int, list[int]] = {}
    for record in results:
        each.setdefault(record["image_id"], []).append(record["category_id"])
    assert all(5 <= len(set(classes)) == len(classes) <= 6 for classes in each.values())
    assert cli(*RUN, "explain.target=star", "stages=[explain,localize]") == 0
    results = json.loads((tmp_path / "outputs/latest/boxes.json").read_text())
    assert len({record["category_id"] for record in results}) == 1


def test_a_folder_without_boxes(cli: Cli, folder_of_images: Path, tmp_path: Path) -> None:
    arguments = ("+experiment=cam", "data=folder", f"data.root={folder_of_images}", "data.size=64",
                 "train.epochs=2", "train.batch=8")  # fmt: skip
    assert cli(*arguments) == 0
    latest = tmp_path / "outputs/latest"
    records = json.loads((latest / "metrics.json").read_text())
    assert {r["name"] for r in records} == {"classification_top1", "classification_top5"}
    assert len(json.loads((latest / "boxes.json").read_text())) == 8

    # An image added is noticed; what it changes is made again.
    extra = folder_of_images / "val/red/new.png"
    extra.write_bytes((folder_of_images / "val/red/0.png").read_bytes())
    assert cli(*arguments) == 0
    assert len(json.loads((latest / "boxes.json").read_text())) == 9
    assert len(folders(tmp_path / "outputs", "train")) == 1
    explained = [json.loads((path / "cache_key.json").read_text())["split"]
                 for path in folders(tmp_path / "outputs", "explain")]  # fmt: skip
    assert explained.count("val") == 2


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("moment", [4.5])
def test_a_killed_run_goes_on_to_the_same_boxes(
    moment: float, cli: Cli, tmp_path: Path, undisturbed: bytes
) -> None:
    run = (*RUN, f"outputs={tmp_path / 'o'}")
    command = [sys.executable, "-m", "pipeline", *run]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as victim:
        time.sleep(moment)
        victim.send_signal(signal.SIGKILL)
    assert cli(*run) == 0
    assert (tmp_path / "o/latest/boxes.json").read_bytes() == undisturbed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    outputs = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pipeline", *RUN, f"outputs={outputs}"])
        main()
    return (outputs / "latest/boxes.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["segmenter.treshold=0.3"], ["segmenter.treshold=0.3", "did you mean 'threshold'"]),
        (["segmenter.threshold=abc"], ["segmenter.threshold=abc", "float"]),
        (["segmenter.threshold=1.5"], ["threshold=1.5", "from 0 to 1"]),
        (["train.epochz=3"], ["train.epochz", "did you mean 'train.epochs'"]),
        (["train.epochs=abc"], ["train.epochs=abc", "Integer"]),
        (["train.epochs=-1"], ["train.epochs=-1", "from 0"]),
        (["+train.foo=1"], ["train.foo", "choices"]),
        (["model=resnet"], ["model=resnet", "did you mean 'resnet50'"]),
        (["saliency=[cam,cam]"], ["one choice is expected", "explain.methods"]),
        (["model=[small,resnet18]"], ["one choice is expected", "-m model=small,resnet18"]),
        (["stages=[localise]"], ["unknown stage 'localise'", "did you mean 'localize'"]),
        (["data=folder"], ["data.root is missing", "data.root=..."]),
        (["data=folder", "data.root=/a=b"], ["Hydra's grammar", "\"data.root='/a=b'\""]),
        (["'model.classes=[a,b]'"], ["leave them away, as in model.classes=[a,b], or"]),
        (["data=folder", "data.root=/nope"], ["data.root=/nope", "no such folder"]),
        (["model=resnet18", "model.weights=/nope.pth"], ["model.weights=/nope.pth", "imagenet"]),
        (["model=mobilenet_v2", "model.stride=8"], ["model.stride=8", "32 or 16"]),
        (["model=squeezenet1_0", "model.stride=32"], ["model.stride=32", "stride of 16"]),
        (["precision=fp16"], ["precision=fp16", "did you mean 'bf16'"]),
        (["runtime.device=gpu"], ["runtime.device=gpu", "choices: auto, cpu"]),
        (["explain.target=fish"], ["explain.target=fish", "choices"]),
        (["explain.methods=[camm]"], ["no such method 'camm'", "did you mean 'cam'"]),
        (["explain.methods=cam"], ["explain.methods=cam", "list"]),
        (["data.size=abc"], ["data.size=abc"]),
        (["data.size=[1,2,3]"], ["data.size"]),
        (["foo=3"], ["foo: no such key", "choices"]),
        (["foo"], ["expected key=value"]),
        (["evaluate.ious=[0.5,7]"], ["evaluate.ious", "between 0 and 1"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_configuration_is_refused_at_start(
    arguments: list[str], parts: list[str], cli: Cli, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert cli("+experiment=cam", *arguments) == 2
    error = capsys.readouterr().err
    for part in parts:
        assert part in error
    assert "Traceback" not in error
    assert not (tmp_path / "outputs").exists(), "refused before anything is written"


def test_help_names_every_choice_and_option(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.engine.choices import list_choices
    from pipeline.engine.config import FAMILIES, RUNNER

    assert cli("--help") == 0
    output = capsys.readouterr().out
    for family in (*FAMILIES, RUNNER):
        for name in list_choices(family):
            assert name in output
    for option in (
        "data.root",
        "segmenter.threshold",
        "train.lr",
        "explain.target",
        "model.stride",
    ):
        assert option in output


def test_cfg_job_shows_every_default(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("+experiment=cam", "--cfg", "job") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["segmenter"]["threshold"] == "auto"
    assert shown["data"]["images"] == 3600


@pytest.mark.usefixtures("shared_results")
def test_a_sweep_ends_with_a_table(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("-m", *RUN, "segmenter.threshold=0.2,0.3") == 0
    table = capsys.readouterr().out.split("\n")[-4:]
    assert "MaxBoxAccV2" in table[0]
    assert table[1].startswith("segmenter.threshold=0.2 ")
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}, "no multirun.yaml beside it"


def test_without_an_experiment_it_says_what_there_is(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli() == 2
    assert "+experiment=cam" in capsys.readouterr().err


def test_offline_weights_say_what_to_do(
    cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from urllib.error import URLError

    import torch

    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cli(*RUN, "model=resnet18", "data.size=64") == 2
    error = capsys.readouterr().err
    assert "could not be downloaded" in error
    assert "model.weights=FILE" in error


def test_a_disk_that_cannot_be_written_gives_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*RUN, "outputs=/proc/nowhere") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "outputs=" in error
