"""Stage audit, end to end on the tiny embedded set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.audit.composite import Composite
from pipeline.audit.faithfulness import Faithfulness
from pipeline.audit.fragility import Fragility
from pipeline.audit.infidelity import Infidelity
from pipeline.audit.input_shift import InputShift
from pipeline.audit.max_sensitivity import MaxSensitivity
from pipeline.audit.region_flipping import RegionFlipping
from pipeline.audit.sanity import Sanity
from pipeline.engine import store
from pipeline.engine.choices import list_choices
from pipeline.results.shards import shard_path
from pipeline.stages.audit import auditing
from pipeline.types import AuditBatch, AuditSubject
from tests.conftest import TINY, Cli

AUDIT_TESTS = list_choices("audit")
CLASSES: dict[str, Any] = {
    "faithfulness": Faithfulness,
    "region_flipping": RegionFlipping,
    "infidelity": Infidelity,
    "composite": Composite,
    "max_sensitivity": MaxSensitivity,
    "sanity": Sanity,
    "input_shift": InputShift,
    "fragility": Fragility,
}

SMALL = ("audit.images=6", "audit.few=5", "audit.steps=3", "audit.layers=3",
         "audit.attack_steps=5", "audit.samples=3")  # fmt: skip
LATEST = Path("outputs/latest")


def numbers(path: Path = LATEST / "audit.json") -> list[dict[str, Any]]:
    return list(json.loads(path.read_text()))


@pytest.mark.usefixtures("shared_results")
def test_from_labels_to_the_table(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("+experiment=audit", *TINY, *SMALL, "explain.methods=[gradient,gradcam]")
    assert cli(*command) == 0
    out = capsys.readouterr().out
    for title in ("deletion, area", "head random: SSIM", "input shift", "attack: IoU of the boxes"):
        assert title in out
    assert (LATEST / "audit.txt").read_text() in out
    audits = numbers()
    assert [audit["method"] for audit in audits] == ["gradient", "gradcam"]
    for audit in audits:
        assert audit["computed"]["device"] in ("cpu", "cuda", "mps")
        assert set(audit["computed"]["versions"]) >= {"label2box", "torch"}
    last = f"{audits[0]['computed']['precision']} on {audits[0]['computed']['device']}; label2box "
    assert (LATEST / "audit.txt").read_text().splitlines()[-1].startswith(last)
    assert (LATEST / "stages/audit/audit.txt").read_text().splitlines()[-1].startswith(last)
    records = {(r["test"], r["name"], r["part"]): r for r in audits[0]["numbers"]}
    assert {test for test, _, _ in records} == set(AUDIT_TESTS)
    for (test, _, _), record in records.items():
        assert record["n"] == (5 if CLASSES[str(test)].is_costly else 6)
        low, high = record["interval"]
        assert low - 1e-9 <= record["value"] <= high + 1e-9
    assert records["sanity", "cascading_ssim", "head"]["value"] == pytest.approx(
        records["sanity", "head_ssim", None]["value"]
    )
    for stage in ("audit", "audit-gradcam"):
        for test in AUDIT_TESTS:
            picture = Image.open(LATEST / "stages" / stage / "pictures" / f"{test}.png")
            assert picture.width > 1000
            assert np.asarray(picture).std() > 5
    images = json.loads((LATEST / "stages/audit/images.json").read_text())
    assert len(images) == 6
    mean = np.mean([image["faithfulness"]["deletion"] for image in images])
    value = records["faithfulness", "deletion", None]["value"]
    assert mean == pytest.approx(value, abs=1e-5)

    assert cli(*command) == 0
    assert "audit (gradient) kept" in capsys.readouterr().out


@pytest.mark.usefixtures("shared_results")
def test_how_work_is_spread_changes_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("+experiment=audit", *TINY, *SMALL, "saliency=gradcam", "runtime.device=cpu")
    assert cli(*few, "runtime.workers=0") == 0
    (first,) = numbers()
    monkeypatch.setattr(auditing, "PIECE", 2)
    assert cli(*few, "runtime.workers=2", "outputs=elsewhere") == 0
    (second,) = numbers(Path("elsewhere/latest/audit.json"))
    for a, b in zip(first["numbers"], second["numbers"], strict=True):
        assert a["value"] == pytest.approx(b["value"], abs=2e-4), a["name"]


@pytest.mark.usefixtures("shared_results")
def test_a_killed_run_goes_on(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = ("+experiment=audit", *TINY, *SMALL, "saliency=gradcam")
    assert cli(*few) == 0
    (folder,) = (tmp_path / "outputs/audit").iterdir()
    before = (folder / "audit.json").read_text()
    (folder / "DONE").unlink()
    shard_path(folder / "fragility", 1).unlink()
    ran = []
    for name, kind in CLASSES.items():

        def watched(
            self: Any, subject: AuditSubject, batch: AuditBatch, call=kind.__call__, name=name
        ) -> dict[str, np.ndarray]:
            ran.append((name, len(batch.positions)))
            return call(self, subject, batch)

        monkeypatch.setattr(kind, "__call__", watched)
    assert cli(*few) == 0
    assert ran == [("fragility", 1)]
    assert (folder / "audit.json").read_text() == before
    assert store.is_done(folder)


def test_beside_the_localization_score(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    stages = "stages=[train,explain,localize,evaluate,audit]"
    assert cli("+experiment=cam", *TINY, *SMALL, stages, "audit.tests=[input_shift]") == 0
    out = capsys.readouterr().out
    assert "GT-known Loc @0.5, fixed" in out
    assert "input shift: the map moves by" in out
    assert "deletion" not in out


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("audit.tests=[sanitty]", "did you mean 'sanity'"),
        ("audit.tests=[]", "name at least one"),
        ("audit.images=0", "expected a number from 1"),
        ("audit.step=3", "did you mean 'audit.steps'"),
    ],
)
def test_what_cannot_be_is_refused(
    wrong: str, message: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("+experiment=audit", wrong) == 2
    assert message in capsys.readouterr().err


def test_a_set_whose_first_layer_takes_no_shift_is_told(
    cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InputShift, "refusal", lambda self, subject: "no")
    assert cli("+experiment=audit", *TINY, *SMALL, "audit.tests=[input_shift,sanity]",
               "saliency=gradcam") == 0  # fmt: skip
    assert "input_shift: not done; no" in capsys.readouterr().out
    (audit,) = numbers()
    assert audit["notes"] == ["input_shift: not done; no"]
    assert {r["test"] for r in audit["numbers"]} == {"sanity"}


def test_images_that_cannot_be_read_are_counted_once_by_each_stage(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder_of_images / "val/blue/2.png").write_bytes(b"broken")
    data = ("data=folder", f"data.root={folder_of_images}", "data.size=32", "train.epochs=1")
    stages = ("stages=[train,audit,inspect]", "audit.tests=[input_shift]", "inspect.views=[top5]")
    assert cli("+experiment=cam", *data, "train.batch=8", *stages) == 0
    notes = [line for line in capsys.readouterr().out.split("\n") if line.startswith("note: ")]
    assert notes == [
        "note: audit: 1 of 8 images could not be read and were not tested; repair or remove them",
        "note: inspect: 1 of 8 images could not be read and are in no picture; repair or remove "
        "them",
    ]


def test_images_are_chosen_evenly() -> None:
    assert auditing.select_positions(100, 8, None) == [0, 12, 25, 37, 50, 62, 75, 87]
    assert auditing.select_positions(100, 8, 3) == [0, 25, 62]


def test_a_method_within_another_that_looks_at_training_images_first(cli: Cli) -> None:
    few = ("+experiment=audit", *TINY, *SMALL, "saliency=ddt", "explain.flips=true")
    assert cli(*few, "audit.tests=[input_shift]") == 0
    assert {number["method"] for number in numbers()} == {"ddt"}
