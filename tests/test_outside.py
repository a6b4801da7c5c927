"""Choices of each family and a stage that are not part of the package run by their names.

A folder of YAMLs laid out as conf/ is, and a module beside it: nothing of the package is edited.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.engine.choices import EXTRA_FOLDER
from tests.conftest import ROOT, TINY, Cli

MODULE = "outside_module"
SOURCE = (ROOT / "tests/outside_example.py").read_text(encoding="utf-8")
CHOICES = {
    "saliency/mine": "MeanFeature",
    "segmenter/mine": "Frame",
    "data/mine": "AnnotatedStripes",
    "data/unannotated": "Stripes",
    "objective/mine": "Squared",
    "model/mine": "Narrow",
    "metric/mine": "Distance",
    "audit/mine": "Brightness",
    "visualize/mine": "Weights",
    "exporter/mine": "Lines",
    "stage/mine": "Count",
}
EXPERIMENT = """# @package _global_
# Stripes, with a method of mine
defaults:
  - override /data: mine
  - override /saliency: mine

name: stripes
stages: [train, explain, localize]
"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module, choices/ and, once something was run, outputs/."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / f"{MODULE}.py").write_text(SOURCE, encoding="utf-8")
    for choice, target in CHOICES.items():
        path = folder / "choices" / f"{choice}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# From outside\n_target_: {MODULE}.{target}\n", encoding="utf-8")
    experiment = folder / "choices/experiment/stripes.yaml"
    experiment.parent.mkdir()
    experiment.write_text(EXPERIMENT, encoding="utf-8")
    return folder


@pytest.fixture
def run(cli: Cli, outside: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run `python -m pipeline --config-dir choices ...` in the folder of the module."""
    monkeypatch.chdir(outside)
    monkeypatch.setenv(EXTRA_FOLDER, "")  # what the command sets ends with the test
    monkeypatch.setattr(sys, "path", [*sys.path])

    def with_folder(*arguments: str) -> int:
        return cli("--config-dir", "choices", *arguments)

    return with_folder


CAM = ("+experiment=cam", *TINY, "data.held_back=0.3", "model.width=4")
STRIPES = ("+experiment=cam", "data=mine", "model.width=4", "train.epochs=1", "train.batch=12")


def read(name: str) -> Any:
    return json.loads(Path("outputs/latest", name).read_text(encoding="utf-8"))


def test_method_segmenter_metric_exporter_and_stage(
    run: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = "train,explain,calibrate,localize,evaluate,export,mine"
    assert run(*CAM, "explain.methods=[cam,mine]", "segmenter=mine",
               "segmenter.threshold=validation", "export.formats=[coco,mine]", "mine.option=3",
               f"stages=[{stages}]") == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert "centre distance, pixels" in shown
    assert "counted up: 72" in shown
    records = read("metrics.json")
    by_method = {r["method"]: r for r in records if r["name"] == "centre_distance" and
                 r["class"] is None}  # fmt: skip
    assert {*by_method} == {"cam", "mine"}
    assert by_method["cam"]["value"] != by_method["mine"]["value"]
    used = {(r["threshold"] or {}).get("kind") for r in records if r["name"] == "mean_iou"}
    assert used == {"validation"}
    assert "centre distance, pixels" in Path("outputs/latest/stages/evaluate/table.txt").read_text()
    (pair,) = read("comparison.json")
    (own,) = [d for d in pair["differences"] if d["title"] == "centre distance"]
    assert own["headline"]
    assert own["record"]["name"] == "difference:centre_distance"
    assert any("centre distance" in sentence for sentence in pair["sentences"])
    assert Path("outputs/latest/exported/mine/boxes.txt").read_text().count("\n") == 23
    assert Path("outputs/latest/mine/exported/mine/boxes.txt").is_file()
    assert list(Path("outputs/latest/exported/coco").iterdir())
    assert read("counted/count.json") == 72


def test_what_is_done_is_kept_and_an_argument_makes_another_result(
    run: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = (*CAM, "saliency=mine", "segmenter=mine", "segmenter.threshold=0.4",
             "stages=[train,explain,localize,mine]")  # fmt: skip
    assert run(*plain) == 0
    capsys.readouterr()
    assert run(*plain) == 0
    assert " made " not in capsys.readouterr().out
    assert run(*plain, "saliency.power=2") == 0
    shown = capsys.readouterr().out
    assert "explain    made" in shown
    assert "train      kept" in shown
    assert run(*plain, "saliency.powr=2") == 2
    assert "did you mean 'power'" in capsys.readouterr().err


def test_data_set_objective_and_network(run: Cli) -> None:
    assert run(*STRIPES, "objective=mine", "objective.weight=2", "model=mine") == 0
    card = json.loads(Path("outputs/latest/stages/train/card.json").read_text())
    assert card["objective"] == {"_target_": f"{MODULE}.Squared", "weight": 2.0}
    assert card["model"]["_target_"] == f"{MODULE}.Narrow"
    assert card["classes"] == ["level", "upright"]
    records = read("metrics.json")
    (headline,) = [r for r in records if r["name"] == "gt_known_loc" and r["class"] is None
                   and r["iou"] == 0.5 and r["threshold"]["kind"] == "auto"]  # fmt: skip
    assert headline["n"] == 8
    page = Path("outputs/latest/report/index.html").read_text()
    assert "stripes are drawn" in page
    assert "data=mine model=mine saliency=cam" in page


def test_checkpoint_is_used_again_with_its_method(run: Cli, outside: Path, paint: Any) -> None:
    paint(outside / "photos/1.png")
    assert run("+experiment=stripes", "model.width=4", "train.epochs=0", "objective=mine") == 0
    trained = str(Path("outputs/latest").resolve())
    assert run("+experiment=predict", f"checkpoint={trained}", "images=photos") == 0
    settings = yaml.safe_load(Path("outputs/latest/config.yaml").read_text())
    assert settings["saliency"]["_target_"] == f"{MODULE}.MeanFeature"
    assert run("+experiment=cam", "data=mine", f"checkpoint={trained}") == 0


def test_data_set_without_annotations(run: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*STRIPES, "data=unannotated") == 0
    assert {r["name"] for r in read("metrics.json")} <= {"classification_top1",
                                                         "classification_top5"}  # fmt: skip
    assert run(*STRIPES, "data=unannotated", "segmenter.threshold=validation") == 2
    assert "boxes" in capsys.readouterr().err


def test_test_of_maps_and_view(run: Cli) -> None:
    assert run("+experiment=audit", *CAM[1:], "audit.images=4", "audit.few=2", "audit.steps=3",
               "audit.tests=[mine]") == 0  # fmt: skip
    (audit,) = read("audit.json")
    assert [(r["test"], r["value"]) for r in audit["numbers"]] == [("mine", 3.0)]
    trained = str(Path("outputs/latest").resolve())
    assert run("+experiment=inspect", f"checkpoint={trained}", "inspect.views=[mine]") == 0
    assert Path("outputs/latest/inspected/mine.png").is_file()
    assert read("inspected/mine.json") == {"n": 1}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["mine.option=10"], ["mine.option=10", "from 1 to 9"]),
        (["mine.option=two"], ["mine.option=two", "Integer"]),
        (["mine.way=sideways"], ["mine.way=sideways", "choices: down, up"]),
        (["mine.optoin=3"], ["mine.optoin", "did you mean 'mine.option'"]),
        (["saliency=mina"], ["saliency=mina", "did you mean 'mine'"]),
        (["export.formats=[mina]"], ["no such format 'mina'", "did you mean 'mine'"]),
        (["stages=[mina]"], ["unknown stage 'mina'", "did you mean 'mine'"]),
        (["saliency._target_=outside_module.Nothing"], ["cannot be imported", "Nothing"]),
        (["objective._target_=pipeline.model.small.Small"],
         ["objective/NAME.yaml", "--config-dir"]),
    ],
    ids=lambda value: " ".join(value) if len(value) < 3 else "",
)  # fmt: skip
def test_wrong_values_are_refused(
    arguments: list[str], parts: list[str], run: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*CAM, *arguments) == 2
    error = capsys.readouterr().err
    for part in parts:
        assert part in error


def test_help_lists_what_comes_from_outside(run: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for part in (
        "stripes        Stripes, with a method of mine",
        "saliency.power: float = 1.0",
        "segmenter.threshold: float | str = 0.5",
        "data.width: int = 8",
        "objective.weight: float = 1.0",
        "times: float = 1.0",
        "times: int = 4",
        "separator: str = ','",
        "mine.option = 2  # what each image counts",
        "mine.way = up  # up | down",
    ):
        assert part in shown, part
    (stages,) = [line for line in shown.split("\n") if line.startswith("stages=[")]
    assert "evaluate" in stages.partition(",mine")[0]
    for family in ("metric", "audit", "visualize", "exporter"):
        assert [line for line in shown.split("\n") if "mine" in line.strip().split(", ")], family


def test_config_dir_may_stand_anywhere(run: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """Also between overrides; and a folder that is not there is refused."""
    assert run("saliency=mine", "--config-dir", "choices", *CAM, "--cfg", "job") == 0
    assert yaml.safe_load(capsys.readouterr().out)["saliency"]["power"] == 1.0
    assert run(*CAM, "--config-dir=nowhere") == 2
    assert "--config-dir nowhere: no such folder" in capsys.readouterr().err


def test_cfg_job_shows_the_options_of_the_stage(
    run: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*CAM, "mine.option=4", "saliency=mine", "--cfg", "job") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["mine"] == {"way": "up", "option": 4}
    assert shown["saliency"] == {"_target_": f"{MODULE}.MeanFeature", "power": 1.0}


def test_class_without_a_yaml(
    cli: Cli, outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(outside)
    monkeypatch.setattr(sys, "path", [*sys.path])
    target = f"saliency._target_={MODULE}.MeanFeature"
    run = (*CAM, "stages=[train,explain,localize,evaluate]")
    assert cli(*run, target, "saliency.power=2") == 0
    assert {r["method"] for r in read("metrics.json")} == {MODULE}
    assert cli(*run, target, "explain.methods=[cam,gradcam]") == 2
    assert "explain.methods=[]" in capsys.readouterr().err


# -- other processes -----------------------------------------------------------------------------


def test_two_devices_find_module_and_folder(run: Cli) -> None:
    quick = ("+experiment=stripes", "model.width=4", "train.epochs=0", "runtime.device=cpu",
             "runtime.shard=2")  # fmt: skip
    assert run(*quick, "saliency.power=3", "stages=[train]") == 0
    assert run(*quick, "saliency.power=3", "stages=[explain]", "runtime.devices=2") == 0
    assert len(list(Path("outputs/latest/stages/explain").glob("shard-*"))) == 4


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != EXTRA_FOLDER}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run_process(command: list[str], arguments: list[str], folder: Path) -> str:
    """Run a command in a folder that holds nothing but the module; return what it printed."""
    (folder / f"{MODULE}.py").write_text(SOURCE, encoding="utf-8")
    done = subprocess.run([sys.executable, *command, *arguments], cwd=folder, env=environment(),
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_process_of_its_own(outside: Path, tmp_path: Path) -> None:
    arguments = ["--config-dir", str(outside / "choices"), *CAM, "train.epochs=0", "saliency=mine",
                 "stages=[train,explain,localize,mine]"]  # fmt: skip
    assert "counted up: 48" in run_process(["-m", "pipeline"], arguments, tmp_path)
    assert (tmp_path / "outputs/latest/boxes.json").is_file()


def test_console_script_finds_the_module_in_the_current_folder(tmp_path: Path) -> None:
    """The command label2box, which does not begin with the current folder on its path."""
    script = "import sys; sys.path.pop(0); from pipeline.__main__ import main; main()"
    arguments = [*CAM, f"saliency._target_={MODULE}.MeanFeature", "--cfg", "job"]
    assert "power: 1.0" in run_process(["-c", script], arguments, tmp_path)
