"""Links named latest in a sweep, and the run that is offered where the newest lacks something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.engine.latest import find_newest_run, read_latest_links, resolve_latest_links
from pipeline.errors import UserError
from tests.conftest import TINY, Cli

TRAIN = ("+experiment=cam", *TINY, "stages=[train,explain,localize,evaluate]")


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for run in ("a/1", "a/2"):
        (tmp_path / "outputs/runs" / run).mkdir(parents=True)
    point_to("outputs", "runs/a/1")
    return tmp_path / "outputs"


def point_to(outputs: str, run: str) -> None:
    link = Path(outputs, "latest")
    link.unlink(missing_ok=True)
    link.symlink_to(run)


def test_what_a_path_led_to_before_the_sweep(outputs: Path) -> None:
    Path("baseline").symlink_to("outputs/latest")
    Path("fixed").symlink_to("outputs/runs/a/1")
    values = {
        "checkpoint": "outputs/latest",
        "against": "baseline",
        "boxes": f"{outputs}/latest/boxes.json",
        "images": ["./outputs/latest/a.jpg", "fixed/b.jpg", "latest", ""],
        "data": {"root": "${checkpoint}/x", "_target_": "a.b"},
        "name": "latest",
        "seed": 3,
        "maps": None,
        "metadata": "???",
    }
    links = read_latest_links(["-m", "against=null,baseline", "seed=1,2"])
    point_to("outputs", "runs/a/2")
    config = OmegaConf.create(values)
    resolve_latest_links(config, links)
    assert OmegaConf.is_missing(config, "metadata")
    del config["metadata"]
    found = OmegaConf.to_container(config, resolve=True)
    assert found == {
        "checkpoint": "outputs/runs/a/1",
        "against": "outputs/runs/a/1",
        "boxes": f"{outputs}/runs/a/1/boxes.json",
        "images": ["outputs/runs/a/1/a.jpg", "fixed/b.jpg", "latest", ""],
        "data": {"root": "outputs/runs/a/1/x", "_target_": "a.b"},
        "name": "latest",
        "seed": 3,
        "maps": None,
    }


def test_a_link_of_another_folder_of_outputs(outputs: Path) -> None:
    outputs.rename("mine")
    links = read_latest_links(["outputs=mine", "'images=[a.jpg, mine/latest/b.jpg]'"])
    point_to("mine", "runs/a/2")
    config = OmegaConf.create({"against": "mine/latest"})
    resolve_latest_links(config, links)
    assert config["against"] == "mine/runs/a/1"


def test_a_run_that_was_not_there_before_the_sweep_is_refused(outputs: Path) -> None:
    (outputs / "latest").unlink()
    links = read_latest_links(["-m", "against=null,outputs/latest"])
    point_to("outputs", "runs/a/2")
    with pytest.raises(UserError, match="against=outputs/latest: there was no such run before"):
        resolve_latest_links(OmegaConf.create({"against": "outputs/latest"}), links)


def test_the_newest_run_that_has_a_file(outputs: Path) -> None:
    assert find_newest_run(outputs / "latest", ("f",)) is None
    (outputs / "runs/a/1/f").touch()
    assert find_newest_run(outputs / "latest", ("e", "f")) == Path("outputs/runs/a/1")
    assert find_newest_run(Path("outputs/none"), ("f",)) == Path("outputs/runs/a/1")
    assert find_newest_run(Path("/nowhere"), ("f",)) is None


@pytest.mark.usefixtures("shared_results")
def test_all_jobs_of_a_sweep_are_compared_with_the_run_before(cli: Cli, tmp_path: Path) -> None:
    assert cli(*TRAIN, "segmenter.threshold=0.2") == 0
    before = (tmp_path / "outputs/latest").resolve()
    sweep = ("-m", *TRAIN, "segmenter.threshold=0.4,0.5", "against=outputs/latest")
    assert cli(*sweep, "name=job") == 0
    jobs = sorted((tmp_path / "outputs/runs/job").iterdir())
    assert len(jobs) == 2
    for job in jobs:
        (comparison,) = json.loads((job / "comparison.json").read_text())
        assert comparison["a"] == "/".join(before.parts[-2:])
    network = (before / "stages/train").resolve()
    explain = ("-m", "+experiment=cam", *TINY, "checkpoint=outputs/latest", "name=again")
    assert cli(*explain, "segmenter.threshold=0.3,0.6", "stages=[explain,localize]") == 0
    for job in (tmp_path / "outputs/runs/again").iterdir():
        assert (job / "stages/train").resolve() == network
        assert f"checkpoint: {jobs[-1]}\n" in (job / "config.yaml").read_text()


@pytest.mark.usefixtures("shared_results")
def test_a_run_without_a_network_names_the_newest_that_has_one(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.json").write_text("[]")
    boxes = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
    whole = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, **boxes}],
    }
    (tmp_path / "a.json").write_text(json.dumps(whole))
    evaluate = ("+experiment=evaluate", "boxes=b.json", "annotations=a.json")
    predict = ("+experiment=predict", "checkpoint=outputs/latest", "images=x.jpg")
    assert cli(*evaluate) == 0
    assert cli(*predict) == 2
    error = capsys.readouterr().err
    assert "checkpoint=outputs/latest: this run has no network" in error
    assert "+experiment=cam trains one" in error
    assert cli(*TRAIN, "stages=[train]") == 0
    trained = (tmp_path / "outputs/latest").resolve().relative_to(tmp_path)
    assert cli(*evaluate) == 0
    capsys.readouterr()
    assert cli(*predict) == 2
    assert f"the newest run that has one: checkpoint={trained}" in capsys.readouterr().err


def test_the_newest_run_is_found_from_the_folder_of_outputs(outputs: Path) -> None:
    (outputs / "runs/a/1/card.json").touch()
    for near in (outputs, outputs / "latest", outputs / "runs/a/2", outputs / "none"):
        assert find_newest_run(near, ["card.json"]) == Path("outputs/runs/a/1")
