"""Sections of the page about other stages: their findings, numbers and pictures are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import TINY, Cli

pytestmark = pytest.mark.usefixtures("shared_results")

STAGES = "stages=[check,train,explain,localize,evaluate,audit,inspect,report]"


def test_check_audit_and_inspect_have_their_sections(cli: Cli, tmp_path: Path) -> None:
    arguments = ("explain.methods=[cam,cam_positive]", "audit.images=4", "audit.few=2",
                 "audit.tests=[faithfulness]", "inspect.views=[filters]")  # fmt: skip
    assert cli("+experiment=cam", *TINY, STAGES, *arguments) == 0
    latest = tmp_path / "outputs/latest"
    text = (latest / "report/index.html").read_text(encoding="utf-8")
    (model,) = re.findall(r'id="view-model">(.*?)</script>', text)
    check, audit, inspect = json.loads(model)["sections"]
    summary = json.loads((latest / "check.json").read_text())
    assert check["rows"] == [[f["severity"], f["text"], f["remedy"]] for f in summary["findings"]]
    assert f"{summary['images']} images" in check["sentence"]
    assert audit["head"] == ["test", "good", "cam", "cam_positive", "n"]
    numbers = json.loads((latest / "audit.json").read_text())
    assert len(audit["rows"]) == len({n["name"] for n in numbers[0]["numbers"] if not n["part"]})
    by_title = {row[0]: row for row in audit["rows"]}
    drop = next(n for n in numbers[1]["numbers"] if n["name"] == "average_drop")
    assert by_title["average drop"][3].startswith(f"{drop['value']:z.2f} (")
    for section in (check, audit, inspect):
        assert section["pictures"], section["key"]
        assert all(picture["width"] <= 960 for picture in section["pictures"])
        assert f'id="{section["key"]}"' in text
        assert (latest / "report" / section["link"]).exists()


def test_a_run_of_audit_alone_has_its_page(cli: Cli, tmp_path: Path) -> None:
    arguments = ("audit.images=4", "audit.few=2", "audit.tests=[faithfulness]")
    stages = "stages=[train,explain,audit,report]"
    assert cli("+experiment=audit", *TINY, stages, *arguments) == 0
    text = (tmp_path / "outputs/latest/report/index.html").read_text(encoding="utf-8")
    (model,) = re.findall(r'id="view-model">(.*?)</script>', text)
    model = json.loads(model)
    assert [section["key"] for section in model["sections"]] == ["audit"]
    assert model["sections"][0]["rows"]
    assert model["title"] == "audit: cam on shapes"
    assert any("small" in fact for fact in model["facts"])
    assert model["images"] == []
    assert "it shows what stage audit found" in model["unmeasured"]
    command = model["unmeasured"].partition("To add them: ")[2]
    assert command.startswith("python -m pipeline +experiment=audit 'stages=[")
    (listed,) = re.findall(r"stages=\[(.*?)\]", command)
    needed = {"train", "explain", "localize", "evaluate", "audit", "report"}
    assert set(listed.split(",")) == needed

    # The command that the page names adds the rest.
    assert cli("+experiment=audit", *TINY, f"stages=[{listed}]", *arguments) == 0
    text = (tmp_path / "outputs/latest/report/index.html").read_text(encoding="utf-8")
    (model,) = re.findall(r'id="view-model">(.*?)</script>', text)
    assert len(json.loads(model)["images"]) == 24
    assert [section["key"] for section in json.loads(model)["sections"]] == ["audit"]


def test_a_run_of_check_alone_has_its_page(cli: Cli, tmp_path: Path) -> None:
    assert cli("+experiment=check", *TINY, "check.stop=false", "stages=[check,report]") == 0
    text = (tmp_path / "outputs/latest/report/index.html").read_text(encoding="utf-8")
    assert "<h1>check on shapes</h1>" in text
    assert "24 images (val)" in text
    assert 'id="check"' in text
    assert "it shows what stage check found" in text
