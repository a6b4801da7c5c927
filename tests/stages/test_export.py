"""Stage export: formats of a run, also of one that is there already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import TINY, Cli

pytestmark = pytest.mark.usefixtures("shared_results")

RUN = ("+experiment=cam", *TINY, "stages=[train,explain,localize,rank]")


def test_the_boxes_of_a_run_are_exported(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*RUN) == 0
    run = Path("outputs/latest").resolve()
    wanted = json.loads((run / "predictions.json").read_text())
    assert cli("+experiment=export", "run=outputs/latest") == 0
    latest = Path("outputs/latest")
    assert latest.resolve() != run
    written = json.loads((latest / "exported/coco/predictions.json").read_text())
    assert [a["bbox"] for a in written["annotations"]] == [a["bbox"] for a in wanted["annotations"]]
    # outputs/latest is a run of export now, and leads to the run that has the boxes
    assert cli("+experiment=export", "run=outputs/latest") == 0
    assert "kept" in capsys.readouterr().out


def test_boxes_of_low_confidence_are_left_out_and_counted(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*RUN) == 0
    capsys.readouterr()
    assert cli("+experiment=export", "run=outputs/latest", "export.min_confidence=1") == 0
    assert "24 of 24 boxes have a confidence below 1" in capsys.readouterr().out
    written = json.loads(Path("outputs/latest/exported/coco/predictions.json").read_text())
    assert written["annotations"] == []
    assert len(written["images"]) == 24


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("run=nowhere",), "no folder of a run"),
        (("run=outputs/latest", "saliency=gradcam"), "has its own"),
        (("run=outputs/latest", "data.val_images=23"), "added, removed or changed"),
        (("run=outputs/latest", "export.formats=[coc]"), "coco"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(
    given: tuple[str, ...], message: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*RUN) == 0
    assert cli("+experiment=export", *given) == 2
    assert message in capsys.readouterr().err
